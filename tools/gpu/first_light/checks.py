"""Podium against torch on the same random weights: states, logits and scores; every layout of attention."""

import random

import torch

from . import checkpoints
from .run import Passes

# Relative errors, by norm. In bf16 the yardstick is torch in bf16 against torch in f32 on the same weights.
F32_LIMIT = 2e-4
BF16_TIMES_TORCH = 1.6


def tokens_of(generator, count, vocabulary):
    return [generator.randrange(5, vocabulary) for _ in range(count)]


def relative(found, expected):
    return float((found - expected).norm() / expected.norm().clamp_min(1e-20))


def exact_products(run):
    """f32 means f32: no TF32 in torch's products. Podium's have none either."""
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False


def random_checkpoint(run):
    exact_products(run)
    model = checkpoints.qwen3(run, "qwen3-0.6b", checkpoints.QWEN3_06B)
    run.report.data["checkpoint"] = str(model.folder)
    generator = random.Random(2)
    lengths = [1, 17, 130, 300] if run.small else [1, 17, 130, 700, 3000]
    vocabulary = model.config.vocab_size
    sequences = [tokens_of(generator, length, vocabulary) for length in lengths]
    answers = tokens_of(generator, 2, vocabulary)
    reads = [sorted({0, length // 2, length - 1}) for length in lengths]
    # torch in bf16 first, then the same weights in f32: the reference.
    expected = {}
    for dtype, name in ((torch.bfloat16, "bf16"), (torch.float32, "f32")):
        model.to(dtype)
        states = [model.states(tokens)[read] for tokens, read in zip(sequences, reads)]
        expected[name] = (torch.cat(states), torch.cat([model.logits(each, answers) for each in states]))
    for dtype in ("f32", "bf16"):
        run.check_time()
        with Passes(run, model.folder, dtype) as passes:
            run.row(f"0.6B loaded in {dtype}", None, f"{passes.facts['load_ms'] / 1e3:.1f} s", **passes.facts)
            listed = [{"prefix": one, "read": [[0, at] for at in read]} for one, read in zip(sequences, reads)]
            states, _ = passes.batch([dict(one, head="hidden") for one in listed])
            logits, _ = passes.batch([dict(one, head={"vocabulary": answers}) for one in listed])
        found = [torch.tensor([row for rows in each for row in rows], device=run.torch_device) for each in (states, logits)]
        compare_row(run, "hidden states", dtype, found[0], expected["f32"][0], expected["bf16"][0])
        compare_row(run, "logits of two tokens", dtype, found[1], expected["f32"][1], expected["bf16"][1])
        score = lambda logits: torch.softmax(logits, -1)[:, :1]
        compare_row(run, "scores (yes against no)", dtype, *map(score, (found[1], expected["f32"][1], expected["bf16"][1])))
    del model
    free(run)


def compare_row(run, name, dtype, found, exact, torch_bf16):
    error, yardstick = relative(found, exact), relative(torch_bf16, exact)
    limit = F32_LIMIT if dtype == "f32" else max(BF16_TIMES_TORCH * yardstick, 1e-3)
    text = f"relative error {error:.1e}" + (f", torch in bf16 {yardstick:.1e}" if dtype == "bf16" else "")
    run.row(f"{name}, {dtype}", error <= limit, text, error=error, limit=limit)


def free(run):
    if run.on_gpu:
        torch.cuda.empty_cache()


def layouts(run):
    exact_products(run)
    four_layers = dict(checkpoints.QWEN3_06B, num_hidden_layers=4)
    window = dict(use_sliding_window=True, sliding_window=50, max_window_layers=0)
    plain_states = lambda model: model.states
    open_states = lambda model: model.states_without_mask
    models = [
        ("causal", lambda: checkpoints.qwen3(run, "causal", four_layers), plain_states),
        ("window of 50", lambda: checkpoints.qwen3(run, "window", four_layers, **window), plain_states),
        (
            "bidirectional",
            lambda: checkpoints.llama(
                run, "bidirectional", four_layers, "LlamaBidirectionalModel", pooling="avg", temperature=1.0
            ),
            open_states,
        ),
    ]
    for name, make, states_of in models:
        run.check_time()
        model = make()
        batches = layout_batches(name != "bidirectional", model.config.vocab_size, run.small)
        references = {}
        for dtype in (torch.bfloat16, torch.float32):
            model.to(dtype)
            references[dtype] = {key: expected(states_of(model), passes) for key, passes in batches.items()}
        for dtype in ("f32", "bf16"):
            compare_layouts(run, name, dtype, model, batches, references)
        del model
        free(run)


def compare_layouts(run, name, dtype, model, batches, references):
    with Passes(run, model.folder, dtype, cache_bytes=1 << 28) as passes:
        for key, batch in batches.items():
            # The third time, prefixes come from the cache: blocks are stored when they are seen for the second time.
            for time in (1, 3) if "prefix" in key else (1,):
                for _ in range(time):
                    outputs, _ = passes.batch(batch)
                found = torch.tensor([row for rows in outputs for row in rows], device=run.torch_device)
                label = f"{name}: {key}" + (", cached" if time == 3 else "")
                compare_row(run, label, dtype, found, references[torch.float32][key], references[torch.bfloat16][key])


def layout_batches(causal, vocabulary, small):
    """Batches by name. Every row of a pass that is read is the state of a sequence at one place."""
    generator = random.Random(3)
    scale = 1 if small else 4
    tokens = lambda count: tokens_of(generator, count, vocabulary)
    sequence = lambda count: with_read({"prefix": tokens(count)}, [(0, at) for at in sorted({0, count // 3, count - 1})])
    apart = lambda counts: last_of_each({"suffixes": [tokens(count) for count in counts]})
    batches = {
        "one sequence": [sequence(150 * scale)],
        "several sequences in a pass": [apart([70 * scale, 1, 33, 128, 129 * scale])],
        "several passes in a call": [sequence(90 * scale), apart([5, 64 * scale]), sequence(1)],
    }
    if causal:
        shared = lambda first, counts: last_of_each({"prefix": tokens(first), "suffixes": [tokens(n) for n in counts]})
        batches["prefix and suffixes"] = [shared(60 * scale, [30 * scale, 1, 77, 128 * scale])]
        batches["prefix of 1 token"] = [shared(1, [30, 2, 7])]
        batches["prefixes in several passes"] = [shared(40 * scale, [9, 50 * scale]), sequence(20), shared(100, [1] * 20)]
        batches["many marks in one sequence"] = [
            with_read({"prefix": tokens(200 * scale)}, [(0, at) for at in range(0, 200 * scale, 5)])
        ]
    return batches


def with_read(pass_, read):
    return {**pass_, "read": [list(position) for position in read], "head": "hidden"}


def last_of_each(pass_):
    return with_read(pass_, [(place + 1, len(suffix) - 1) for place, suffix in enumerate(pass_["suffixes"])])


def expected(states, batch):
    """The same states from one sequence each."""
    rows = []
    for pass_ in batch:
        prefix = pass_.get("prefix", [])
        suffixes = pass_.get("suffixes", [])
        known = {}
        for segment, offset in pass_["read"]:
            if segment not in known:
                known[segment] = states(prefix + (suffixes[segment - 1] if segment else []))
            rows.append(known[segment][offset + (len(prefix) if segment else 0)])
    return torch.stack(rows)
