"""From data to the exported model, in one command.

    python build.py --data DATA --weights MINILM --work WORK --out ../models/podium-mini

Runs states.py, gate.py, features.py, train.py, export.py, measure.py and card.py one after the other. A stage whose
result lies in WORK is skipped, and training goes on from its last checkpoint, so a run that was killed is
started again with the same command.

`--smoke` runs every stage in minutes, on a small part of the data and with few steps. Its model is worth nothing: it
is written to WORK/model, its golden values to WORK/golden.json.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Size:
    """How much the stages do: written instructions of the gate, its steps, queries of each set that are tried under
    the profiles; steps of the wish if they are not the caller's."""

    wordings: str
    gate_steps: str
    profiled: str
    steps: str = ""


FULL = Size(wordings="5000", gate_steps="1600", profiled="40")
SMOKE = Size(wordings="200", gate_steps="20", profiled="2", steps="20")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="the folder of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, help="the exported model; required without --smoke")
    parser.add_argument("--lexical", type=Path, default=HERE.parent / "models/podium-nano/lexical.safetensors")
    parser.add_argument("--golden", type=Path, default=HERE.parent / "tests/fixtures/podium_mini.json")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, default=2, help="how many wishes are trained, with seeds from --seed on")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--smoke", action="store_true")
    options = parser.parse_args()
    if not (options.out or options.smoke):
        parser.error("--out is missing")
    options.work.mkdir(parents=True, exist_ok=True)
    given = {name: str(value) for name, value in vars(options).items()}
    size = SMOKE if options.smoke else FULL
    if options.smoke:
        given |= {"out": str(options.work / "model"), "golden": str(options.work / "golden.json"), "steps": size.steps}

    def stage(script: str, *names: str, **extra: str) -> None:
        wanted = {name: given[name] for name in names} | extra
        arguments = [part for name, value in wanted.items() for part in (f"--{name.replace('_', '-')}", value)]
        print(script, *arguments, flush=True)
        subprocess.run([sys.executable, str(HERE / script), *arguments], check=True)

    if options.smoke:
        sample = options.work / "data"
        if not (sample / "complete").exists():
            stage("sample.py", "data", out=str(sample))
        given["data"] = str(sample)
    stage("states.py", "data", "weights", "work", "device", wordings=size.wordings)
    if not (options.work / "gate.safetensors").exists():
        stage("gate.py", "data", "work", "seed", steps=size.gate_steps)
    if not (options.work / "features.complete").exists():
        stage("features.py", "data", "weights", "work", "lexical")
    for number in range(options.seed, options.seed + options.members):
        stage("train.py", "data", "work", "steps", "device", seed=str(number))
    stage("export.py", "weights", "work", "lexical", "out", "seed", "members")
    profiles = str(HERE.parent / "prompts/instructions.toml")
    stage("measure.py", "data", "weights", "work", "lexical", profiles=profiles, profiled=size.profiled, model=given["out"])
    stage("export.py", "weights", "work", "lexical", "out", "seed", "members", "golden")
    stage("card.py", "work", "out", "seed", "members", profiled=size.profiled)


if __name__ == "__main__":
    main()
