"""From data to the exported model, in one command.

    python build.py --data DATA --weights MINILM --work WORK --out ../models/podium-mini

Runs states.py, gate.py, features.py, train.py, export.py, measure.py and card.py one after the other. A stage whose
result lies in WORK is skipped, and training goes on from its last checkpoint, so a run that was killed is
started again with the same command.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--weights", type=Path, required=True, help="the folder of all-MiniLM-L6-v2")
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--lexical", type=Path, default=HERE.parent / "models/podium-nano/lexical.safetensors")
    parser.add_argument("--golden", type=Path, default=HERE.parent / "tests/fixtures/podium_mini.json")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, default=2, help="how many wishes are trained, with seeds from --seed on")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    given = {name: str(value) for name, value in vars(options).items()}

    def stage(script: str, *names: str, **extra: str) -> None:
        wanted = {name: given[name] for name in names} | extra
        arguments = [part for name, value in wanted.items() for part in (f"--{name}", value)]
        print(script, *arguments, flush=True)
        subprocess.run([sys.executable, str(HERE / script), *arguments], check=True)

    stage("states.py", "data", "weights", "work", "device")
    if not (options.work / "gate.safetensors").exists():
        stage("gate.py", "data", "work", "seed")
    if not (options.work / "features.npz").exists():
        stage("features.py", "data", "weights", "work", "lexical")
    for number in range(options.seed, options.seed + options.members):
        stage("train.py", "data", "work", "steps", "device", seed=str(number))
    stage("export.py", "weights", "work", "lexical", "out", "seed", "members")
    profiles = str(HERE.parent / "prompts/instructions.toml")
    stage("measure.py", "data", "weights", "work", "lexical", profiles=profiles, profiled="40", model=given["out"])
    stage("export.py", "weights", "work", "lexical", "out", "seed", "members", "golden")
    stage("card.py", "work", "out", "seed", "members", profiled="40")


if __name__ == "__main__":
    main()
