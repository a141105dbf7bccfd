"""The tokenizer: lowercasing byte-level BPE with the model's control tokens.

Trained on the passages and questions, plus the teacher's word list so that common English
words outside the training domains are whole tokens too.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

import regex
from tokenizers import (
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    trainers,
)

from data import Corpus
from lexical import BUCKETS
from teacher import teacher_folder

VOCABULARY = 32_000
WORD_LIST_REPEATS = 60
CJK_SHARE = 0.25
START, END, RERANK, INSTRUCT = "<|im_start|>", "<|im_end|>", "<|rerank_token|>", "<|instruct|>"
EMBED = [f"<|embed_{b}|>" for b in range(BUCKETS)]
SPECIAL = ["<|endoftext|>", START, END, "<|embed_token|>", RERANK, INSTRUCT, *EMBED]
SPLIT = r" ?\p{L}[\p{L}\p{M}]*|\p{N}{1,4}| ?[^\s\p{L}\p{N}]+|\s+"


def training_texts(corpus: Corpus, seed: int) -> Iterator[str]:
    """What the merges are counted on: training articles only, a share of the CJK texts."""
    rng = random.Random(seed)
    for passage in corpus.passages:
        if not passage.held_out and (passage.language == "en" or rng.random() < CJK_SHARE):
            yield " " + passage.titled
    for pair in corpus.pairs:
        passage = corpus.passages[pair.passage]
        if not passage.held_out and passage.language == "en":
            yield " " + pair.query
    words = (teacher_folder() / "vocab.txt").read_text(encoding="utf-8").split()
    for word in words:
        if regex.fullmatch(r"[a-z]{3,}", word):
            yield f" {word}" * WORD_LIST_REPEATS


def train_tokenizer(corpus: Corpus, seed: int = 0) -> Tokenizer:
    """Train the tokenizer; the control tokens take the last ids."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(training_texts(corpus, seed), trainer)
    tokenizer.add_special_tokens(SPECIAL)
    assert tokenizer.token_to_id(EMBED[-1]) == VOCABULARY - 1
    return tokenizer


def encode(tokenizer: Tokenizer, text: str, limit: int) -> list[int]:
    """Ids of one piece of text, as the prompt holds it."""
    return tokenizer.encode(" " + " ".join(text.split())).ids[:limit]


def encode_all(tokenizer: Tokenizer, texts: list[str], limit: int) -> list[list[int]]:
    """`encode` of many texts."""
    found = tokenizer.encode_batch([" " + " ".join(t.split()) for t in texts])
    return [e.ids[:limit] for e in found]
