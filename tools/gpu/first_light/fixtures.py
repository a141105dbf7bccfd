"""Every committed checkpoint of tests/parity against the numbers that transformers gave for it in f32."""

import json
import math
from concurrent.futures import ThreadPoolExecutor

from .run import Passes, Server

# Largest difference in f32, and root mean square of the differences in bf16. Final states have a root mean square of about 1.
F32_LIMIT = 2e-3
BF16_LIMIT = 0.06

# Families whose vendors give the sigmoid of a logit rather than the logit.
SIGMOID = ("qwen3-reranker", "zerank")

# Families that neither the numbers nor the checkpoint name.
FAMILIES = {"first-chat": "first", "qwen3-reranker-seq-cls": "qwen3-reranker"}


def compare(run):
    folder = run.root / "tests/parity/fixtures"
    names = sorted(path.parent.name for path in folder.glob("*/golden.json"))
    # A process mostly waits for the GPU to start: four at a time.
    with ThreadPoolExecutor(4 if run.on_gpu else 1) as pool:
        for name, found in zip(names, pool.map(lambda name: attempt(run, folder / name), names)):
            if isinstance(found, Exception):
                run.row(name, False, f"{type(found).__name__}: {found}"[:200])
                continue
            largest, rms, rows = found["f32"]
            _, bf16_rms, _ = found["bf16"]
            ok = largest <= F32_LIMIT and bf16_rms <= BF16_LIMIT and rows > 0
            text = f"f32 {largest:.1e} (largest), bf16 {bf16_rms:.1e} (rms), {rows} numbers"
            run.row(name, ok, text, f32_largest=largest, f32_rms=rms, bf16_rms=bf16_rms, numbers=rows)


def attempt(run, folder):
    try:
        return {dtype: deviation(compare_one(run, folder, dtype)) for dtype in ("f32", "bf16")}
    except Exception as error:  # Reported as the fixture's row.
        return error


def deviation(pairs):
    """The largest difference, the root mean square, and the count of (found, expected)."""
    differences = [abs(found - expected) for found, expected in pairs]
    if any(math.isnan(difference) for difference in differences):
        return math.inf, math.inf, len(differences)
    square = sum(difference**2 for difference in differences) / max(len(differences), 1)
    return max(differences, default=math.inf), math.sqrt(square), len(differences)


def compare_one(run, folder, dtype):
    golden = json.loads((folder / "golden.json").read_text())
    kind = golden["kind"]
    model = "podium-nano" if kind == "nano" else folder
    if kind == "runtime":
        return compare_batches(run, model, dtype, runtime_batches(golden))
    if kind == "sequences":
        return compare_batches(run, model, dtype, sequence_batches(golden))
    return compare_requests(run, model, dtype, golden)


def compare_batches(run, model, dtype, batches):
    pairs = []
    with Passes(run, model, dtype) as passes:
        for batch in batches:
            outputs, _ = passes.batch([pass_ for pass_, _ in batch])
            for rows, (_, expected) in zip(outputs, batch):
                pairs += zip(flat(rows), flat(expected), strict=True)
    return pairs


def flat(rows):
    return [value for row in rows for value in row]


def runtime_batches(golden):
    """Each pass alone, then all in one batch: states and logits."""
    passes = []
    for one in golden["passes"]:
        keys = ("prefix", "suffixes", "cross_document_layers", "shared")
        plain = {**{key: one[key] for key in keys}, "read": one["marks"]}
        passes.append(({**plain, "head": "hidden"}, one["hidden_states"]))
        passes.append(({**plain, "head": {"vocabulary": one["token_ids"]}}, one["logits"]))
        if one.get("projected"):
            passes.append(({**plain, "head": "projector"}, one["projected"]))
    return [[one] for one in passes] + [passes]


def sequence_batches(golden):
    """Each sequence alone, then all in one pass, then means and classes."""
    sequences = golden["sequences"]
    types = lambda chosen: [one["second_start"] if one["second_start"] is not None else len(one["tokens"]) for one in chosen]
    make = lambda chosen, read, head: {
        "suffixes": [one["tokens"] for one in chosen],
        "types": types(chosen),
        "read": read,
        "head": head,
    }
    offsets = lambda chosen: [[place + 1, offset] for place, one in enumerate(chosen) for offset in one["offsets"]]
    states = lambda chosen: [state for one in chosen for state in one["states"]]
    batches = [[(make([one], offsets([one]), "hidden"), states([one]))] for one in sequences]
    batches.append([(make(sequences, offsets(sequences), "hidden"), states(sequences))])
    batches.append([(make(sequences, "mean", "hidden"), [one["mean"] for one in sequences])])
    return batches


def compare_requests(run, model, dtype, golden):
    """Scores over HTTP, of the requests that need no limit of their own."""
    cases = [case for case in golden["cases"] if plain_request(case)]
    family = FAMILIES.get(getattr(model, "name", ""), golden.get("family", "auto"))
    server = Server(run, model, dtype, "--family", family, PODIUM__LIMITS__MAX_SLATE_DOCUMENTS=125)
    # A cross-encoder's expected numbers are logits, of whatever family it is.
    score = "relevance_score" if golden["kind"] == "family" and family in SIGMOID else "raw_score"
    pairs = []
    for case in cases:
        body = {"query": text(case["query"]), "documents": [text(document) for document in case["documents"]]}
        if case.get("instruction"):
            body["instruction"] = case["instruction"]
        reply = server.rerank(body)
        if case.get("order"):
            # Families by window have an order; rounding may change it.
            found = [result["index"] for result in reply["results"]]
            pairs += zip(found, case["order"], strict=True) if dtype == "f32" else []
            continue
        found = {result["index"]: result[score] for result in reply["results"]}
        pairs += [(found[place], expected) for place, expected in enumerate(case.get("raw") or case["scores"])]
    server.close()
    return pairs


def plain_request(case):
    is_usual_window = case.get("window", 20) == 20
    limits = ("block", "context", "document_limit")
    return is_usual_window and not any(case.get(limit) for limit in limits)


def text(piece):
    return piece if isinstance(piece, str) else piece[0] * piece[1]
