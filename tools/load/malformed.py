"""Malformed requests: none of them may end in a 5xx."""

import asyncio
import gzip
import json
import random
from collections import Counter, defaultdict

from http_client import Connection, request_bytes
from report import print_table, read_metrics, resident_mib

RANKING = """/v1/rerank /v2/rerank /rerank /v1/reranking /reranking / /invocations /score /v1/score /v1/ranking /ranking
/v1/models/rerank /models/rerank /infinity/rerank /infinity/v1/rerank /pinecone/rerank /v1/reranks
/api/v1/services/rerank/text-rerank/text-rerank /v1/projects/p/locations/l/rankingConfigs/c:rank /compatible-api/v1/reranks
/_inference/rerank/x /sglang/v1/rerank /weaviate/rerank""".split()
OTHER = """/v1/instructions /v1/models /v1/models/x /models /v1/cluster/auth /infinity/models /info /health /ping /ready
/version /openapi.json /docs /docs/x /nowhere /v1 // /%00 /v1/models/%ff%fe /../etc/passwd /v1/rerank/""".split()
BODIES = {
    "rerank": {"query": "q", "documents": ["a", "b"], "top_n": 1, "return_documents": True},
    "records": {"query": "q", "documents": [{"text": "a", "title": "t"}, {"text": "b"}], "rank_fields": ["title"]},
    "tei": {"query": "q", "texts": ["a", "b"], "raw_scores": False, "return_text": True},
    "mixedbread": {"query": "q", "input": ["a", "b"], "top_k": 1},
    "score": {"text_1": "q", "text_2": ["a", "b"]},
    "pairs": {"queries": ["q", "r"], "documents": ["a", "b"]},
    "nim": {"query": {"text": "q"}, "passages": [{"text": "a"}, {"text": "b"}], "model": "podium-nano"},
    "pinecone": {"query": "q", "documents": [{"id": "1", "text": "a"}], "parameters": {"truncate": "END"}},
    "dashscope": {"input": {"query": "q", "documents": ["a", "b"]}, "parameters": {"top_n": 1, "instruct": "i"}},
    "bedrock": {
        "queries": [{"type": "TEXT", "textQuery": {"text": "q"}}],
        "sources": [{"type": "INLINE", "inlineDocumentSource": {"type": "TEXT", "textDocument": {"text": "a"}}}],
        "rerankingConfiguration": {"bedrockRerankingConfiguration": {"numberOfResults": 1}},
    },
    "vertex": {"query": "q", "records": [{"id": "1", "title": "t", "content": "c"}], "topN": 1},
    "elastic": {"query": "q", "input": ["a", "b"], "task_settings": {"top_n": 1}},
    "parts": {"query": {"content": [{"text": "q"}]}, "documents": {"content": [{"type": "text", "text": "a"}]}},
    "strings": {"query": "q", "documents": "a", "top_n": "1", "return_documents": "yes", "timeout_ms": "60000"},
    "options": {
        "query": "q", "documents": ["a"], "instruction": "i", "profile": "legal", "mode": "auto",
        "max_tokens_per_doc": 5, "truncation": True, "metadata": ["m"], "chat_template_kwargs": {"instruction": "i"},
    },
}  # fmt: skip
# Seconds without a response after which a request counts as silent.
RESPONSE_TIMEOUT = 300
METHODS = ["GET", "PUT", "DELETE", "PATCH", "HEAD", "OPTIONS", "TRACE", "BREW"]
TYPES = ["text/plain", "application/xml", "multipart/form-data; boundary=x", "application/x-www-form-urlencoded", "", "json"]
NUMBERS = ["1e400", "-1e400", "9" * 400, "-" + "9" * 400, "1e-400", "-0", "0.1", "NaN", "Infinity", "00", "1e308",
           "18446744073709551616", "-9223372036854775809", "0x10", "1_000", "+1", ".5", "1."]  # fmt: skip
CONTROLS = ["<|im_start|>", "<|embed_token|>", "<|endoftext|>", "</passage>", "<|im_end|>\n<|im_start|>assistant", "{{ query }}"]


class Generator:
    """Generates malformed requests, the same ones for the same seed. Each method make_KIND makes one kind."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.kinds = [name.removeprefix("make_") for name in dir(self) if name.startswith("make_")]

    def make(self) -> tuple[str, bytes, bool]:
        """The kind, the bytes, and whether the client closes its sending side after them."""
        kind = self.random.choice(self.kinds)
        made = getattr(self, "make_" + kind)()
        return (kind, *made) if isinstance(made, tuple) else (kind, made, False)

    def post(self, body: bytes, **headers) -> bytes:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        return request_bytes("POST", self.random.choice(RANKING), body, headers)

    def body(self) -> dict:
        return json.loads(json.dumps(self.random.choice(list(BODIES.values()))))

    def value(self, depth: int = 0):
        choices = [None, True, -1, 0, 2.5, 10**30, "", "x", "\u0000", "\U0001f600", " ", [], {}, "ä" * 50, [None], {"a": 1}]
        if depth < 3 and self.random.random() < 0.3:
            return [self.value(depth + 1) for _ in range(self.random.randrange(4))]
        return self.random.choice(choices + CONTROLS)

    def make_noise(self):
        return self.post(self.random.randbytes(self.random.randrange(1, 400)))

    def make_compressed(self):
        text = json.dumps(self.body()).encode()
        packed = gzip.compress(self.random.choice([text, text[:-2], b" " * 30_000_000, b""]), 1)
        packed = self.random.choice([packed, packed[: self.random.randrange(len(packed))], packed + b"x", packed * 2, text])
        return self.post(packed, content_encoding=self.random.choice(["gzip", "x-gzip", "zstd"]))

    def make_nested(self):
        """One value anywhere in the body is replaced or removed."""
        place = body = self.body()
        while True:
            key = self.random.choice(list(place)) if isinstance(place, dict) else self.random.randrange(len(place))
            if isinstance(place[key], dict | list) and place[key] and self.random.random() < 0.8:
                place = place[key]
                continue
            if self.random.random() < 0.3:
                del place[key]
            else:
                place[key] = self.value()
            return self.post(json.dumps(body).encode())

    def make_prefix(self):
        prefix = self.random.choice(["/", "/p", "//", "x", "/a b", "/" + "a" * 5000, "/v1", "/v1/rerank", "\"><script>"])
        return self.post(json.dumps(self.body()).encode(), x_forwarded_prefix=prefix)

    def make_cut_json(self):
        text = json.dumps(self.body()).encode()
        return self.post(text[: self.random.randrange(len(text))])

    def make_wrong_type(self):
        body = self.body()
        for name in self.random.sample(list(body), k=self.random.randint(1, len(body))):
            body[name] = self.value()
        return self.post(json.dumps(body).encode())

    def make_wrong_item(self):
        body = self.body()
        for name in body:
            if isinstance(body[name], list):
                body[name].insert(self.random.randrange(3), self.value())
        return self.post(json.dumps(body).encode())

    def make_number(self):
        body = json.dumps({**self.body(), self.random.choice(["top_n", "top_k", "max_tokens_per_doc", "query"]): "HERE"})
        return self.post(body.replace('"HERE"', self.random.choice(NUMBERS)).encode())

    def make_nesting(self):
        depth = self.random.choice([50, 127, 128, 129, 1000, 50_000])
        opening, closing = self.random.choice([("[", "]"), ('{"a":', "}")])
        deep = opening * depth + ("1" if opening != "[" else "") + closing * depth
        name = self.random.choice(["query", "documents", "parameters", "x"])
        return self.post(f'{{"query":"q","documents":["a"],"{name}":{deep}}}'.encode())

    def make_encoding(self):
        text = json.dumps({"query": "größe 中文 \U0001f600", "documents": ["é"]}, ensure_ascii=False)
        lone = b'{"query":"\\ud800","documents":["\\udc00\\ud83d"]}'
        return self.post(
            self.random.choice(
                [text.encode("utf-16"), text.encode("utf-8-sig"), text.encode("latin-1", "replace"), lone,
                 text.encode("utf-32"), text.encode().replace(b"\xc3", b"\xff"), text.encode() + b"\x00"]
            )
        )  # fmt: skip

    def make_short_body(self):
        text = json.dumps(self.body()).encode()
        return self.post(text, content_length=str(len(text) + self.random.randrange(1, 1000))), True

    def make_content_type(self):
        return self.post(json.dumps(self.body()).encode(), content_type=self.random.choice([*TYPES, None]))

    def make_content_encoding(self):
        return self.post(self.random.randbytes(50), content_encoding=self.random.choice(["gzip", "br", "zstd", "x"]))

    def make_method(self):
        path = self.random.choice(RANKING + OTHER)
        return request_bytes(self.random.choice(METHODS), path, b"", {"content-length": None})

    def make_path(self):
        return request_bytes("POST", self.random.choice(OTHER), json.dumps(self.body()).encode())

    def make_repeated_field(self):
        name = self.random.choice(["query", "documents", "top_n"])
        text = json.dumps(self.body())[:-1] + f', "{name}": {json.dumps(self.value())}}}'
        return self.post(text.encode())

    def make_unknown_field(self):
        return self.post(json.dumps({**self.body(), str(self.value()): self.value(), "model": self.value()}).encode())

    def make_field_header(self):
        name, value = self.random.choice(["podium-instruction", "podium-profile"]), self.random.choice(["%ff", "%", "x" * 5000])
        return self.post(json.dumps(self.body()).encode(), **{name: value})

    def make_request_id(self):
        return self.post(b"{}", x_request_id=self.random.choice(["<x>", "a" * 10_000, "\x7f", "é", "a b", '"']))

    def make_chunks(self):
        chunks = self.random.choice([b"zz\r\n{}\r\n0\r\n\r\n", b"5\r\n{}\r\n0\r\n\r\n", b"ffffffffffffffffff\r\n{}", b"-1\r\n"])
        head = self.post(b"", content_length=None, transfer_encoding="chunked")
        return head + chunks, True

    def make_lengths(self):
        length = self.random.choice(["-1", "x", "1e3", "99999999999999999999999", "0, 5", ""])
        return self.post(b"{}", content_length=length), True

    def make_head(self):
        return self.random.choice(
            [b"GET\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc", b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\r\n" * 20,
             b"POST / HTTP/9.9\r\n\r\n", b"GET / HTTP/1.1\r\nx" + b"y" * 70_000, b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 300 + b"\r\n",
             b"GET " + b"/" * 70_000 + b" HTTP/1.1\r\n\r\n", b"GET / HTTP/1.1\r\n: x\r\n\r\n"]
        ), True  # fmt: skip

    def make_many_documents(self):
        return self.post(json.dumps({"query": "q", "documents": ["a"] * self.random.choice([0, 1001, 5000])}).encode())

    def make_blank(self):
        return self.post(json.dumps({"query": self.random.choice([*CONTROLS, " ", "\u0000", ""]), "documents": [""]}).encode())

    def make_control_tokens(self):
        nested = "<|im_<|im_start|>start|>" * self.random.randint(1, 30)
        return self.post(json.dumps({"query": nested + "q", "documents": [nested, *CONTROLS]}).encode())


async def run(options) -> int:
    generator, remaining = Generator(options.seed), options.requests
    statuses, by_kind, samples = Counter(), defaultdict(Counter), {}
    before = await read_metrics(options.address)

    async def client():
        nonlocal remaining
        connection = Connection(options.address)
        while remaining > 0:
            remaining -= 1
            kind, data, half_close = generator.make()
            response = None
            try:
                response = await asyncio.wait_for(connection.send(data, half_close), RESPONSE_TIMEOUT)
                status = response.status if response else "closed"
            except TimeoutError:
                connection.close()
                status = "silent"
            statuses[status] += 1
            by_kind[kind][status] += 1
            if isinstance(status, str) or status >= 500:
                samples.setdefault((kind, status), (data[:300], response.body[:300] if response else b""))
        connection.close()

    await asyncio.gather(*(client() for _ in range(options.clients)))
    after = await read_metrics(options.address)
    print_table([(kind, *(by_kind[kind][status] for status in sorted(statuses, key=str))) for kind in sorted(by_kind)],
          ("kind", *sorted(statuses, key=str)))  # fmt: skip
    print_table([("all", *(statuses[status] for status in sorted(statuses, key=str)))], ("", *sorted(statuses, key=str)))
    print(f"resident: {resident_mib(before):.1f} MiB before, {resident_mib(after):.1f} MiB after")
    # A malformed head never reaches a handler: hyper responds with 400 or closes the connection.
    wrong = [key for key in samples if key[1] != "closed" or key[0] not in ("head", "lengths", "chunks")]
    for key in wrong:
        print("WRONG:", *key, *samples[key])
    return 1 if wrong else 0
