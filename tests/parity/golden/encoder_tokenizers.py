"""Small tokenizers of the kinds that encoders have: WordPiece, SentencePiece's Unigram, byte-level BPE."""

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)
from transformers import PreTrainedTokenizerFast

from .family_tokenizer import CORPUS
from .texts import MIXED, PLAIN, QUERY

TEXTS = [*CORPUS, *MIXED, *PLAIN, QUERY]
BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
XLM = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]


def pair(tokenizer: Tokenizer, template: str, names: list[str]) -> None:
    tokenizer.post_processor = processors.TemplateProcessing(
        single=template.split(" $B")[0].replace(":1", ""),
        pair=template,
        special_tokens=[(name, tokenizer.token_to_id(name)) for name in names],
    )


def word_piece() -> PreTrainedTokenizerFast:
    """As BERT's: lower case, accents stripped, the second text of type 1."""
    tokenizer = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    tokenizer.normalizer = normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece()
    trainer = trainers.WordPieceTrainer(vocab_size=420, special_tokens=BERT, limit_alphabet=60, show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    pair(tokenizer, "[CLS]:0 $A:0 [SEP]:0 $B:1 [SEP]:1", ["[CLS]", "[SEP]"])
    return wrapped(tokenizer, BERT, types=True)


def unigram() -> PreTrainedTokenizerFast:
    """As XLM-RoBERTa's: a space before the first word, two separators between the texts."""
    tokenizer = Tokenizer(models.Unigram())
    tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Replace(Regex(" {2,}"), " ")])
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    tokenizer.decoder = decoders.Metaspace(prepend_scheme="always")
    trainer = trainers.UnigramTrainer(vocab_size=400, special_tokens=XLM, unk_token="<unk>", show_progress=False)
    tokenizer.train_from_iterator(TEXTS, trainer)
    pair(tokenizer, "<s> $A </s> </s> $B </s>", ["<s>", "</s>"])
    return wrapped(tokenizer, XLM, types=True)


def byte_level(roberta: bool) -> PreTrainedTokenizerFast:
    """As RoBERTa's, or as ModernBERT's, whose runs of spaces are added tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = None if roberta else normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    names = XLM if roberta else BERT
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = names if roberta else []
    trainer = trainers.BpeTrainer(
        vocab_size=420, initial_alphabet=alphabet, special_tokens=special, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS, trainer)
    if roberta:
        ends = [(name, tokenizer.token_to_id(name)) for name in ("</s>", "<s>")]
        tokenizer.post_processor = processors.RobertaProcessing(*ends, trim_offsets=True, add_prefix_space=False)
    else:
        tokenizer.add_tokens([AddedToken(" " * width, normalized=True, special=False) for width in (4, 3, 2)])
        tokenizer.add_special_tokens(BERT)
        pair(tokenizer, "[CLS] $A [SEP] $B [SEP]", ["[CLS]", "[SEP]"])
    return wrapped(tokenizer, names, types=False)


def wrapped(tokenizer: Tokenizer, names: list[str], types: bool) -> PreTrainedTokenizerFast:
    roles = ("cls_token", "pad_token", "sep_token", "unk_token", "mask_token")
    order = names if names is XLM else [names[at] for at in (2, 0, 3, 1, 4)]
    inputs = ["input_ids", "attention_mask", *(["token_type_ids"] if types else [])]
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        model_input_names=inputs,
        clean_up_tokenization_spaces=False,
        **dict(zip(roles, order, strict=True)),
    )
