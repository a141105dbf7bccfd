"""Valid requests with random passages."""

import json
import random

from http_client import request_bytes

WORDS = """water light stone river market engine letter garden winter signal copper harbour bridge doctor window planet
music silver forest report number method result system memory pattern answer question library museum station teacher
history account battery carbon danger energy figure gravity hunger island justice kitchen lawyer measure""".split()


def random_text(random_: random.Random, words: int) -> str:
    return " ".join(random_.choices(WORDS, k=words))


def rerank_body(random_: random.Random, documents: int, words: int) -> dict:
    return {
        "query": random_text(random_, 6),
        "documents": [random_text(random_, words) for _ in range(documents)],
    }


def rerank_request(random_: random.Random, documents: int, words: int) -> bytes:
    return request_bytes("POST", "/v1/rerank", json.dumps(rerank_body(random_, documents, words)).encode())
