"""The families' cases: texts in, token ids and scores out."""

import json
from pathlib import Path

import torch

from . import families, sequence_cases
from .checkpoints import Reference, Shape, make
from .families import Prompt, Tokens
from .family_tokenizer import LLAMA_CHAT, PAIR_CHAT, load, train
from .reference import Pass, hidden_states, next_token_logits, rounded
from .texts import CASES, written_out

VOCABULARY = 640  # a little more than the tokenizer has: checkpoints pad theirs

SHAPES = {
    "jina-v3": Shape(
        "JinaForRanking", 32, 2, 4, 2, 16, 45, VOCABULARY, True, "BF16", max_positions=131_072, projector=(48, 24)
    ),
    "qwen3-reranker": Shape("Qwen3ForCausalLM", 32, 2, 4, 2, 16, 45, VOCABULARY, True, "BF16", max_positions=40_960),
    "mxbai-v2": Shape("Qwen2ForCausalLM", 32, 2, 2, 1, 16, 51, VOCABULARY, True, "F16", max_positions=700),
    "zerank": Shape("Qwen3ForCausalLM", 32, 3, 2, 1, 32, 40, VOCABULARY, True, "BF16", max_positions=40_960),
    "first": Shape("Qwen2ForCausalLM", 48, 2, 3, 3, 16, 33, VOCABULARY, False, "BF16", max_positions=32_768),
    "jina-v3.5": Shape(
        *("JinaForRanking", 32, 3, 4, 2, 16, 45, VOCABULARY, True, "BF16"),
        max_positions=131_072,
        projector=(48, 24),
        windows=(100, ["sliding_attention", "sliding_attention", "full_attention"]),
    ),
    "contextual": Shape("Qwen3ForCausalLM", 32, 2, 4, 2, 16, 45, VOCABULARY, True, "BF16", max_positions=40_960),
    "e2rank": Shape("Qwen3ForCausalLM", 32, 2, 4, 2, 16, 45, VOCABULARY, True, "BF16", max_positions=40_960),
    # A checkpoint with a chat template of its own.
    "first-chat": Shape("Qwen2ForCausalLM", 48, 2, 3, 3, 16, 33, VOCABULARY, False, "BF16", max_positions=32_768),
    "yes-no": Shape("Qwen2ForCausalLM", 48, 2, 3, 3, 16, 33, VOCABULARY, True, "BF16", max_positions=32_768),
    # A CrossEncoder of sentence-transformers on a language model, with a chat template for pairs.
    "logit-score": Shape("Qwen3ForCausalLM", 32, 2, 4, 2, 16, 45, VOCABULARY, True, "BF16", max_positions=40_960),
}
# Architectures that `checkpoints` does not make, and their token for the start of a sequence.
SMALL = {"vocab_size": VOCABULARY, "max_position_embeddings": 2048, "intermediate_size": 48, "hidden_size": 32}
OTHERS = {
    "bge-gemma": (sequence_cases.SHAPES["gemma"], {"num_hidden_layers": 2, "head_dim": 32}, "<bos>"),
    "bge-layerwise": (sequence_cases.SHAPES["layer-wise-minicpm"], {"num_attention_heads": 1}, "<s>"),
}
SHAPES |= {
    name: sequence_cases.Shape(shape.architecture, shape.config | SMALL | changed)
    for name, (shape, changed, _) in OTHERS.items()
}
CHATS = ("first-chat", "yes-no")
FULL_PROMPT = 400  # longer ones are written as count, ends and hash


def states(reference: Reference, prompt: Prompt) -> torch.Tensor:
    marks = [(0, mark) for mark in prompt.marks]
    return hidden_states(reference.model, Pass("prompt", prompt.token_ids, marks=marks))


def written_ids(ids: list[int]) -> dict:
    if len(ids) <= FULL_PROMPT:
        return {"token_ids": ids}
    digest = 0xCBF29CE484222325  # FNV-1a over each id's four little-endian bytes
    for byte in b"".join(token.to_bytes(4, "little") for token in ids):
        digest = (digest ^ byte) * 0x100000001B3 % 2**64
    return {"token_count": len(ids), "token_start": ids[:40], "token_end": ids[-40:], "token_hash": f"{digest:016x}"}


def written(prompt: Prompt, **more: object) -> dict:
    """Ids as far as they are read: with causal attention, what follows the last mark changes nothing.

    The reference values are computed on the whole prompt all the same.
    """
    ids = prompt.token_ids[: prompt.marks[-1] + 1]
    return {"documents": prompt.documents, **written_ids(ids), "marks": prompt.marks, **more}


def cosine(rows: torch.Tensor, vector: torch.Tensor) -> torch.Tensor:
    return torch.nn.functional.cosine_similarity(rows, vector[None], dim=-1, eps=1e-8)


def jina(reference: Reference, tokens: Tokens, case: dict, texts: tuple, defaults: dict | None = None) -> dict:
    options = (defaults or {}) | {name: case[name] for name in ("document_limit", "query_limit", "context", "block") if name in case}
    prompts = families.jina_prompts(tokens, *texts, **options)
    passages, queries, weights, made = [], [], [], []
    for prompt in prompts:
        vectors = reference.project(states(reference, prompt))
        passages.append(vectors[:-1])
        queries.append(vectors[-1])
        block = cosine(vectors[:-1], vectors[-1])
        weights.append(((1 + block) / 2).max())
        made.append(written(prompt, scores=rounded(block)))
    weights = torch.stack(weights)
    merged = (weights[:, None] * torch.stack(queries)).sum(0) / weights.sum()
    return {"prompts": made, "scores": rounded(cosine(torch.cat(passages), merged))}


def jina_35(reference: Reference, tokens: Tokens, case: dict, texts: tuple) -> dict:
    limits = {"document_limit": 8192, "query_limit": 1024, "early_mark": "<|rerank_token|>"}
    return jina(reference, tokens, case, texts, limits)


def pointwise(reference: Reference, tokens: Tokens, prompts: list[Prompt], answers: list[str | int], score) -> dict:
    ids = [answer if isinstance(answer, int) else tokens.id(answer) for answer in answers]
    logits = torch.cat([next_token_logits(reference.model, states(reference, prompt), ids) for prompt in prompts])
    return {
        "answers": answers,
        "prompts": [written(prompt, logits=rounded(row)) for prompt, row in zip(prompts, logits, strict=True)],
        "scores": rounded(score(logits)),
    }


def qwen3(reference: Reference, tokens: Tokens, case: dict, texts: tuple) -> dict:
    prompts = families.qwen3_prompts(tokens, *texts)
    return pointwise(reference, tokens, prompts, ["yes", "no"], lambda row: torch.softmax(row.flip(-1), -1)[:, 1])


def mxbai(reference: Reference, tokens: Tokens, case: dict, texts: tuple) -> dict:
    prompts = families.mxbai_prompts(tokens, *texts, context=SHAPES["mxbai-v2"].max_positions)
    return pointwise(reference, tokens, prompts, ["1", "0"], lambda row: row[:, 0] - row[:, 1])


def zerank(reference: Reference, tokens: Tokens, case: dict, texts: tuple) -> dict:
    prompts = families.zerank_prompts(tokens, *texts)
    return pointwise(reference, tokens, prompts, ["Yes"], lambda row: torch.sigmoid(row[:, 0] / 5.0))


def contextual(reference: Reference, tokens: Tokens, case: dict, texts: tuple) -> dict:
    prompts = families.contextual_prompts(tokens, *texts)
    return pointwise(reference, tokens, prompts, [0], lambda row: row[:, 0])


def bge_gemma(reference: Reference, tokens: Tokens, case: dict, texts: tuple) -> dict:
    prompts = families.bge_prompts(tokens, *texts)
    return pointwise(reference, tokens, prompts, ["Yes"], lambda row: row[:, 0])


def bge_layerwise(reference: Reference, tokens: Tokens, case: dict, texts: tuple) -> dict:
    """`layer_scores`: for each layer with a head, the scores of all documents."""
    prompts = families.bge_prompts(tokens, *texts)
    by_layer = torch.tensor([reference.model.scores(prompt.token_ids) for prompt in prompts]).T
    made = {"prompts": [written(prompt) for prompt in prompts], "scores": rounded(by_layer[-1])}
    return made | {"layer_scores": rounded(by_layer)}


def e2rank(reference: Reference, tokens: Tokens, case: dict, texts: tuple) -> dict:
    prompts = families.e2rank_prompts(tokens, *texts)
    vectors = torch.cat([states(reference, prompt) for prompt in prompts])
    scores = torch.nn.functional.normalize(vectors[1:]) @ torch.nn.functional.normalize(vectors[:1])[0]
    return {"prompts": [written(prompt) for prompt in prompts], "scores": rounded(scores)}


def yes_no(reference: Reference, tokens: Tokens, case: dict, texts: tuple) -> dict:
    prompts = families.yes_no_prompts(tokens, *texts)
    return pointwise(reference, tokens, prompts, ["Yes", "No"], lambda row: row[:, 0] - row[:, 1])


def logit_score(reference: Reference, tokens: Tokens, case: dict, texts: tuple) -> dict:
    prompts = families.logit_score_prompts(tokens, *texts)
    return pointwise(reference, tokens, prompts, ["Yes", "No"], lambda row: row[:, 0] - row[:, 1])


def first(reference: Reference, tokens: Tokens, case: dict, texts: tuple) -> dict:
    """Windows from the back to the front; each reorders its stretch of the list for the next.

    No more documents than the window holds are one window, whatever the stride.
    """
    query, documents, instruction = texts
    assert instruction is None, "the reference has no instruction"
    order, window, stride = list(range(len(documents))), case["window"], case["stride"]
    end, windows = len(order), []
    start = end - window
    while end > 0 and (not windows or start + stride != 0):
        start = max(start, 0)
        prompt = families.first_prompt(tokens, query, documents, order[start:end])
        letters = [tokens.id(chr(ord("A") + at)) for at in range(end - start)]
        logits = next_token_logits(reference.model, states(reference, prompt), letters)[0]
        best_first = torch.argsort(logits, descending=True)
        assert (logits[best_first][:-1] - logits[best_first][1:]).min() > 1e-3, "too close to tell the order"
        windows.append(written(prompt, logits=rounded(logits)))
        order[start:end] = [prompt.documents[at] for at in best_first]
        end, start = end - stride, start - stride
    return {"window": window, "stride": stride, "prompts": windows, "order": order}


SCORERS = {
    "jina-v3": jina,
    "jina-v3.5": jina_35,
    "qwen3-reranker": qwen3,
    "mxbai-v2": mxbai,
    "zerank": zerank,
    "contextual": contextual,
    "e2rank": e2rank,
    "first": first,
    "first-chat": first,
    "yes-no": yes_no,
    "logit-score": logit_score,
    "bge-gemma": bge_gemma,
    "bge-layerwise": bge_layerwise,
}


def write_chat(folder: Path, tokens: Tokens) -> None:
    """The chat template as a file of its own or in the tokenizer's configuration; both forms are found."""
    config = {"bos_token": "<|begin_of_text|>", "eos_token": {"content": "<|eot_id|>", "lstrip": False}}
    if folder.name == "yes-no":
        (folder / "chat_template.jinja").write_text(LLAMA_CHAT)
    else:
        config["chat_template"] = LLAMA_CHAT
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")
    tokens.tokenizer.chat_template = LLAMA_CHAT
    tokens.tokenizer.bos_token = "<|begin_of_text|>"


def write_modules(folder: Path, tokens: Tokens) -> None:
    """What sentence-transformers saves for a CrossEncoder that ends in LogitScore."""
    modules = [("", "base.modules.transformer.Transformer"), ("1_LogitScore", "cross_encoder.modules.logit_score.LogitScore")]
    listed = [
        {"idx": at, "name": str(at), "path": path, "type": f"sentence_transformers.{kind}"}
        for at, (path, kind) in enumerate(modules)
    ]
    answers = {"true_token_id": tokens.id("Yes"), "false_token_id": tokens.id("No"), "module_input_name": "causal_logits"}
    (folder / "1_LogitScore").mkdir(exist_ok=True)
    (folder / "modules.json").write_text(json.dumps(listed, indent=2) + "\n")
    (folder / "1_LogitScore" / "config.json").write_text(json.dumps(answers, indent=2) + "\n")
    settings = {"transformer_task": "text-generation", "processing_kwargs": {"chat_template": {"add_generation_prompt": True}}}
    (folder / "sentence_bert_config.json").write_text(json.dumps(settings, indent=2) + "\n")
    (folder / "chat_template.jinja").write_text(PAIR_CHAT)
    tokens.tokenizer.chat_template = PAIR_CHAT


def make_family_case(fixtures: Path, name: str) -> None:
    fixtures.mkdir(parents=True, exist_ok=True)
    tokenizer = fixtures / "family-tokenizer.json"
    shape = SHAPES[name]
    seed = 2000 + list(SHAPES).index(name)
    if name in OTHERS:
        train(tokenizer, thinks=False, start=OTHERS[name][2])
        reference = Reference(sequence_cases.make(fixtures / name, shape, seed, tokenizer), None)
    else:
        train(tokenizer, thinks=shape.is_qwen3, llama=name in CHATS)
        reference = make(fixtures / name, shape, seed, tokenizer)
    tokenizer.unlink()
    tokens = Tokens(load(fixtures / name / "tokenizer.json"))
    if name in CHATS:
        write_chat(fixtures / name, tokens)
    if name == "logit-score":
        write_modules(fixtures / name, tokens)
    made = []
    for case in CASES[name]:
        query, documents = written_out(case["query"]), [written_out(text) for text in case["documents"]]
        instruction = case.get("instruction")
        texts = (
            tokens.clean(query),
            [tokens.clean(text) for text in documents],
            instruction and tokens.clean(instruction),
        )
        made.append(case | SCORERS[name](reference, tokens, case, texts))
    golden = {"kind": "family", "family": name, "shape": shape.describe(), "cases": made}
    text = json.dumps(golden, ensure_ascii=False, separators=(",", ":"))
    (fixtures / name / "golden.json").write_text(text + "\n")
