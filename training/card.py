"""Writes the model card from card.md and the figures that measure.py left.

    python card.py --work WORK --out ../models/podium-mini [--seed 1] [--profiled 40]
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import load_file

from data import EVAL_SETS
from features import read_features

NANO = {"noveleval": 0.728, "cranfield": 0.401, "npl": 0.390, "feedbackqa-cdc": 0.675, "qed-dev": 0.902}


def row(*cells: object) -> str:
    return "| " + " | ".join(map(str, cells)) + " |"


def short(value: float) -> str:
    """.123 for 0.123."""
    return f"{value:.3f}".replace("0.", ".", 1)


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def relevance_table(figures: dict) -> str:
    lines = [row("", *EVAL_SETS, "mean"), row(*["---"] * 7)]
    for system, sets in figures["relevance"].items():
        cells = [f"{short(m)} [{short(a)}, {short(b)}]" for m, a, b in (sets[n] for n in EVAL_SETS)]
        lines.append(row(system, *cells, f"**{short(float(np.mean([sets[n][0] for n in EVAL_SETS])))}**"))
        if system == "BM25":
            lines.append(row("podium-nano", *[short(NANO[n]) for n in EVAL_SETS], f"**{short(float(np.mean(list(NANO.values()))))}**"))
    return "\n".join(lines)


def instruction_tables(figures: dict) -> str:
    found, ece = figures["instructions"], figures["ece"]
    lines = [
        "Validation slates with instructions (groups that training did not see; most wordings are new too), share with a",
        "document of the highest grade first:",
        "",
        row("kind", "slates", "with", "without", "gate above 0"),
        row(*["---"] * 5),
    ]
    for kind, cells in found["kinds"].items():
        lines.append(row(kind, cells["slates"], short(cells["with"]), short(cells["without"]), short(cells["gate above 0"])))
    for name in ("deciding", "preference"):
        lines.append(row(f"**all {name}**", "", short(found[name]["with"]), short(found[name]["without"]), ""))
    twins, harm, neutral = found["twins all right"], found["harm"], found["neutral"]
    lines.append(row("**twins, all right**", twins["groups"], short(twins["with"]), short(twins["without"]), ""))
    lines += [
        "",
        f"- **Neutral instructions** ({neutral['slates']} validation slates): the first document is unchanged in"
        f" {percent(neutral['first unchanged'])}, every relevance score within .02 in {percent(neutral['relevance within .02'])}.",
        f"- **Harm** (slates that an instruction makes worse by more than .05 nDCG@10): neutral {percent(harm['neutral'])},"
        f" deciding {percent(harm['deciding'])}, preference {percent(harm['preference'])}.",
        f"- **Order**: Kendall's tau between input orders is {figures['order']['mean']:.4f} in the mean, {figures['order']['least']:.4f} at the least.",
        "- **Calibration** (expected calibration error, ten bins), without instruction / the highest under a profile: "
        + ", ".join(f"{n} {short(ece['without'][n])} / {short(ece['highest under a profile'][n])}" for n in EVAL_SETS)
        + f"; deciding validation slates {short(ece['deciding validation slates'])}.",
    ]
    return "\n".join(lines)


def profile_table(figures: dict) -> str:
    lines = [row("instruction", "gate", *EVAL_SETS), row(*["---"] * 7)]
    for name, cells in figures["profiles"].items():
        lines.append(row(name, short(cells["gate"]), *[f"{cells[n]['change']:+.3f}" for n in EVAL_SETS]))
    return "\n".join(lines)


def profile_slates(figures: dict) -> str:
    names = ("slates", "wish right", "first without", "first with", "change")
    lines = [row("instruction", *names), row(*["---"] * (len(names) + 1))]
    table = figures["profile slates"]
    for name, cells in table.items():
        lines.append(row(name, *[f"{cells[n]:+.3f}" if n == "change" else cells[n] for n in names]))
    lines.append(row("**all**", *[sum(cells[n] for cells in table.values()) for n in names[:-1]], ""))
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--members", type=int, default=2)
    parser.add_argument("--profiled", type=int, default=40)
    options = parser.parse_args()
    figures = json.loads((options.work / "figures.json").read_text())
    numbers = range(options.seed, options.seed + options.members)
    states = [torch.load(options.work / f"wish-{number}.pt", weights_only=False) for number in numbers]
    tensors = load_file(str(options.out / "model.safetensors")) | load_file(str(options.out / "instructions.safetensors"))
    size = sum(f.stat().st_size for f in options.out.iterdir() if f.name != "README.md")
    found = figures["instructions"]
    deciding = [c for k, c in found["kinds"].items() if not k.startswith("preference")]
    closed = 1 - sum(c["gate above 0"] * c["slates"] for c in deciding) / sum(c["slates"] for c in deciding)
    values = {
        "parameters": f"{sum(t.size for n, t in tensors.items() if not n.endswith('.scale')) / 1e6:.1f}",
        "size": f"{size / 1e6:.1f}",
        "slates": f"{len(read_features(options.work / 'features.npz')) - figures['validation slates']:,}",
        "steps": f"{states[0]['step']:,}",
        "seeds": " and ".join(map(str, numbers)),
        "members": len(states),
        "minutes": f"{sum(state['seconds'] for state in states) / 60:.0f}",
        "relevance": relevance_table(figures),
        "instructions": instruction_tables(figures),
        "profiles": profile_table(figures),
        "profile_slates": profile_slates(figures),
        "profiled": options.profiled,
        "twins": percent(found["twins all right"]["with"]),
        "neutral_open": percent(found["neutral"]["gate above 0"]),
        "deciding_closed": percent(closed),
    }
    template = (Path(__file__).resolve().parent / "card.md").read_text(encoding="utf-8")
    (options.out / "README.md").write_text(template.format(**values), encoding="utf-8")


if __name__ == "__main__":
    main()
