"""Times Podium and transformers with the same weights, token sequences and threads, alternating.

Podium runs as `podium serve`; its time is the latency of an HTTP request: tokenizing, queue, model,
scoring and HTTP. transformers gets token ids; its time is that of its forward passes. See README.md.
"""

import argparse
import json
import os
import random
import statistics
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch
from server import Podium, format_spread, generate_words, model_flags, time_ms
from tokenizers import Tokenizer
from transformers import AutoModel

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


@dataclass
class Workload:
    """A request, and the token sequences that both sides compute for it."""

    body: dict
    causal: list[list[int]]  # sequences for transformers without padding
    pointwise: list[list[int]]  # one sequence for each document, for padded batches
    podium_tokens: int  # tokens that Podium computes: a shared prefix counts once


class Transformers:
    """The checkpoint's decoder in transformers, with one type of weights."""

    def __init__(self, folder: Path, dtype: str):
        # Only the decoder is timed. Projector and output head are negligible.
        self.decoder = AutoModel.from_pretrained(folder, torch_dtype=DTYPES[dtype], attn_implementation="sdpa").eval()

    @torch.inference_mode()
    def run(self, workload: Workload, batch: int) -> None:
        for sequence in workload.causal:
            self.decoder(input_ids=torch.tensor([sequence]), use_cache=False)
        # Batches of similar lengths need little padding.
        by_length = sorted(workload.pointwise, key=len)
        for start in range(0, len(by_length), batch):
            part = by_length[start : start + batch]
            width = max(map(len, part))
            ids = torch.tensor([sequence + [0] * (width - len(sequence)) for sequence in part])
            mask = torch.tensor([[1] * len(sequence) + [0] * (width - len(sequence)) for sequence in part])
            self.decoder(input_ids=ids, attention_mask=mask, use_cache=False)


def generate_text(draw: random.Random, tokens: int, tokenizer: Tokenizer) -> str:
    """Generates a text of common words with this number of tokens."""
    words = generate_words(draw, 2 * tokens + 4)
    encoding = tokenizer.encode(words, add_special_tokens=False)
    return words[: encoding.offsets[tokens - 1][1]]


def build_workload(arguments: argparse.Namespace, tokenizer: Tokenizer) -> Workload:
    """Generates a request, and asks Podium for the token sequences of its passes."""
    draw = random.Random(arguments.seed)
    low, _, high = arguments.tokens.partition("-")
    lengths = [draw.randint(int(low), int(high or low)) for _ in range(arguments.documents)]
    body = {
        "query": generate_text(draw, 12, tokenizer),
        "documents": [generate_text(draw, length, tokenizer) for length in lengths],
        "max_tokens_per_doc": max(lengths) + 8,
    }
    with tempfile.NamedTemporaryFile("w", suffix=".json") as file:
        json.dump(body, file)
        file.flush()
        command = [arguments.podium, "rerank", "--explain", "--json", "--device", "cpu", *model_flags(arguments), file.name]
        explained = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    encode = lambda part: tokenizer.encode(part, add_special_tokens=False).ids  # noqa: E731
    causal, pointwise, computed = [], [], 0
    for entry in explained["passes"]:
        prefix, suffixes = encode(entry["prefix"]), [encode(suffix) for suffix in entry["suffixes"]]
        count = len(prefix) + sum(map(len, suffixes))
        computed += entry["tokens"]
        if count != entry["tokens"]:
            print(f"note: {count} tokens for transformers, {entry['tokens']} for Podium, which tokenizes adjacent texts together")
        if suffixes:
            # The last suffix of an isolated slate is the query; a pointwise peer does not need it.
            pointwise += [prefix + suffix for suffix in suffixes[: len(entry["documents"])]]
        else:
            causal.append(prefix)
    return Workload(body, causal, pointwise, computed)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder with a checkpoint that transformers can read")
    parser.add_argument("--family", required=True, help="the prompt family, as for podium's --family")
    parser.add_argument("--documents", type=int, default=16)
    parser.add_argument("--tokens", default="128", help="tokens in each document; a range such as 20-400 is drawn uniformly")
    parser.add_argument("--dtypes", default="f32,bf16", help="types of weights for transformers: f32, bf16")
    parser.add_argument("--podium-dtypes", default="f32,bf16", help="types of weights for Podium: f32, bf16, int8")
    parser.add_argument("--batch", type=int, default=16, help="documents in each padded batch of transformers")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--podium", default="podium", help="path of the podium binary")
    parser.add_argument("--json", type=Path, help="write all times to this file")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)

    work = build_workload(arguments, Tokenizer.from_file(str(arguments.model / "tokenizer.json")))
    sequences = work.causal + work.pointwise
    print(f"{arguments.documents} documents of {arguments.tokens} tokens, {arguments.threads} threads, torch {torch.__version__}")
    print(f"podium computes {work.podium_tokens} tokens, transformers {sum(map(len, sequences))} in {len(sequences)} sequences")
    peers = {f"transformers {dtype}": Transformers(arguments.model, dtype) for dtype in arguments.dtypes.split(",")}
    ours = {f"podium {dtype}": Podium(arguments, dtype) for dtype in arguments.podium_dtypes.split(",")}
    times: dict[str, list[float]] = {name: [] for name in [*ours, *peers]}
    models: dict[str, list[float]] = {name: [] for name in ours}
    try:
        # Round 0 is a warm-up.
        for number in range(arguments.rounds + 1):
            for name, podium in ours.items():
                replies: list[dict] = []
                elapsed = time_ms(lambda podium=podium, replies=replies: replies.append(podium.rerank(work.body)))
                if number > 0:
                    times[name].append(elapsed)
                    models[name].append(replies[0]["meta"]["timing_ms"]["forward"])
            for name, peer in peers.items():
                elapsed = time_ms(lambda peer=peer: peer.run(work, arguments.batch))
                if number > 0:
                    times[name].append(elapsed)
    finally:
        for podium in ours.values():
            podium.stop()

    print(f"\n{'milliseconds':36} {'median':>10} {'min':>10} {'max':>10}")
    for name, values in times.items():
        print(f"{name:36} {format_spread(values)}")
        if name in models:
            print(f"{'  model only':36} {format_spread(models[name])}")
    print(f"\n{'ratio':36} {'median':>10} {'min':>10} {'max':>10} {'of minima':>10}")
    for mine in ours:
        for name in peers:
            ratios = [theirs / own for theirs, own in zip(times[name], times[mine])]
            # On a busy machine, the minima are the least disturbed times.
            least = min(times[name]) / min(times[mine])
            label = f"{name} / {mine}"
            print(f"{label:36} {statistics.median(ratios):10.2f} {min(ratios):10.2f} {max(ratios):10.2f} {least:10.2f}")
    if arguments.json:
        settings = {name: str(value) for name, value in vars(arguments).items()}
        arguments.json.write_text(json.dumps({"settings": settings, "milliseconds": times, "model only": models}, indent=2) + "\n")


if __name__ == "__main__":
    main()
