"""Good requests: lists of made-up passages, each list different from the last."""

import json
import random

from http1 import request_bytes

WORDS = """water light stone river market engine letter garden winter signal copper harbour bridge doctor window planet
music silver forest report number method result system memory pattern answer question library museum station teacher
history account battery carbon danger energy figure gravity hunger island justice kitchen lawyer measure""".split()


def passage(random_: random.Random, words: int) -> str:
    return " ".join(random_.choices(WORDS, k=words))


def good_body(random_: random.Random, documents: int, words: int) -> dict:
    return {
        "query": passage(random_, 6),
        "documents": [passage(random_, words) for _ in range(documents)],
    }


def good_request(random_: random.Random, documents: int, words: int) -> bytes:
    return request_bytes("POST", "/v1/rerank", json.dumps(good_body(random_, documents, words)).encode())
