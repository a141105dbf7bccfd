"""Times one cross-encoder on Podium and on other runtimes, with one command, and prints a table with versions.

Each peer gets a virtual environment of its own with the pinned packages of `requirements/`. The environments are kept in
the user's cache. A peer that cannot be installed or run is listed with the reason. Needs Python 3.10 and a built podium.
See README.md.
"""

import argparse
import hashlib
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from server import Podium, generate_words, time_ms

HERE = Path(__file__).resolve().parent
# The number formats that a peer is timed in, and the file that it needs beside the checkpoint.
PEERS = {
    "transformers": (["f32", "bf16"], None),
    "sentence-transformers": (["f32", "bf16"], None),
    "infinity-emb": (["f32", "bf16"], None),
    "onnxruntime": (["f32", "int8"], "onnx"),
    "openvino": (["f32", "bf16"], "onnx"),
    "llama.cpp": (["f32"], "gguf"),
}


class Unavailable(Exception):
    """A peer cannot be installed or run; the message says why."""


def run(command: list, what: str) -> None:
    """Runs a command; on failure, raises `Unavailable` with the last line that it printed."""
    done = subprocess.run([str(part) for part in command], stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        lines = [line for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        raise Unavailable(f"{what} failed: {lines[-1].strip()[:160] if lines else f'exit {done.returncode}'}")


def environment(name: str) -> Path:
    """Creates the environment of a peer unless it exists; returns its Python."""
    requirements = HERE / "requirements" / f"{name}.txt"
    digest = hashlib.sha256(f"{sys.version_info[:2]}".encode() + requirements.read_bytes()).hexdigest()[:12]
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "podium" / "peers"
    folder = cache / f"{name}-{digest}"
    python, complete = folder / "bin" / "python", folder / "complete"
    if complete.exists():
        return python
    print(f"installing {name} into {folder}", file=sys.stderr)
    shutil.rmtree(folder, ignore_errors=True)
    if uv := shutil.which("uv"):
        venv.create(folder, symlinks=True)
        run([uv, "pip", "install", "--python", python, "--requirement", requirements], "uv pip install")
    else:
        venv.create(folder, with_pip=True, symlinks=True)
        run([python, "-m", "pip", "install", "--disable-pip-version-check", "--requirement", requirements], "pip install")
    complete.touch()
    return python


def node_modules(packages: Path) -> Path:
    """Installs npm packages beside a peer's environment unless they are there; returns the folder."""
    npm = shutil.which("npm")
    if not (npm and shutil.which("node")):
        raise Unavailable("needs node and npm")
    folder = packages / "node"
    if not (folder / "complete").exists():
        print(f"installing npm packages into {folder}", file=sys.stderr)
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        shutil.copy(HERE / "requirements" / "llama.cpp.json", folder / "package.json")
        run([npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", "--prefix", folder], "npm install")
        (folder / "complete").touch()
    return folder


class Peer:
    """A process in the peer's environment that answers one request a line."""

    def __init__(self, python: Path, name: str, dtype: str, arguments: argparse.Namespace, model_file: Path | None):
        folder = None
        command = [python, HERE / "peer.py", "score", name, dtype, arguments.model, arguments.threads, model_file or ""]
        if name == "llama.cpp":
            folder = node_modules(python.parent.parent)
            command = ["node", HERE / "llama.mjs", "score", model_file.resolve(), arguments.threads]
        threads = {"OMP_NUM_THREADS": str(arguments.threads), "TOKENIZERS_PARALLELISM": "true", "HF_HUB_OFFLINE": "1"}
        self.log = tempfile.TemporaryFile("w+")
        self.process = subprocess.Popen(
            [str(part) for part in command],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self.log,
            text=True,
            cwd=folder,
            env={**os.environ, **threads},
        )
        try:
            self.versions = self.reply()["versions"]
        except Unavailable:
            self.stop()
            raise

    def reply(self) -> dict:
        if line := self.process.stdout.readline():
            return json.loads(line)
        self.log.seek(0)
        lines = [line for line in self.log.read().splitlines() if line.strip()]
        raise Unavailable(f"does not run: {lines[-1].strip()[:160] if lines else 'no output'}")

    def rerank(self, body: dict, batch: int) -> dict:
        request = {"query": body["query"], "documents": body["documents"], "batch": batch}
        try:
            self.process.stdin.write(json.dumps(request) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass  # `reply` says why
        return self.reply()

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()


def build_requests(arguments: argparse.Namespace) -> list[dict]:
    """Requests of common words; most tokenizers have one token for each."""
    draw = random.Random(arguments.seed)
    low, _, high = arguments.tokens.partition("-")
    # A pair has 12 tokens of the query and 3 or 4 control tokens.
    text = lambda: generate_words(draw, max(1, draw.randint(int(low), int(high or low)) - 15))  # noqa: E731
    return [
        {"query": generate_words(draw, 12), "documents": [text() for _ in range(arguments.documents)]}
        for _ in range(arguments.requests)
    ]


def start_peers(arguments: argparse.Namespace, scratch: Path) -> tuple[dict, dict]:
    """Starts every peer in every number format. Returns the peers, and the reasons of those that are missing."""
    given = dict(entry.split("=", 1) for entry in arguments.python)
    files = {"onnx": arguments.onnx, "gguf": arguments.gguf}
    peers, missing = {}, {}

    def python_of(name: str) -> Path:
        return Path(given[name]) if name in given else environment(name)

    def model_file(kind: str | None) -> Path | None:
        if kind and files[kind] is None:
            # transformers' environment writes ONNX, and llama.cpp's has the package gguf.
            maker, mode = {"onnx": ("transformers", "export"), "gguf": ("llama.cpp", "gguf")}[kind]
            target = scratch / f"model.{kind}"
            run([python_of(maker), HERE / "peer.py", mode, arguments.model, target], f"writing the model as {kind}")
            files[kind] = target
        return files[kind] if kind else None

    for name in arguments.peers.split(","):
        dtypes, kind = PEERS[name]
        try:
            python = python_of(name)
            for dtype in dtypes:
                peers[f"{name} {dtype}"] = Peer(python, name, dtype, arguments, model_file(kind))
        except (Unavailable, OSError) as problem:
            missing[name] = str(problem)
    return peers, missing


class Measured:
    """The times of one side, and its scores of the first request."""

    def __init__(self, versions: str, batch: int | None):
        self.versions, self.batch = versions, batch
        self.milliseconds: list[float] = []
        self.scores: list[float] = []


def measure(arguments: argparse.Namespace, requests: list[dict], ours: dict, peers: dict, missing: dict) -> dict:
    """Sends every request to every side in turn, so that a slow phase of the machine affects all."""
    sides = {name: Measured(podium_version(arguments), None) for name in ours}
    for name, peer in list(peers.items()):
        try:
            sizes = [int(size) for size in arguments.batches.split(",")]
            # The first request of a size warms it up; the fastest size counts.
            trial = {size: (peer.rerank(requests[0], size), peer.rerank(requests[0], size))[1] for size in sizes}
            batch = min(sizes, key=lambda size: trial[size]["milliseconds"])
            versions = ", ".join(f"{package} {version}" for package, version in peer.versions.items())
            sides[name] = Measured(versions, batch)
            sides[name].scores = trial[batch]["scores"]
        except Unavailable as problem:
            missing[name] = str(problem)
            del peers[name]
    for name, podium in ours.items():
        sides[name].scores = podium_scores(podium, requests[0])
    for _ in range(arguments.rounds):
        for request in requests:
            for name, podium in ours.items():
                sides[name].milliseconds.append(time_ms(lambda: podium_scores(podium, request)))  # noqa: B023
            for name, peer in peers.items():
                sides[name].milliseconds.append(peer.rerank(request, sides[name].batch)["milliseconds"])
    return sides


def podium_scores(podium: Podium, request: dict) -> list[float]:
    reply = podium.rerank({**request, "max_tokens_per_doc": 8192})
    return [found["raw_score"] for found in sorted(reply["results"], key=lambda found: found["index"])]


def podium_version(arguments: argparse.Namespace) -> str:
    return subprocess.run([arguments.podium, "--version"], capture_output=True, text=True, check=True).stdout.strip()


def report(arguments: argparse.Namespace, sides: dict, missing: dict) -> None:
    exact = next((sides[name].scores for name in ("transformers f32", "podium f32") if name in sides), None)
    fastest = min(statistics.median(side.milliseconds) for name, side in sides.items() if name.startswith("podium"))
    rows = [("runtime", "median ms", "min", "max", "docs/s", "of podium", "batch", "off by", "versions")]
    for name, side in sorted(sides.items(), key=lambda found: statistics.median(found[1].milliseconds)):
        median = statistics.median(side.milliseconds)
        off = max(abs(found - expected) for found, expected in zip(side.scores, exact or side.scores, strict=True))
        times = (f"{median:.1f}", f"{min(side.milliseconds):.1f}", f"{max(side.milliseconds):.1f}")
        speed = (f"{arguments.documents / median * 1e3:.0f}", f"{median / fastest:.2f}")
        rows.append((name, *times, *speed, str(side.batch or "-"), f"{off:.1e}", side.versions))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    for row in rows:
        aligned = [row[0].ljust(widths[0])]
        aligned += [cell.rjust(width) for cell, width in zip(row[1:-1], widths[1:-1], strict=True)]
        print("  ".join([*aligned, row[-1]]).rstrip())
    for name, reason in missing.items():
        print(f"not measured: {name}: {reason}")
    if arguments.json:
        found = {
            "settings": {name: str(value) for name, value in vars(arguments).items()},
            "machine": {"processor": processor(), "threads": arguments.threads, "python": platform.python_version()},
            "runtimes": {name: {"milliseconds": side.milliseconds, "versions": side.versions} for name, side in sides.items()},
            "not measured": missing,
        }
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")


def processor() -> str:
    """The processor's name, where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.exists() else []
    return next((line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")), platform.processor())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True, help="folder with a cross-encoder")
    parser.add_argument("--family", default="cross-encoder")
    parser.add_argument("--documents", type=int, default=64)
    parser.add_argument("--tokens", default="20-400", help="tokens of each pair, or a range that is drawn uniformly")
    parser.add_argument("--requests", type=int, default=2, help="number of different requests")
    parser.add_argument("--rounds", type=int, default=5, help="how often each request is sent to each runtime")
    parser.add_argument("--peers", default=",".join(PEERS), help="the runtimes, separated by commas")
    parser.add_argument("--podium-dtypes", default="f32,bf16,int8")
    parser.add_argument("--batches", default="8,32", help="batch sizes that the peers are tried with")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--podium", default="podium", help="path of the podium binary")
    parser.add_argument("--python", action="append", default=[], metavar="PEER=PATH", help="use this Python for a peer")
    parser.add_argument("--onnx", type=Path, help="the model as ONNX in f32, instead of exporting it")
    parser.add_argument("--gguf", type=Path, help="the model as GGUF in f32, instead of writing it")
    parser.add_argument("--json", type=Path, help="write all times to this file")
    arguments = parser.parse_args()
    if unknown := set(arguments.peers.split(",")) - set(PEERS):
        parser.error(f"--peers: unknown {', '.join(sorted(unknown))}; known are {', '.join(PEERS)}")
    requests = build_requests(arguments)
    with tempfile.TemporaryDirectory() as scratch:
        peers, missing = start_peers(arguments, Path(scratch))
        ours = {f"podium {dtype}": Podium(arguments, dtype) for dtype in arguments.podium_dtypes.split(",")}
        try:
            sides = measure(arguments, requests, ours, peers, missing)
        finally:
            for side in (*ours.values(), *peers.values()):
                side.stop()
    print(f"{arguments.requests} requests of {arguments.documents} pairs of {arguments.tokens} tokens, {arguments.threads} threads, {processor()}\n")
    report(arguments, sides, missing)
    return 0


if __name__ == "__main__":
    sys.exit(main())
