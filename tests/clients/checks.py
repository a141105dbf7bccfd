"""The checks of a case: compares a client's ranking with the server's, and its errors too."""

import json
import math
import time
import urllib.error
import urllib.request

from wiretap import Wiretap

QUERY = "How do I get my money back for a cancelled flight?"
DOCUMENTS = [
    "Our cabin crew serves hot meals on all flights that are longer than three hours.",
    "Passengers of a cancelled flight may claim a refund of the full ticket price within seven days.",
    "The airport train leaves every fifteen minutes from platform two.",
    "To ask for your money back, open the booking, choose Cancelled flight and press Request refund.",
    "Refunds of cancelled flights were slow last year, a newspaper wrote.",
]
INSTRUCTION = "Prefer texts about trains and meals. Refunds are not relevant."
# A stored instruction; any client can select it by the model's name (`podium-mini@argument`).
PROFILE = "argument"

# Keys for the server with keys: a valid one, one that is limited to a request per minute, an
# invalid one.
GOOD_KEY, SLOW_KEY, WRONG_KEY = "podium-good-key", "podium-slow-key", "podium-wrong-key"
UNKNOWN_MODEL = "no-such-model"

# The server's message must contain this, so that a missing route is not mistaken for a missing
# model.
NAMED = {404: UNKNOWN_MODEL, 422: "query", 401: "key", 429: "limit"}

# If Retry-After is not above this, the limit may refill before the client sends its request.
REFILL_SECONDS = 8

# The score of a request differs in the last bits of an f32 when other requests are in its batch.
TOLERANCE = 1e-4

# Exceptions that mean that a client failed to parse an error reply, instead of showing its message.
PARSE_FAILURES = (
    "KeyError",
    "AttributeError",
    "TypeError",
    "IndexError",
    "ValidationError",
    "JSONDecodeError",
    "AssertionError",
)


class Failed(Exception):
    """A failed check."""


def send(url, path, body=None, key=None):
    """Sends a request, a POST if there is a body. Returns status, JSON reply and headers."""
    headers = {"content-type": "application/json", **({"authorization": f"Bearer {key}"} if key else {})}
    request = urllib.request.Request(url + path, json.dumps(body).encode() if body else None, headers)
    try:
        reply = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        reply = error
    with reply:
        text = reply.read()
        return reply.status, json.loads(text) if text else None, reply.headers


def post(url, path, body):
    """Sends a POST. Returns status and JSON reply."""
    return send(url, path, body)[:2]


def get(url, path):
    """Sends a GET. Returns status and JSON reply."""
    return send(url, path)[:2]


class Servers:
    """The open server and the one with keys, each behind a wiretap."""

    def __init__(self, open_url, keyed_url):
        self.direct, self.keyed_direct = open_url, keyed_url
        self.tap = Wiretap(int(open_url.rsplit(":", 1)[1]))
        self.keyed_tap = Wiretap(int(keyed_url.rsplit(":", 1)[1])) if keyed_url else None
        self.url = self.tap.url
        self.known = {}

    def taps(self):
        return [tap for tap in (self.tap, self.keyed_tap) if tap]

    def exchanges(self):
        return [each for tap in self.taps() for each in tap.exchanges()]

    def forget(self):
        for tap in self.taps():
            tap.forget()

    def ranking(self, query=QUERY, documents=None, **steering):
        """The ranking of `POST /v1/rerank`, past the wiretap: (index, relevance_score, raw_score).

        `steering` is an `instruction`, or a `profile` (the name of a stored instruction).
        """
        body = {"query": query, "documents": documents or DOCUMENTS, **steering}
        known_as = json.dumps(body)
        if known_as not in self.known:
            status, reply = post(self.direct, "/v1/rerank", body)
            ensure(status == 200, f"POST /v1/rerank replied {status} {reply}")
            self.known[known_as] = [
                (row["index"], row["relevance_score"], row["raw_score"]) for row in reply["results"]
            ]
        return self.known[known_as]

    def exhaust(self):
        """Sends requests with the slow key until the server replies 429."""
        for _ in range(20):
            status, _, headers = send(self.keyed_direct, "/v1/rerank", {"query": "q", "documents": ["d"]}, SLOW_KEY)
            if status == 429:
                wait = int(headers["retry-after"])
                if wait > REFILL_SECONDS:
                    return
                # The limit refills too soon for the client's request, so wait and try again.
                time.sleep(wait)
        raise Failed("no 429 after 20 requests with the key that has a rate limit")


def ensure(condition, message):
    """Raises `Failed` with the message unless the condition holds."""
    if not condition:
        raise Failed(message)


def check_ranking(servers, rows, top_n=None, texts=None, raw=False, **request):
    """Checks that `rows` (index, score) are the server's first `top_n`, and `texts` their documents.

    With `raw`, scores may be logits, which are not limited to [0, 1].
    """
    rows = [(int(index), float(score)) for index, score in rows]
    expected = servers.ranking(**request)[:top_n]
    indices = [index for index, _ in rows]
    ensure(indices == [row[0] for row in expected], f"order {indices}, the server's is {[row[0] for row in expected]}")
    for (index, score), (_, relevance, raw_score) in zip(rows, expected):
        ensure(raw or 0.0 <= score <= 1.0, f"score {score} of document {index} is not in [0, 1]")
        near = [
            each
            for each in ((relevance, raw_score) if raw else (relevance,))
            if math.isclose(score, each, abs_tol=TOLERANCE)
        ]
        ensure(near, f"score {score} of document {index}, the server's is {relevance} (raw {raw_score})")
    if texts is not None:
        documents = request.get("documents") or DOCUMENTS
        ensure(list(texts) == [documents[index] for index in indices], f"documents {list(texts)} at indices {indices}")


def check_steered(servers, rows, raw=False, **steering):
    """Checks that `rows` are the complete ranking with this instruction or profile.

    It must change a score, so that a client which drops it fails.
    """
    check_ranking(servers, rows, raw=raw, **steering)
    plain, steered = ({row[0]: row[1] for row in servers.ranking(**each)} for each in ({}, steering))
    ensure(max(abs(plain[index] - steered[index]) for index in plain) > 0.01, f"{steering} changes no score")


def check_instruction(servers, rows, raw=False):
    """Checks that `rows` are the complete ranking with INSTRUCTION."""
    check_steered(servers, rows, raw, instruction=INSTRUCTION)


def extract_message(reply):
    """The message in an error body of any dialect."""
    if isinstance(reply, dict):
        error = reply.get("error")
        for found in (
            error.get("message") if isinstance(error, dict) else error,
            reply.get("message"),
            reply.get("detail"),
        ):
            if isinstance(found, str):
                return found
    raise Failed(f"no message in the error {reply}")


def without_quotes(text):
    """The text without quotes and escapes, which clients add when they embed a message."""
    return "".join(letter for letter in str(text) if letter not in "\\\"'")


def check_error(servers, call, status, raises=Exception, loses=None):
    """Checks that the server replied `status`, and `call` raises `raises` with the server's message.

    `loses` is the reason why this client cannot show the message of any server; then the check is that it does not.
    """
    try:
        result = call()
    except Failed:
        raise
    except Exception as error:  # noqa: BLE001 the check inspects any exception of the client
        raised = error
    else:
        raise Failed(f"no error; the client returned {result!r}")
    exchanges = servers.exchanges()
    ensure(exchanges, f"the client sent no request; {type(raised).__name__}: {raised}")
    answered = exchanges[-1]
    ensure(
        answered.status == status, f"status {answered.status} instead of {status}; {type(raised).__name__}: {raised}"
    )
    message = extract_message(answered.reply())
    ensure(NAMED[status] in message, f"the server's message does not name {NAMED[status]!r}: {message!r}")
    ensure(isinstance(raised, raises), f"{type(raised).__name__} instead of {raises}: {raised}")
    shown = without_quotes(message) in without_quotes(raised)
    if loses:
        ensure(not shown, f"the client shows the message now: {raised}")
        return f"client shows {type(raised).__name__}: {loses}"
    ensure(type(raised).__name__ not in PARSE_FAILURES, f"the client failed to parse the reply: {type(raised).__name__}: {raised}")
    ensure(shown, f"the server's message {message!r} is not in {type(raised).__name__}: {raised}")
    return f"{type(raised).__name__}: {message}"
