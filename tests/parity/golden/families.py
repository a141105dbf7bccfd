"""What each family's reference code does to texts: prompts, truncation, token ids, marks.

Written anew from the behaviour of the vendors' code, piece by piece: where the vendor encodes a
prompt in pieces, so does this. Prompt strings are facts of the trained formats. The one difference:
control tokens spelled out in a caller's text are removed first, which the vendors do not do.
"""

from dataclasses import dataclass

from transformers import PreTrainedTokenizerFast


@dataclass
class Prompt:
    """One sequence: the documents in it, its ids, and where the scores are read."""

    documents: list[int]
    token_ids: list[int]
    marks: list[int]


class Tokens:
    """The tokenizer, in the words used below."""

    def __init__(self, tokenizer: PreTrainedTokenizerFast):
        self.tokenizer = tokenizer

    def ids(self, text: str) -> list[int]:
        return self.tokenizer(text, add_special_tokens=False)["input_ids"]

    def id(self, token: str) -> int:
        found = self.tokenizer.convert_tokens_to_ids(token)
        assert found is not None, token
        return found

    def clean(self, text: str) -> str:
        """Without the control tokens spelled out in it, until none is left."""
        while True:
            cleaned = text
            for token in self.tokenizer.get_added_vocab():
                cleaned = cleaned.replace(token, "")
            if cleaned == text:
                return text
            text = cleaned

    def cut(self, text: str, limit: int) -> tuple[str, int]:
        """jina-v3's cut: through ids and back to text, if there are at least `limit` of them."""
        ids = self.tokenizer(text, truncation=True, max_length=limit)["input_ids"]
        return (self.tokenizer.decode(ids) if len(ids) >= limit else text), len(ids)


JINA_SYSTEM = (
    "You are a search relevance expert who can determine a ranking of the passages based on how relevant they are to "
    "the query. If the query is a question, how relevant a passage is depends on how well it answers the question. If "
    "not, try to analyze the intent of the query and assess how well each passage satisfies the intent. If an "
    "instruction is provided, you should follow the instruction when determining the ranking."
)
EMPTY_THOUGHT = "<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n"


def jina_text(query: str, documents: list[str], instruction: str | None, early_mark: str = "") -> str:
    passages = "\n".join(
        f'<passage id="{place}">\n{text}<|embed_token|>\n</passage>' for place, text in enumerate(documents)
    )
    slot = f"<instruct>\n{instruction}\n</instruct>\n" if instruction else ""
    return (
        f"<|im_start|>system\n{JINA_SYSTEM}<|im_end|>\n<|im_start|>user\n"
        f"I will provide you with {len(documents)} passages, each indicated by a numerical identifier. "
        f"Rank the passages based on their relevance to query: {query}{early_mark}\n"
        f"{slot}{passages}\n<query>\n{query}<|rerank_token|>\n</query>{EMPTY_THOUGHT}"
    )


def jina_blocks(lengths: list[int], query_length: int, context: int, document_limit: int, most: int) -> list[list[int]]:
    """Which documents are read together."""
    room = context - 2 * query_length
    blocks, block, left = [], [], room
    for place, length in enumerate(lengths):
        block.append(place)
        left -= length
        if len(block) >= most or left <= document_limit:
            blocks.append(block)
            block, left = [], room
    return blocks + [block] if block else blocks


def jina_prompts(
    tokens: Tokens,
    query: str,
    documents: list[str],
    instruction: str | None,
    document_limit: int = 2048,
    query_limit: int = 512,
    context: int = 131_072,
    block: int = 125,
    early_mark: str = "",
) -> list[Prompt]:
    """`early_mark`: v3.5 has the query's mark after the first query too, and reads the later one."""
    query, query_length = tokens.cut(query, query_limit)
    cut = [tokens.cut(text, document_limit) for text in documents]
    embed, rerank = tokens.id("<|embed_token|>"), tokens.id("<|rerank_token|>")
    prompts = []
    for places in jina_blocks([length for _, length in cut], query_length, context, document_limit, block):
        text = jina_text(query, [cut[place][0] for place in places], instruction, early_mark)
        ids = tokens.tokenizer(text)["input_ids"]
        last = len(ids) - 1 - ids[::-1].index(rerank)
        marks = [at for at, token in enumerate(ids) if token == embed] + [last]
        assert len(marks) == len(places) + 1 and ids.count(rerank) == 1 + bool(early_mark)
        prompts.append(Prompt(places, ids, marks))
    return prompts


def qwen3_prompts(tokens: Tokens, query: str, documents: list[str], instruction: str | None) -> list[Prompt]:
    if instruction is None:
        instruction = "Given a web search query, retrieve relevant passages that answer the query"
    prefix = tokens.ids(
        "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and the Instruct "
        'provided. Note that the answer can only be "yes" or "no".<|im_end|>\n<|im_start|>user\n'
    )
    suffix = tokens.ids(EMPTY_THOUGHT)
    prompts = []
    for place, text in enumerate(documents):
        content = tokens.ids(f"<Instruct>: {instruction}\n<Query>: {query}\n<Document>: {text}")
        ids = prefix + content[: 8192 - len(prefix) - len(suffix)] + suffix
        prompts.append(Prompt([place], ids, [len(ids) - 1]))
    return prompts


def mxbai_prompts(
    tokens: Tokens, query: str, documents: list[str], instruction: str | None, context: int
) -> list[Prompt]:
    prefix = tokens.ids(
        "<|im_start|>system\nYou are Qwen, created by Alibaba Cloud. You are a helpful assistant.<|im_end|>\n"
        "<|im_start|>user\n"
    )
    task = tokens.ids(
        "You are a search relevance expert who evaluates how well documents match search queries. For each "
        "query-document pair, carefully analyze the semantic relationship between them, then provide your binary "
        "relevance judgment (0 for not relevant, 1 for relevant).\nRelevance:"
    )
    suffix, separator = tokens.ids("<|im_end|>\n<|im_start|>assistant\n"), tokens.ids("\n")
    frame = len(prefix) + len(task) + len(suffix) + len(separator)
    longest = min(8192, context - frame)
    asked = f"instruction: {instruction}\nquery: {query}" if instruction else f"query: {query}"
    asked = tokens.ids(asked)[: longest * 3 // 4]
    prompts = []
    for place, text in enumerate(documents):
        document = tokens.ids(f"document: {text}")[: min(context - len(asked) - frame, longest)]
        second = (separator + document)[: longest - len(asked)]
        ids = prefix + asked + second + separator + task + suffix
        prompts.append(Prompt([place], ids, [len(ids) - 1]))
    return prompts


def zerank_prompts(tokens: Tokens, query: str, documents: list[str], instruction: str | None) -> list[Prompt]:
    asked = query[:2000].strip()
    if instruction:  # the vendor's recommendation; there is no native slot
        asked = f"<query>{asked}</query>\n<instruction>{instruction}</instruction>"
    prompts = []
    for place, text in enumerate(documents):
        ids = tokens.ids(
            f"<|im_start|>system\n{asked}<|im_end|>\n<|im_start|>user\n{text[:10_000].strip()}<|im_end|>\n"
            "<|im_start|>assistant\n"
        )
        prompts.append(Prompt([place], ids, [len(ids) - 1]))
    return prompts


def contextual_prompts(tokens: Tokens, query: str, documents: list[str], instruction: str | None) -> list[Prompt]:
    asked = f" {instruction}" if instruction else ""
    prompts = []
    for place, text in enumerate(documents):
        ids = tokens.ids(
            "Check whether a given document contains information helpful to answer the query.\n"
            f"<Document> {text}\n<Query> {query}{asked} ??"
        )
        prompts.append(Prompt([place], ids, [len(ids) - 1]))
    return prompts


def bge_prompts(tokens: Tokens, query: str, documents: list[str], instruction: str | None) -> list[Prompt]:
    """FlagEmbedding's pieces, tokenized one by one; the instruction is its argument `prompt`."""
    start = [tokens.tokenizer.convert_tokens_to_ids(token) for token in ("<bos>", "<s>") if token in tokens.tokenizer.get_vocab()]
    separator, longest = tokens.ids("\n"), 512
    task = tokens.ids(
        instruction
        or "Given a query A and a passage B, determine whether the passage contains an answer to the query by providing "
        "a prediction of either 'Yes' or 'No'."
    )
    asked = start[:1] + tokens.ids(f"A: {query}")[: longest * 3 // 4]
    prompts = []
    for place, text in enumerate(documents):
        second = separator + tokens.ids(f"B: {text}")[:longest]
        second = second[: longest + len(separator) + len(task) - len(asked)]
        ids = asked + second + separator + task
        prompts.append(Prompt([place], ids, [len(ids) - 1]))
    return prompts


def e2rank_prompts(tokens: Tokens, query: str, documents: list[str], instruction: str | None) -> list[Prompt]:
    """The model card's format: the query's prompt, which shows the first twenty documents, then each document."""
    texts = [f"{tokens.tokenizer.decode(tokens.ids(text)[:1024])}<|endoftext|>" for text in documents]
    task = instruction or (
        "Given a web search query and some relevant documents, rerank the documents that answer the query"
    )
    shown = "\n".join(f"[{place}] {text}" for place, text in enumerate(texts[:20], start=1))
    asked = f"<|im_start|>user\n{task}:\nDocuments:\n{shown}Search Query:{query}{EMPTY_THOUGHT}"
    sequences = [([], asked), *(([place], text) for place, text in enumerate(texts))]
    prompts = [Prompt(places, tokens.ids(text), []) for places, text in sequences]
    for prompt in prompts:
        prompt.marks.append(len(prompt.token_ids) - 1)
    return prompts


def chat(tokens: Tokens, system: str, user: str) -> str:
    """In the checkpoint's chat format, or in Qwen's."""
    if tokens.tokenizer.chat_template:
        messages = [{"role": "system", "content": system}, {"role": "user", "content": user}]
        return tokens.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return f"<|im_start|>system\n{system}<|im_end|>\n<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n"


def yes_no_prompts(tokens: Tokens, query: str, documents: list[str], instruction: str | None) -> list[Prompt]:
    system = "You judge whether a passage is relevant to a search query. Answer only Yes or No."
    rule = f"Instruction: {instruction}\n" if instruction else ""
    prompts = []
    for place, text in enumerate(documents):
        # The chat template strips messages; Podium strips the document.
        text = text.strip()
        ids = tokens.ids(chat(tokens, system, f"Search Query: {query}\n{rule}Passage: {text}"))
        prompts.append(Prompt([place], ids, [len(ids) - 1]))
    return prompts


def logit_score_prompts(tokens: Tokens, query: str, documents: list[str], instruction: str | None) -> list[Prompt]:
    """The messages that sentence-transformers makes of a pair, with the prompt as the system message."""
    system = [{"role": "system", "content": instruction}] if instruction else []
    prompts = []
    for place, text in enumerate(documents):
        messages = [*system, {"role": "query", "content": query}, {"role": "document", "content": text}]
        rendered = tokens.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        ids = tokens.ids(rendered)
        prompts.append(Prompt([place], ids, [len(ids) - 1]))
    return prompts


def first_prompt(tokens: Tokens, query: str, documents: list[str], places: list[int]) -> Prompt:
    """One window, in the chat format, up to and with the `[` that the first identifier follows."""
    listed = "".join(f"[{chr(ord('A') + at)}] {documents[place]}\n" for at, place in enumerate(places))
    count = len(places)
    system = "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to the query"
    user = (
        f"I will provide you with {count} passages, each indicated by a alphabetical identifier []. "
        f"Rank the passages based on their relevance to the search query: {query}.\n\n{listed}"
        f"Search Query: {query}.\nRank the {count} passages above based on their relevance to the search query. "
        "All the passages should be included and listed using identifiers, in descending order of relevance. "
        "The output format should be [] > [], e.g., [B] > [A], Only respond with the ranking results, do not say any "
        "word or explain."
    )
    text = chat(tokens, system, user) + "["
    ids = tokens.ids(text)
    return Prompt(list(places), ids, [len(ids) - 1])
