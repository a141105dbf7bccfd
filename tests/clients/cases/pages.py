"""Runs every fenced python block of docs/clients against the server.

Only the address is replaced. Each page runs in the environment that has its packages.
"""

import contextlib
import io
import os
import pathlib
import re

from checks import TOLERANCE, ensure
from harness import case

FOLDER = pathlib.Path(__file__).parents[3] / "docs" / "clients"
ADDRESS = "http://127.0.0.1:8080"

ENVIRONMENTS = {
    "cohere": "sdks",
    "voyageai": "sdks",
    "together": "sdks",
    "mixedbread": "sdks",
    "zeroentropy": "sdks",
    "contextual": "sdks",
    "openai": "sdks",
    "pinecone": "sdks",
    "rerankers": "sdks",
    "xinference": "sdks",
    "litellm": "litellm",
    "infinity": "older",
    "langchain": "frameworks",
    "llama-index": "frameworks",
    "haystack": "frameworks",
    "servers": "sdks",
    "clouds": "clouds",
    "vector-databases": "integrations",
    "agents": "integrations",
}

# Every snippet sends this query, and prints the index or the text of the best document and its
# score.
QUERY = "how do I reset my password?"
DOCUMENTS = ["Cats sleep a lot.", "Open Settings, then Security, then Reset password."]
INSTRUCTION = "Prefer official documentation."
PROFILE = "support"


def blocks(page):
    """The python blocks of a page, each with its first line."""
    for found in re.finditer(r"^```python\n(.*?)^```$", page, re.MULTILINE | re.DOTALL):
        yield page.count("\n", 0, found.start()) + 2, found[1]


def run(servers, name, code):
    """Runs one block, and checks its output and its requests."""
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        exec(compile(code.replace(ADDRESS, servers.url), name, "exec"), {"__name__": "__main__"})
    ensure(servers.exchanges(), "the snippet sent nothing")
    lines = printed.getvalue().splitlines()
    ensure(lines, "the snippet printed nothing")
    if ".models.list()" in code:
        ensure(lines[0] == "podium-mini", f"it printed {lines[0]!r}")
        return
    best, relevance, raw = servers.ranking(query=QUERY, **{"documents": DOCUMENTS, **steering(code)})[0]
    found = [start for start in (f"{best} ", f"{DOCUMENTS[best]} ") if lines[0].startswith(start)]
    ensure(found, f"it printed {lines[0]!r}; the best document is {best}, {DOCUMENTS[best]!r}")
    score = float(lines[0][len(found[0]) :].split()[0])
    near = [each for each in (relevance, raw) if abs(score - each) < TOLERANCE]
    ensure(near, f"it printed {lines[0]!r}; the server's score is {relevance} (raw {raw})")


def steering(code):
    """What a snippet sends beside the query, as fields of the server's request."""
    if "/score" in code:
        return {"mode": "pointwise"}
    if "RankingRecord" in code:
        return {"documents": [f"content: {text}" for text in DOCUMENTS]}
    if INSTRUCTION in code:
        return {"instruction": INSTRUCTION}
    return {"profile": PROFILE} if f"@{PROFILE}" in code else {}


def register(path):
    for line, code in blocks(path.read_text()):
        name = f"docs/clients/{path.name}:{line}"

        @case("documentation", name)
        def page(servers, name=name, code=code):
            run(servers, name, code)


if os.environ["PODIUM_CLIENTS_ENVIRONMENT"] == "sdks":

    @case("documentation", "every page has an environment, and snippets")
    def complete(_):
        pages = {path.stem for path in FOLDER.glob("*.md") if list(blocks(path.read_text()))}
        ensure(pages == set(ENVIRONMENTS), f"{sorted(pages ^ set(ENVIRONMENTS))}")


for each, environment in ENVIRONMENTS.items():
    if environment == os.environ["PODIUM_CLIENTS_ENVIRONMENT"]:
        register(FOLDER / f"{each}.md")
