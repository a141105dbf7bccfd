"""Trains podium-nano: tokenizer, background table, teacher vectors, static stage, reranker.

    python train.py --data DATA --work WORK --minutes 60

The reranker learns from three kinds of batches at once: texts of all kinds, whose teacher
vectors it is to reproduce (`texts.py`); plain slates, ranked by teacher, evidence and label; and
instructed slates. Texts dominate at first, slates at the end (`kind_shares`).

Every stage leaves its result in WORK and is skipped if it is there. `export.py` turns
WORK/reranker.pt into the files of the model.
"""

from __future__ import annotations

import argparse
import json
import math
import pickle
import random
import time
from pathlib import Path

import numpy as np
import torch
import torch.distributed as dist
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor, nn

from data import Corpus, background_texts, read_corpus
from lexical import LexicalTable
from model import Controls, Reranker, Shape
from slates import Example, SlateMaker
from static import Bags, Static, initial_vectors, token_texts, train_static
from teacher import cached_vectors
from texts import TextPool, read_texts
from tokenizer import EMBED, END, INSTRUCT, RERANK, START, encode_all, train_tokenizer
from warm_start import warm_start

EMBEDDING_RATE = 0.375
WARM_UP = 30
AVERAGE_EVERY = 8
BATCH_TOKENS = 2400
TEACHER_SHARPNESS, EVIDENCE_SHARPNESS, LABEL_BONUS = 16.0, 7.0, 2.0
DISTIL_WEIGHT, LABEL_WEIGHT = 1.0, 0.3
VECTOR_WEIGHT, SIMILARITY_WEIGHT = 3.0, 1.0
SCALE = 20.0
NEGATIONS = (
    "not", "no", "without", "never", "none", "nothing", "neither", "nor", "except", "excluding", "exclude", "avoid",
    "omit", "ignore", "skip", "leave", "unless", "instead", "don", "doesn", "isn", "aren", "shouldn",
)  # fmt: skip
LENGTHS = ((48, 0.2), (64, 0.25), (96, 0.25), (160, 0.15), (320, 0.1), (512, 0.05))


def controls_of(tokenizer: Tokenizer) -> Controls:
    """Ids of the control tokens."""
    ids = [tokenizer.token_to_id(t) for t in (START, END, RERANK, INSTRUCT, EMBED[0])]
    return Controls(*ids)


def negations_of(tokenizer: Tokenizer) -> list[int]:
    """Ids of the tokens that are words of negation."""
    ids = (tokenizer.token_to_id("\u0120" + word) for word in NEGATIONS)
    return [i for i in ids if i is not None]


def untrained(tokenizer: Tokenizer, static: dict, seed: int) -> Reranker:
    """The reranker at its warm start."""
    shape = Shape(vocab_size=tokenizer.get_vocab_size())
    vectors, importance = static["vectors"], static["importance"]
    return warm_start(shape, controls_of(tokenizer), vectors, importance, negations_of(tokenizer), seed)


class Workspace:
    """The stages before the reranker, each kept in the work folder."""

    def __init__(self, data: Path, work: Path, seed: int, static_epochs: int, device: str) -> None:
        work.mkdir(parents=True, exist_ok=True)
        self.work, self.seed = work, seed
        self.corpus: Corpus = read_corpus(data)
        passages = self.corpus.passages
        if not (work / "tokenizer.json").exists():
            train_tokenizer(self.corpus, seed).save(str(work / "tokenizer.json"), pretty=False)
        self.tokenizer = Tokenizer.from_file(str(work / "tokenizer.json"))
        if not (work / "lexical.safetensors").exists():
            LexicalTable.build(background_texts(data)).save(work / "lexical.safetensors")
        self.table = LexicalTable.load(work / "lexical.safetensors")
        english = [p.text if p.language == "en" else "" for p in passages]
        self.passage_teacher = cached_vectors(english, work / "passages.npy", device)
        queries = sorted({p.query for p in self.corpus.pairs if english[p.passage]})
        vectors = cached_vectors(queries, work / "queries.npy", device)
        self.query_teacher = dict(zip(queries, vectors, strict=True))
        self.static = self.static_stage(static_epochs, device)
        if not (work / TextPool.FILE).exists():
            TextPool.build(read_texts(self.corpus, work), self.corpus, self.tokenizer, self.query_teacher, work, device)

    def static_stage(self, epochs: int, device: str) -> dict:
        """The static model's vectors and importances, trained on first use."""
        kept = self.work / "static.pt"
        if kept.exists():
            return torch.load(kept)
        tokenizer, corpus = self.tokenizer, self.corpus
        token_teacher = cached_vectors(token_texts(tokenizer), self.work / "tokens.npy", device)
        documents = Bags([np.array(x) for x in encode_all(tokenizer, [p.text for p in corpus.passages], 512)])
        queries = sorted({p.query for p in corpus.pairs})
        place = {q: i for i, q in enumerate(queries)}
        query_bags = Bags([np.array(x) for x in encode_all(tokenizer, queries, 64)])
        counts = np.ones(tokenizer.get_vocab_size())
        for ids in documents.ids:
            np.add.at(counts, ids, 1)
        query_teacher = torch.zeros(len(queries), 384)
        for query, vector in self.query_teacher.items():
            query_teacher[place[query]] = torch.from_numpy(vector.astype(np.float32))
        model = Static(initial_vectors(tokenizer, token_teacher, counts), counts)
        pairs = [(place[p.query], p.passage) for p in corpus.pairs if not corpus.passages[p.passage].held_out]
        document_teacher = torch.from_numpy(self.passage_teacher.astype(np.float32))
        train_static(model, documents, query_bags, pairs, document_teacher, query_teacher, epochs, self.seed)
        result = model.cut(counts)
        torch.save(result, kept)
        return result

    def slates(self) -> SlateMaker:
        """The maker of training slates, kept for the workers."""
        kept = self.work / "slates.pickle"
        if kept.exists():
            return pickle.loads(kept.read_bytes())
        maker = SlateMaker(self.corpus, self.tokenizer, self.table, self.passage_teacher, self.query_teacher.get)
        kept.write_bytes(pickle.dumps(maker))
        return maker


def kind_shares(progress: float) -> dict[str, float]:
    """How often each kind of batch comes, from the start (0) to the end (1) of a run."""
    return {"texts": 0.72 - 0.44 * progress, "plain": 0.1 + 0.24 * progress, "instructed": 0.18 + 0.2 * progress}


def draw_batch(maker: SlateMaker, rng: random.Random, kind: str, blind: float) -> list[Example]:
    """Plain or instructed slates of one length class, up to BATCH_TOKENS tokens; a share of the
    plain ones `blind`."""
    limit = rng.choices([n for n, _ in LENGTHS], [w for _, w in LENGTHS])[0]
    k = rng.choice((4, 8, 8, 16, 24)) if limit <= 64 else rng.choice((4, 6, 8, 12)) if limit <= 160 else rng.choice((3, 4))
    count = max(1, round(BATCH_TOKENS / (k * limit)))
    batch = []
    for _ in range(count):
        if kind == "instructed":
            batch.append(maker.instructed(rng, min(k, 8), limit))
        else:
            batch.append(maker.plain(rng, k, limit, blind=rng.random() < blind))
    return batch


def target_of(maker: SlateMaker, example: Example) -> torch.Tensor | None:
    """The ensemble's distribution over the documents: teacher cosine, lexical score and label.
    None where the teacher has no say."""
    vector = maker.query_teacher(example.query)
    if example.kind != "plain" or vector is None:
        return None
    cosine = maker.passage_teacher[example.rows].astype(np.float32) @ vector.astype(np.float32)
    weights = maker.table.weights(example.query)
    lexical = np.array([maker.table.score(weights, maker.bags[r]) for r in example.rows])
    logits = TEACHER_SHARPNESS * cosine + (0 if example.blind else EVIDENCE_SHARPNESS) * lexical
    logits[example.right] += LABEL_BONUS
    return torch.softmax(torch.tensor(logits, dtype=torch.float32), 0)


def loss_of(model: Reranker, maker: SlateMaker, batch: list[Example], device: str) -> tuple[torch.Tensor, dict]:
    """Mean loss of a batch: cross-entropy to the ensemble and to the right documents."""
    with torch.autocast(device, torch.bfloat16):
        documents, queries, real = model([e.slate for e in batch])
    scores = torch.einsum("skd,sd->sk", documents, queries) * SCALE
    log_share = F.log_softmax(scores.masked_fill(~real, -1e4), -1)
    total = torch.zeros((), device=device)
    facts: dict[str, list[float]] = {}
    for row, example in enumerate(batch):
        k = len(example.rows)
        right = -torch.logsumexp(log_share[row, example.right], 0)
        target = target_of(maker, example)
        if target is None:
            total = total + right
        else:
            target = target.to(device)
            distil = (target * (target.clamp(min=1e-9).log() - log_share[row, :k])).sum()
            total = total + DISTIL_WEIGHT * distil + LABEL_WEIGHT * right
            facts.setdefault("distil", []).append(distil.item())
        hit = float(int(log_share[row].argmax()) in example.right)
        facts.setdefault(example.kind, []).append(hit)
    return total / len(batch), facts


def text_loss(model: Reranker, teacher_map: nn.Linear, pool: TextPool, rng: random.Random, device: str) -> tuple[Tensor, dict]:
    """How far the marks' vectors, mapped, are from the teacher's, and how far the similarities of
    all queries and texts of the batch are from the teacher's."""
    slates, taught_queries, taught_texts = pool.draw(rng, BATCH_TOKENS)
    with torch.autocast(device, torch.bfloat16):
        documents, queries, _ = model(slates)
    documents = documents.flatten(0, 1)
    taught_queries, taught_texts = taught_queries.to(device), taught_texts.to(device)
    near = F.cosine_similarity(teacher_map(documents), taught_texts).mean()
    near_queries = F.cosine_similarity(teacher_map(queries), taught_queries).mean()
    share = F.log_softmax(queries @ documents.T * SCALE, -1)
    target = F.softmax(taught_queries @ taught_texts.T * SCALE, -1)
    similar = F.kl_div(share, target, reduction="batchmean")
    loss = VECTOR_WEIGHT * (1.5 - near - 0.5 * near_queries) + SIMILARITY_WEIGHT * similar
    return loss, {"text": [near.item()], "query": [near_queries.item()], "similar": [similar.item()]}


@torch.no_grad()
def fitted_map(model: Reranker, pool: TextPool, rng: random.Random, device: str) -> nn.Linear:
    """The linear map that takes the model's vectors nearest to the teacher's (least squares)."""
    ours, taught = [], []
    for _ in range(24):
        slates, queries, texts = pool.draw(rng, BATCH_TOKENS)
        documents, asked, _ = model(slates)
        ours += [documents.flatten(0, 1), asked]
        taught += [texts.to(device), queries.to(device)]
    ours, taught = torch.cat(ours), torch.cat(taught)
    square = ours.T @ ours + 1e-2 * torch.eye(ours.shape[1], device=device)
    found = nn.Linear(ours.shape[1], taught.shape[1], bias=False, device=device)
    found.weight.copy_(torch.linalg.solve(square, ours.T @ taught).T)
    return found


def blend(first: dict, trained: dict, share: float) -> dict:
    """Weights between `first` (share 0) and `trained` (share 1)."""
    return {k: (1 - share) * first[k] + share * trained[k] for k in trained}


def factor(step: int, progress: float) -> float:
    """Share of the peak rate: warm-up, then a cosine over the run to 3 %."""
    return min(1.0, (step + 1) / WARM_UP) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * progress)))


def train_reranker(rank: int, options: argparse.Namespace) -> None:
    """One worker's run. Workers draw their own slates and average weights every few steps."""
    torch.set_num_threads(options.threads)
    torch.set_flush_denormal(True)
    workers = options.workers
    if workers > 1:
        dist.init_process_group("gloo", init_method=f"file://{options.work}/rendezvous", rank=rank, world_size=workers)
    maker = pickle.loads((options.work / "slates.pickle").read_bytes())
    static = torch.load(options.work / "static.pt")
    model = untrained(maker.tokenizer, static, options.seed).to(options.device)
    if options.start:
        trained = torch.load(options.start, map_location=options.device)
        model.load_state_dict(blend(model.state_dict(), trained, options.start_share))
    pool = TextPool.load(options.work)
    teacher_map = fitted_map(model, pool, random.Random(options.seed), options.device)
    rng = random.Random(1000 * options.seed + rank)
    table = model.embed_tokens.weight
    body = [p for p in model.parameters() if p is not table]
    trained = [*model.parameters(), *teacher_map.parameters()]
    optimiser = torch.optim.AdamW(
        [
            {"params": [*body, *teacher_map.parameters()], "peak": options.rate},
            {"params": [table], "peak": EMBEDDING_RATE * options.rate},
        ],
        betas=(0.9, 0.98),
        weight_decay=0.01,
        fused=True,
    )
    started, tokens, recent = time.time(), 0, {}
    step, progress = 0, 0.0
    while progress < 1:
        shares = kind_shares(progress)
        kind = rng.choices(list(shares), list(shares.values()))[0]
        for group in optimiser.param_groups:
            group["lr"] = group["peak"] * factor(step, progress)
        if kind == "texts":
            loss, facts = text_loss(model, teacher_map, pool, rng, options.device)
            tokens += BATCH_TOKENS
        else:
            batch = draw_batch(maker, rng, kind, options.blind)
            loss, facts = loss_of(model, maker, batch, options.device)
            tokens += sum(len(d) for e in batch for d in e.slate.documents)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(trained, 1.0)
        optimiser.step()
        for kind, values in facts.items():
            recent.setdefault(kind, []).extend(values)
        step += 1
        if step % AVERAGE_EVERY == 0:
            spent = (time.time() - started) / (60 * options.minutes) if options.minutes else 0.0
            progress = max(step / options.steps, spent)
            if workers > 1:
                average(trained, workers)
                progress = agree(progress)
        if rank == 0 and step % 24 == 0:
            shown = " ".join(f"{k} {np.mean(v[-200:]):.3f}" for k, v in sorted(recent.items()))
            rate = workers * tokens / (time.time() - started)
            print(f"step {step} {progress:.3f} {time.time() - started:.0f} s {rate:.0f} tokens/s | {shown}", flush=True)
            recent = {k: v[-200:] for k, v in recent.items()}
        if rank == 0 and (step % 96 == 0 or progress >= 1):
            torch.save(model.state_dict(), options.work / "reranker.pt")
    if rank == 0:
        facts = {"steps": step, "tokens": workers * tokens, "seconds": round(time.time() - started)}
        (options.work / "run.json").write_text(json.dumps(facts))
        print(facts, flush=True)


def agree(progress: float) -> float:
    """The first worker's progress, so that all stop together."""
    value = torch.tensor([progress], dtype=torch.float64)
    dist.broadcast(value, 0)
    return value.item()


@torch.no_grad()
def average(parameters: list[Tensor], workers: int) -> None:
    """Replace the weights by their mean over the workers."""
    flat = torch.cat([p.data.reshape(-1) for p in parameters])
    dist.all_reduce(flat)
    flat /= workers
    start = 0
    for parameter in parameters:
        parameter.data.copy_(flat[start : start + parameter.numel()].view_as(parameter))
        start += parameter.numel()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="folder with the training files")
    parser.add_argument("--work", type=Path, required=True, help="folder for intermediate results")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--static-epochs", type=int, default=4)
    parser.add_argument("--steps", type=int, default=1400, help="steps of each worker, a multiple of 8")
    parser.add_argument("--rate", type=float, default=3e-4, help="peak rate of the layers")
    parser.add_argument("--blind", type=float, default=0.4, help="share of plain slates without the lexical evidence")
    parser.add_argument("--start", type=Path, help="go on from these weights instead of the warm start")
    parser.add_argument("--start-share", type=float, default=1.0, help="their share; the rest is the warm start")
    parser.add_argument("--minutes", type=float, default=0, help="stop sooner, after so many minutes")
    parser.add_argument("--workers", type=int, default=2, help="processes that average their weights")
    parser.add_argument("--threads", type=int, default=1, help="threads of each worker")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    options.work = options.work.resolve()
    Workspace(options.data, options.work, options.seed, options.static_epochs, options.device).slates()
    (options.work / "rendezvous").unlink(missing_ok=True)
    if options.workers > 1:
        torch.multiprocessing.spawn(train_reranker, (options,), nprocs=options.workers)
    else:
        train_reranker(0, options)


if __name__ == "__main__":
    main()
