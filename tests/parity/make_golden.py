"""Builds the parity fixtures: tiny random checkpoints and what transformers computes with them.

    pip install -r tests/parity/requirements.txt
    python tests/parity/make_golden.py                 # everything, into tests/parity/fixtures
    python tests/parity/make_golden.py podium-nano     # only the named cases

The fixtures are committed, so nothing but a change of them needs Python. The cross-encoders' are made with
`requirements-encoders.txt` instead, because sentence-transformers needs a newer transformers.
"""

import argparse
import time
from pathlib import Path

import torch
from golden import colbert_cases, encoder_cases, family_cases, nano_case, runtime_cases, sequence_cases

HERE = Path(__file__).resolve().parent


def main() -> None:
    cases = {name: runtime_cases.make_runtime_case for name in runtime_cases.SHAPES}
    cases |= {name: sequence_cases.make_sequence_case for name in sequence_cases.SHAPES}
    cases |= {name: family_cases.make_family_case for name in family_cases.SHAPES}
    cases |= {name: encoder_cases.make_encoder_case for name in encoder_cases.NAMES}
    cases |= {name: colbert_cases.make_colbert_case for name in colbert_cases.SHAPES}
    cases["podium-nano"] = nano_case.make_nano_case
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("cases", nargs="*", metavar="CASE", help=f"all, or some of: {', '.join(cases)}")
    wanted = parser.parse_args().cases or list(cases)
    if unknown := set(wanted) - set(cases):
        parser.error(f"no such case: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)  # the same sums in the same order everywhere
    for name in wanted:
        began = time.monotonic()
        cases[name](HERE / "fixtures", name)
        size = sum(file.stat().st_size for file in (HERE / "fixtures" / name).rglob("*"))
        print(f"{name}: {size / 1024:.0f} KiB in {time.monotonic() - began:.1f} s")


if __name__ == "__main__":
    main()
