"""What a case checks: a client's answer against the server's own, and the text of its errors."""

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
# A stored instruction, which any client can ask for in the name of the model.
PROFILE = "brief"

# A key in the server with keys that works, and one that may send a single request a minute.
GOOD_KEY, SLOW_KEY, WRONG_KEY = "podium-good-key", "podium-slow-key", "podium-wrong-key"
UNKNOWN_MODEL = "no-such-model"

# What the server's message must name, so that a missing route does not pass for a missing model.
NAMED = {404: UNKNOWN_MODEL, 422: "query", 401: "key", 429: "limit"}

# A rate limit that refills this soon is not used up for long enough to show it to a client.
REFILL_SECONDS = 8

# Scores of one request alone and in a batch with others differ in the last bits of an f32.
TOLERANCE = 1e-4

# Exceptions that a client raises when it stumbles over a reply, instead of telling its user what the server said.
STUMBLES = (
    "KeyError",
    "AttributeError",
    "TypeError",
    "IndexError",
    "ValidationError",
    "JSONDecodeError",
    "AssertionError",
)


class Failed(Exception):
    """A case that does not hold."""


def send(url, path, body=None, key=None):
    """A plain request, a POST where there is a body: status, reply and headers."""
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
    """A POST: status and reply."""
    return send(url, path, body)[:2]


def get(url, path):
    """A GET: status and reply."""
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
        """What `POST /v1/rerank` says, past the wiretap: rows of index, relevance_score, raw_score.

        `steering` is an `instruction` in words or the name of a stored one, a `profile`.
        """
        body = {"query": query, "documents": documents or DOCUMENTS, **steering}
        known_as = json.dumps(body)
        if known_as not in self.known:
            status, reply = post(self.direct, "/v1/rerank", body)
            ensure(status == 200, f"the server's own answer is {status} {reply}")
            self.known[known_as] = [
                (row["index"], row["relevance_score"], row["raw_score"]) for row in reply["results"]
            ]
        return self.known[known_as]

    def exhaust(self):
        """Uses the slow key until the server says 429."""
        for _ in range(20):
            status, _, headers = send(self.keyed_direct, "/v1/rerank", {"query": "q", "documents": ["d"]}, SLOW_KEY)
            if status == 429:
                wait = int(headers["retry-after"])
                if wait > REFILL_SECONDS:
                    return
                # A client that asks later than that would be let through.
                time.sleep(wait)
        raise Failed("no 429 after 20 requests with the key that has a rate limit")


def ensure(holds, told):
    """A check with its own words."""
    if not holds:
        raise Failed(told)


def check_ranking(servers, rows, top_n=None, texts=None, raw=False, **request):
    """`rows` (index, score) are the server's first `top_n`, and `texts`, if given, the documents in that order.

    With `raw` the client calls its score a logit: then it is the family's own number and not bound to [0, 1].
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
    """`rows` are the whole ranking under this instruction or profile, and its scores are others than without."""
    check_ranking(servers, rows, raw=raw, **steering)
    plain, steered = ({row[0]: row[1] for row in servers.ranking(**each)} for each in ({}, steering))
    ensure(max(abs(plain[index] - steered[index]) for index in plain) > 0.01, f"{steering} changes no score")


def check_instruction(servers, rows, raw=False):
    """`rows` are the whole ranking under INSTRUCTION."""
    check_steered(servers, rows, raw, instruction=INSTRUCTION)


def message_of(reply):
    """The message in an error body, whichever dialect it is in."""
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


def plain(text):
    """Without the quotes and escapes that stand around a message inside another."""
    return "".join(letter for letter in str(text) if letter not in "\\\"'")


def check_error(servers, call, status, raises=Exception, loses=None):
    """`call` raises `raises`, the server answered with `status`, and the server's message is in the exception.

    `loses` says in words why this client cannot show the message, whatever a server sends; that is then checked too.
    """
    try:
        result = call()
    except Failed:
        raise
    except Exception as error:  # noqa: BLE001 whatever the client raises is what is looked at
        raised = error
    else:
        raise Failed(f"no error, but {result!r}")
    exchanges = servers.exchanges()
    ensure(exchanges, f"nothing was sent; {type(raised).__name__}: {raised}")
    answered = exchanges[-1]
    ensure(
        answered.status == status, f"status {answered.status} instead of {status}; {type(raised).__name__}: {raised}"
    )
    message = message_of(answered.reply())
    ensure(NAMED[status] in message, f"the server's message does not name {NAMED[status]!r}: {message!r}")
    ensure(isinstance(raised, raises), f"{type(raised).__name__} instead of {raises}: {raised}")
    shown = plain(message) in plain(raised)
    if loses:
        ensure(not shown, f"the client shows the message now: {raised}")
        return f"client shows {type(raised).__name__}: {loses}"
    ensure(type(raised).__name__ not in STUMBLES, f"the client stumbles: {type(raised).__name__}: {raised}")
    ensure(shown, f"the server's message {message!r} is not in {type(raised).__name__}: {raised}")
    return f"{type(raised).__name__}: {message}"
