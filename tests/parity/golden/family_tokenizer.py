"""A small byte-level BPE tokenizer of Qwen's make, shared by the families' checkpoints."""

from pathlib import Path

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizerFast

# Qwen's rule for where text may be split: a fact of the trained tokenizers.
SPLIT = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", "<|embed_token|>", "<|rerank_token|>"]
NOT_SPECIAL = ["<think>", "</think>"]  # added tokens without the special flag, as in Qwen3
MERGES = 620

# Answer words stand alone often enough to become single tokens; the rest shapes the merges, so that
# punctuation and line ends do merge, as they do in Qwen ("?\n", ".\n\n").
CORPUS = [
    *["yes\nno\nYes\nNo\n"] * 40,
    *["query: document: instruction: relevance\n\nsystem\nuser\nassistant\n"] * 8,
    *["<Instruct>: Given a web search query, retrieve relevant passages\n<Query>: what?\n<Document>: that.\n"] * 8,
    *["Rank the passages based on their relevance to the search query.\n\nIs it so?\nIt is!\n"] * 8,
    "The harbour of the small town froze over in January, and the ferries stayed at their moorings.",
    "A tax credit lowers the tax that is owed; a deduction lowers the income that is taxed.",
    "Water boils at a lower temperature on a mountain because the air presses less on its surface.",
    "Der Zug nach München hat zwanzig Minuten Verspätung. Où est la gare? ¿Dónde está el café?",
    "绿茶富含儿茶素等抗氧化剂。 Чай растёт в горах. 東京の夏は暑い。 🙂🙃 naïve café",
    'fn main() { let x = 42; println!("{x}"); } // 3.14159 != 2.71828',
]


# Llama 3's control tokens and, in its essentials, its chat template.
LLAMA = ["<|begin_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"]
LLAMA_CHAT = """{{- bos_token }}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content'].strip() %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{%- if tools is defined and tools is not none %}
    {{- raise_exception("no tools") }}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\n\n" + system_message + "<|eot_id|>" }}
{%- for message in messages %}
    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\n\n' + message['content'] | trim + '<|eot_id|>' }}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\n\n' }}
{%- endif %}
"""

# A chat template for a pair of texts, as sentence-transformers' rerankers have.
PAIR_CHAT = """{%- for message in messages %}
    {%- if message.role == 'system' %}
        {{- '<|im_start|>system\n' + message.content + '<|im_end|>\n' }}
    {%- elif message.role == 'query' %}
        {{- '<|im_start|>user\nQuery: ' + message.content }}
    {%- elif message.role == 'document' %}
        {{- '\nDocument: ' + message.content + '<|im_end|>\n' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
{%- endif %}
"""


def train(path: Path, thinks: bool, llama: bool = False, start: str | None = None) -> None:
    """`thinks`: with the added tokens of Qwen3's tokenizer; without, as Qwen2.5's. `llama`: with Llama 3's.
    `start`: with this token for the start of a sequence."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=MERGES, initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()), show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_special_tokens((LLAMA if llama else SPECIAL) + ([start] if start else []))
    if thinks:
        tokenizer.add_tokens([AddedToken(text, normalized=False) for text in NOT_SPECIAL])
    for answer in ("yes", "no", "Yes", "0", "1", "A", "Z", "["):
        assert len(tokenizer.encode(answer).ids) == 1, f"{answer!r} is not a single token"
    tokenizer.save(str(path), pretty=False)


def load(path: Path) -> PreTrainedTokenizerFast:
    """As the vendors' code has it: special-token text in a prompt becomes the special token."""
    return PreTrainedTokenizerFast(tokenizer_file=str(path), clean_up_tokenization_spaces=False)
