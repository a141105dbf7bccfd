"""Times a cross-encoder on Podium and on its usual runtimes: sentence-transformers, onnxruntime, OpenVINO.

Each side gets the same query and documents and returns scores. Podium's time is that of an HTTP request,
tokenizing included. The others tokenize in this process, sort the pairs by length and pad them in batches of
several sizes, of which the fastest counts. See README.md.
"""

import argparse
import json
import os
import random
import statistics
import sys
import tempfile
from pathlib import Path

from compare import generate_text
from runtimes import OnnxRuntime, OpenVino, SentenceTransformers, export
from server import Podium, format_spread, time_ms
from tokenizers import Tokenizer


class PodiumScores:
    def __init__(self, arguments: argparse.Namespace, dtype: str):
        self.server = Podium(arguments, dtype)
        self.forward: list[float] = []

    def scores(self, query: str, documents: list[str], _batch: int) -> list[float]:
        body = {"query": query, "documents": documents, "max_tokens_per_doc": 8192}
        reply = self.server.rerank(body)
        self.forward.append(reply["meta"]["timing_ms"]["forward"])
        return [found["raw_score"] for found in sorted(reply["results"], key=lambda found: found["index"])]


def random_head(trunk: Path, folder: Path) -> Path:
    """The checkpoint of a bare BERT trunk with a classifier of random weights."""
    import torch
    from transformers import AutoModelForSequenceClassification

    torch.manual_seed(1)
    model = AutoModelForSequenceClassification.from_pretrained(trunk, num_labels=1)
    model.float().save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "vocab.txt"):
        if (trunk / name).exists():
            (folder / name).write_bytes((trunk / name).read_bytes())
    return folder


SHAPES = {
    "bge-reranker-v2-m3": {
        "hidden_size": 1024,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "intermediate_size": 4096,
        "max_position_embeddings": 8194,
    },
}


def random_checkpoint(shape: str, tokenizer: Path, folder: Path) -> Path:
    """An XLM-RoBERTa cross-encoder with random weights, and the tokenizer of another checkpoint."""
    import torch
    from transformers import XLMRobertaConfig, XLMRobertaForSequenceClassification

    torch.manual_seed(1)
    known = Tokenizer.from_file(str(tokenizer / "tokenizer.json")).get_vocab_size()
    config = XLMRobertaConfig(
        vocab_size=known, type_vocab_size=2, num_labels=1, layer_norm_eps=1e-5, pad_token_id=0, **SHAPES[shape]
    )
    XLMRobertaForSequenceClassification(config).to(torch.bfloat16).save_pretrained(folder)
    for name in ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"):
        if (tokenizer / name).exists():
            (folder / name).write_bytes((tokenizer / name).read_bytes())
    return folder


def peers(arguments: argparse.Namespace, scratch: Path) -> dict:
    made = {}
    wanted = arguments.peers.split(",")
    onnx = arguments.onnx
    if onnx is None and any(name.split()[0] in ("onnxruntime", "openvino") for name in wanted):
        onnx = export(arguments.model, scratch)
    for name in wanted:
        runtime, dtype = name.split()
        if runtime == "torch":
            made[name] = SentenceTransformers(arguments.model, dtype, arguments.threads)
        else:
            kind = OnnxRuntime if runtime == "onnxruntime" else OpenVino
            made[name] = kind(arguments.model, dtype, arguments.threads, onnx)
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder with a cross-encoder, or with a bare trunk")
    parser.add_argument("--random-head", action="store_true", help="the folder is a bare trunk: add a random classifier")
    parser.add_argument("--shape", choices=SHAPES, help="random weights of this shape, with the folder's tokenizer")
    parser.add_argument("--family", default="cross-encoder")
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--tokens", default="20-400", help="tokens of each pair, or a range that is drawn uniformly")
    parser.add_argument("--peers", default="torch f32,torch bf16,onnxruntime f32,onnxruntime int8,openvino f32,openvino bf16")
    parser.add_argument("--podium-dtypes", default="f32,bf16,int8")
    parser.add_argument("--batches", default="8,32", help="batch sizes that the peers are tried with")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--podium", default="podium", help="path of the podium binary")
    parser.add_argument("--onnx", type=Path, help="the model as ONNX in f32, instead of exporting it")
    parser.add_argument("--json", type=Path, help="write all times to this file")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        scratch = Path(scratch)
        (scratch / "model").mkdir()
        if arguments.random_head:
            arguments.model = random_head(arguments.model, scratch / "model")
        elif arguments.shape:
            arguments.model = random_checkpoint(arguments.shape, arguments.model, scratch / "model")
        run(arguments, scratch)


def run(arguments: argparse.Namespace, scratch: Path) -> None:
    tokenizer = Tokenizer.from_file(str(arguments.model / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    draw = random.Random(arguments.seed)
    low, _, high = arguments.tokens.partition("-")
    query = generate_text(draw, 12, tokenizer)
    # A pair has 12 tokens of the query and 3 or 4 control tokens.
    lengths = [max(1, draw.randint(int(low), int(high or low)) - 15) for _ in range(arguments.documents)]
    documents = [generate_text(draw, length, tokenizer) for length in lengths]
    tokens = sum(len(tokenizer.encode(query, document).ids) for document in documents)
    print(f"{len(documents)} pairs of {arguments.tokens} tokens, {tokens} in all, {arguments.threads} threads")

    sides = {f"podium {dtype}": PodiumScores(arguments, dtype) for dtype in arguments.podium_dtypes.split(",")}
    others = peers(arguments, scratch)
    sizes = [int(size) for size in arguments.batches.split(",")]
    try:
        scores = {name: side.scores(query, documents, sizes[0]) for name, side in (sides | others).items()}
        best = {}
        for name, side in others.items():
            best[name] = min(sizes, key=lambda size: time_ms(lambda: side.scores(query, documents, size)))
        times: dict[str, list[float]] = {name: [] for name in scores}
        for _ in range(arguments.rounds):
            for name, side in (sides | others).items():
                times[name].append(time_ms(lambda: side.scores(query, documents, best.get(name, 0))))
    finally:
        for side in sides.values():
            side.server.stop()
    report(arguments, times, scores, best, sides)


def report(arguments: argparse.Namespace, times: dict, scores: dict, best: dict, sides: dict) -> None:
    exact = scores.get("torch f32") or next(iter(scores.values()))
    print(f"\n{'milliseconds':24} {'median':>10} {'min':>10} {'max':>10} {'batch':>6} {'off by':>9}")
    for name, values in times.items():
        off = max(abs(found - expected) for found, expected in zip(scores[name], exact, strict=True))
        print(f"{name:24} {format_spread(values)} {best.get(name, ''):>6} {off:9.1e}")
        if name in sides:
            print(f"{'  model only':24} {format_spread(sides[name].forward[-len(values) :])}")
    print(f"\n{'ratio':36} {'of medians':>10} {'of minima':>10}")
    for mine in sides:
        for name in best:
            medians = statistics.median(times[name]) / statistics.median(times[mine])
            print(f"{name + ' / ' + mine:36} {medians:10.2f} {min(times[name]) / min(times[mine]):10.2f}")
    if arguments.json:
        settings = {name: str(value) for name, value in vars(arguments).items()}
        arguments.json.write_text(json.dumps({"settings": settings, "milliseconds": times}, indent=2) + "\n")


if __name__ == "__main__":
    sys.exit(main())
