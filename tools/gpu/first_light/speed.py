"""Times beside transformers on the same weights and token ids, memory, clients over HTTP, and kernel times."""

import json
import random
import shutil
import statistics
import subprocess
import threading
import time

import torch

from . import checkpoints
from .checks import free, tokens_of
from .run import OutOfTime, Passes

# Tokens of one batch in torch: padding is not needed, because documents have the same length.
TORCH_BATCH_TOKENS = 32_768
PREFIX = 100


def operations(config, sequences):
    """Operations of one pass, a multiply-add as two: `sequences` are (tokens, tokens of the shared prefix).

    What torch computes. Podium computes a shared prefix once, and most of the last layer only where it is read."""
    hidden, width = config.hidden_size, config.num_attention_heads * config.head_dim
    keys = config.num_key_value_heads * config.head_dim
    weights = 2 * hidden * keys + 2 * hidden * width + 3 * hidden * config.intermediate_size
    total = 0
    for tokens, prefix in sequences:
        pairs = tokens * (tokens + 1) // 2 - prefix * (prefix + 1) // 2
        total += config.num_hidden_layers * (2 * weights * (tokens - prefix) + 4 * width * pairs)
    return total


def shapes(run):
    if run.small:
        return [(2, 16), (4, 30)]
    return [(documents, tokens) for tokens in (128, 512, 2000) for documents in (16, 64)]


def small_model(run):
    model = checkpoints.qwen3(run, "speed-0.6b", checkpoints.QWEN3_06B)
    run.report.data["speed_checkpoint"] = str(model.folder)
    try:
        time_model(run, "0.6B", model)
    finally:
        del model
        free(run)


def large_model(run):
    if run.on_gpu and torch.cuda.mem_get_info()[0] < 60e9:
        run.row("4B", None, "left out: less than 60 GB of GPU memory are free")
        return
    model = checkpoints.qwen3(run, "speed-4b", checkpoints.QWEN3_4B)
    try:
        time_model(run, "4B", model)
    finally:
        shutil.rmtree(model.folder, ignore_errors=True)
        del model
        free(run)


def time_model(run, name, model):
    attentions = ["sdpa"]
    try:
        import flash_attn  # noqa: F401
        attentions += ["flash_attention_2"] if run.on_gpu else []
    except ImportError:
        pass
    dtype = "bf16"
    with Passes(run, model.folder, dtype, repeat=1 if run.small else 4) as passes:
        for documents, tokens in shapes(run):
            for mode in ("listwise", "pointwise"):
                run.check_time()
                time_case(run, (name, model, passes), (mode, documents, tokens), attentions)


def time_case(run, subject, case, attentions):
    name, model, passes = subject
    mode, documents, tokens = case
    generator = random.Random(5)
    ids = [tokens_of(generator, tokens, model.config.vocab_size) for _ in range(documents)]
    if mode == "listwise":
        whole = [token for one in ids for token in one]
        pass_ = {"prefix": whole, "read": [[0, (place + 1) * tokens - 1] for place in range(documents)], "head": "hidden"}
        sequences, count = [whole], operations(model.config, [(len(whole), 0)])
    else:
        prefix = tokens_of(generator, PREFIX, model.config.vocab_size)
        read = [[place + 1, tokens - 1] for place in range(documents)]
        pass_ = {"prefix": prefix, "suffixes": ids, "read": read, "head": "hidden"}
        sequences = [prefix + one for one in ids]
        count = operations(model.config, [(PREFIX, 0)] + [(PREFIX + tokens, PREFIX)] * documents)
    label = f"{name} {mode}, {documents} x {tokens}"
    _, milliseconds = passes.batch([pass_])
    peers = {}
    for attention in attentions:
        try:
            peers[attention] = time_torch(run, model, sequences, attention)
        except OutOfTime:
            raise
        except Exception as error:  # A peer that fails is a hole in the table.
            peers[attention] = None
            run.row(f"{label}: transformers, {attention}", None, f"{type(error).__name__}: {error}"[:120])
    peak = run.report.data.get("peak_tflops")
    rate = count / milliseconds / 1e9
    share = f" ({rate / peak:.0%} of peak)" if peak else ""
    ratios = "".join(f", {key} {value:.1f} ms ({value / milliseconds:.2f}x)" for key, value in peers.items() if value)
    figures = {"ms": milliseconds, "tflops": rate, "share": rate / peak if peak else None, "torch_ms": peers}
    run.row(label, None, f"{milliseconds:.1f} ms, {rate:.1f} TFLOP/s{share}{ratios}", **figures)


@torch.no_grad()
def time_torch(run, model, sequences, attention):
    """Median milliseconds of all sequences through transformers, in batches without padding."""
    model.use(attention)
    at_once = max(1, TORCH_BATCH_TOKENS // len(sequences[0]))
    batches = [
        torch.tensor(sequences[first : first + at_once], device=run.torch_device)
        for first in range(0, len(sequences), at_once)
    ]
    synchronize = torch.cuda.synchronize if run.on_gpu else (lambda: None)
    times = []
    for _ in range(2 if run.small else 4):
        synchronize()
        started = time.perf_counter()
        for batch in batches:
            model.model(input_ids=batch, use_cache=False)
        synchronize()
        times.append((time.perf_counter() - started) * 1e3)
        # The first is the warm-up. A slow case is measured once.
        if times[-1] > 4000:
            break
        run.check_time()
    return statistics.median(times[1:] or times)


def checkpoint_of(run):
    """The 0.6B checkpoint of an earlier part."""
    folder = run.scratch / "speed-0.6b"
    if not folder.exists():
        checkpoints.qwen3(run, "speed-0.6b", checkpoints.QWEN3_06B)
        free(run)
    return folder


class MemoryWatch:
    """The most memory that the GPU, or on a CPU the process, has in use, sampled."""

    def __init__(self, run, process):
        self.run, self.process, self.most, self.ended = run, process, 0, False
        self.thread = threading.Thread(target=self.sample, daemon=True)
        self.thread.start()

    def read(self):
        if self.run.on_gpu:
            free_bytes, total = torch.cuda.mem_get_info()
            return total - free_bytes
        with open(f"/proc/{self.process.pid}/status") as status:
            return next(int(line.split()[1]) * 1024 for line in status if line.startswith("VmRSS"))

    def sample(self):
        while not self.ended:
            try:
                self.most = max(self.most, self.read())
            except (OSError, StopIteration):
                return
            time.sleep(0.002)

    def end(self):
        self.ended = True
        self.thread.join()
        return self.most


def memory(run):
    """Bytes of the loaded model against its own estimate, and bytes per token of a pass."""
    folder = checkpoint_of(run)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    before = torch.cuda.mem_get_info()[1] - torch.cuda.mem_get_info()[0] if run.on_gpu else 0
    generator = random.Random(7)
    for tokens in (64, 512) if run.small else (1024, 16_384, 65_536):
        with Passes(run, folder, "bf16") as passes:
            estimate = passes.facts["weight_bytes"]
            watch = MemoryWatch(run, passes.process)
            loaded = watch.read() - before
            passes.batch([{"prefix": tokens_of(generator, tokens, vocabulary), "read": "last", "head": "hidden"}])
            most = watch.end() - before
        per_token = (most - loaded) / tokens
        text = (
            f"loaded {loaded / 2**20:.0f} MiB (weights by estimate {estimate / 2**20:.0f}), "
            f"peak {most / 2**20:.0f} MiB, {per_token / 1024:.1f} KiB a token"
        )
        run.row(f"a pass of {tokens} tokens", None, text, loaded=loaded, estimate=estimate, peak=most)


def http_clients(run):
    shape = ["--shape", "nano", "--layers", "2"] if run.small else ["--shape", "qwen3-0.6b"]
    clients, seconds = ("2,4", 1) if run.small else ("1,8,64", 4)
    report = run.out / "http.json"
    done = run.command(
        *["bench", *shape, "--family", "jina-v3", "--device", run.device, "--dtype", "bf16", "--over", "http"],
        *["--documents", "4" if run.small else "16", "--tokens", "16" if run.small else "128"],
        *["--concurrency", clients, "--seconds", seconds, "--rounds", 1, "--json", report],
        PODIUM__SCHEDULE__MAX_QUEUED_REQUESTS=1000,
    )
    if done.returncode != 0:
        raise RuntimeError(done.stderr[-300:].strip())
    for case in json.loads(report.read_text())["cases"]:
        latency = case["latency_ms"]
        text = f"{case['requests_per_second']:.1f} requests/s, p50 {latency['p50']:.1f} ms, p99 {latency.get('p99') or 0:.1f} ms"
        run.row(f"{case['concurrency']} clients, {case['documents']} documents each", None, text)


def profile(run):
    """Kernel times of one pass: with nsys if it is there, else with the injected library of tools/gpu/kernel_times.c."""
    folder = checkpoint_of(run)
    vocabulary = json.loads((folder / "config.json").read_text())["vocab_size"]
    generator = random.Random(9)
    documents, tokens = (2, 16) if run.small else (64, 512)
    suffixes = [tokens_of(generator, tokens, vocabulary) for _ in range(documents)]
    read = [[place + 1, tokens - 1] for place in range(documents)]
    pass_ = {"prefix": tokens_of(generator, PREFIX, vocabulary), "suffixes": suffixes, "read": read, "head": "hidden"}
    library = run.root / "tools/gpu/kernel_times.so"
    times = run.out / "kernel-times.json"
    if not run.on_gpu:
        with Passes(run, folder, "bf16") as passes:
            _, milliseconds = passes.batch([pass_])
        run.row("a pass, without kernel times (no GPU)", None, f"{milliseconds:.1f} ms")
    elif library.exists():
        environment = {"CUDA_INJECTION64_PATH": library, "PODIUM_KERNEL_TIMES": times}
        with Passes(run, folder, "bf16", repeat=3, **environment) as passes:
            passes.batch([pass_])
        show_kernels(run, json.loads(times.read_text())["kernels"])
    elif shutil.which("nsys"):
        profile_with_nsys(run, folder, pass_)
    else:
        run.row("kernel times", None, "neither kernel_times.so nor nsys is here")


def profile_with_nsys(run, folder, pass_):
    command = ["nsys", "profile", "--trace=cuda", "--force-overwrite=true", "-o", run.scratch / "pass", run.podium, "passes"]
    flags = ["--model", folder, "--device", run.device, "--dtype", "bf16", "--repeat", 3]
    process = run.start([*command, *flags], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, env=run.environment())
    process.communicate(json.dumps([pass_]) + "\n", timeout=max(run.left(), 1))
    summary = ["nsys", "stats", "--report", "cuda_gpu_kern_sum", "--format", "json", f"{run.scratch / 'pass'}.nsys-rep"]
    text = subprocess.run(summary, capture_output=True, text=True, timeout=max(run.left(), 1)).stdout
    rows = json.loads(text[text.index("[") :])
    show_kernels(run, [{"name": r["Name"], "count": r["Instances"], "ns": r["Total Time (ns)"]} for r in rows])


def show_kernels(run, kernels):
    kernels.sort(key=lambda kernel: -kernel["ns"])
    total = sum(kernel["ns"] for kernel in kernels)
    run.report.data["kernels"] = kernels
    for kernel in kernels[:15]:
        share = kernel["ns"] / total
        run.row(kernel["name"][:44], None, f"{share:.1%}, {kernel['ns'] / 1e6:.2f} ms in {kernel['count']} launches")
