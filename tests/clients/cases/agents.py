"""Agents, memories and gateways: agno, mem0, LightRAG, Jina's command line, LocalAI's and OpenRouter's packages."""

import asyncio
import json
import os
import subprocess
import sys

import cohere
import openrouter
from agno.knowledge.document import Document as AgnoDocument
from agno.knowledge.reranker.cohere import CohereReranker as AgnoCohere
from langchain_core.documents import Document
from langchain_localai import LocalAIRerank
from lightrag import rerank
from mem0.configs.rerankers.cohere import CohereRerankerConfig
from mem0.configs.rerankers.zero_entropy import ZeroEntropyRerankerConfig
from mem0.reranker.cohere_reranker import CohereReranker as MemoryCohere
from mem0.reranker.zero_entropy_reranker import ZeroEntropyReranker as MemoryZeroEntropy

from checks import DOCUMENTS, GOOD_KEY, PROFILE, QUERY, check_ranking, check_steered
from harness import case, error_cases

# It makes three attempts, seconds apart, whatever the status.
rerank.generic_rerank_api = rerank.generic_rerank_api.__wrapped__

DASHSCOPE = "/api/v1/services/rerank/text-rerank/text-rerank"


@case("agno", "CohereReranker.rerank", "agno")
def agno_cohere(servers):
    client = cohere.Client(api_key=GOOD_KEY, base_url=servers.url)
    reranker = AgnoCohere(model="podium-mini", cohere_client=client, top_n=3)
    found = reranker.rerank(QUERY, [AgnoDocument(content=text) for text in DOCUMENTS])
    # Without a ranking, agno returns the documents as they were.
    check_ranking(servers, [(DOCUMENTS.index(each.content), each.reranking_score) for each in found], top_n=3)


def memory_case(name, make):
    @case("mem0ai", f"{name}.rerank", "mem0ai")
    def rank(servers):
        memories = [{"memory": text, "place": place} for place, text in enumerate(DOCUMENTS)]
        found = make(servers.url).rerank(QUERY, memories, top_k=3)
        # Without a ranking, mem0 returns the memories as they were, with a score of 0.
        check_ranking(servers, [(each["place"], each["rerank_score"]) for each in found], top_n=3)


def memory_cohere(url):
    reranker = MemoryCohere(CohereRerankerConfig(model="podium-mini", api_key=GOOD_KEY))
    # No argument sets the URL; the SDK reads CO_API_URL when it is imported.
    reranker.client._client_wrapper._base_url = url
    return reranker


def memory_zero_entropy(url):
    os.environ["ZEROENTROPY_BASE_URL"] = url + "/v1"
    return MemoryZeroEntropy(ZeroEntropyRerankerConfig(model="podium-mini", api_key=GOOD_KEY))


memory_case("CohereReranker", memory_cohere)
memory_case("ZeroEntropyReranker", memory_zero_entropy)


def light_rag(function, path):
    def call(url, key, model, query):
        rows = asyncio.run(function(query, DOCUMENTS, top_n=3, api_key=key, model=model, base_url=url + path))
        return [(row["index"], row["relevance_score"]) for row in rows]

    @case("lightrag-hku", function.__name__, "lightrag-hku")
    def rank(servers):
        check_ranking(servers, call(servers.url, GOOD_KEY, "podium-mini", QUERY), top_n=3)

    return call


light_rag(rerank.ali_rerank, DASHSCOPE)
light_rag(rerank.jina_rerank, "/v1/rerank")
error_cases("lightrag-hku", "cohere_rerank", "lightrag-hku", light_rag(rerank.cohere_rerank, "/v2/rerank"))


# The command line in a process of its own, with the address replaced: it is a constant of the module.
JINA = "import sys; from jina_cli import api, main; api.API_BASE = sys.argv.pop(1); api.MAX_RETRIES = 1; main.cli()"


def jina(url, key, model, query, *more):
    command = [sys.executable, "-W", "ignore", "-c", JINA, url, "rerank", query, "--model", model, *more]
    done = subprocess.run(
        command,
        input="\n".join(DOCUMENTS),
        env={**os.environ, "JINA_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return done.stdout


@case("jina-cli", "jina rerank --json", "jina-cli")
def jina_rerank_command(servers):
    rows = json.loads(jina(servers.url, GOOD_KEY, "podium-mini", QUERY, "--top-n", "3", "--json"))
    check_ranking(servers, [(row["index"], row["relevance_score"]) for row in rows], top_n=3)


error_cases(
    "jina-cli",
    "jina rerank",
    "jina-cli",
    jina,
    kinds=(404, 422, 401),
    raises=RuntimeError,
    loses={401: "it has words of its own for a wrong key"},
)


def local_ai(url, key, model, query, top_n=3):
    compressor = LocalAIRerank(model=model, top_n=top_n, openai_api_key=key, openai_api_base=url)
    passages = [Document(page_content=text, metadata={"place": place}) for place, text in enumerate(DOCUMENTS)]
    return [(each.metadata["place"], each.metadata["relevance_score"]) for each in compressor.compress_documents(passages, query)]


@case("langchain-localai", "LocalAIRerank.compress_documents", "langchain-localai")
def local_ai_rerank(servers):
    check_ranking(servers, local_ai(servers.url, GOOD_KEY, "podium-mini", QUERY), top_n=3)


@case("langchain-localai", "LocalAIRerank, profile in the model's name", "langchain-localai")
def local_ai_profile(servers):
    check_steered(servers, local_ai(servers.url, GOOD_KEY, f"podium-mini@{PROFILE}", QUERY, None), profile=PROFILE)


error_cases(
    "langchain-localai",
    "LocalAIRerank",
    "langchain-localai",
    local_ai,
    loses="httpx shows the status and not the body",
)


def open_router(url, key, model, query):
    client = openrouter.OpenRouter(api_key=key, server_url=url + "/v1", retry_config=None)
    # The SDK requires a document in each row, and has no argument that asks for one.
    headers = {"podium-return-documents": "true"}
    return client.rerank.rerank(model=model, query=query, documents=DOCUMENTS, top_n=3, http_headers=headers)


@case("openrouter", "OpenRouter.rerank.rerank", "openrouter")
def open_router_rerank(servers):
    reply = open_router(servers.url, GOOD_KEY, "podium-mini", QUERY)
    rows = [(row.index, row.relevance_score) for row in reply.results]
    check_ranking(servers, rows, top_n=3, texts=[row.document.text for row in reply.results])


error_cases(
    "openrouter",
    "OpenRouter.rerank.rerank",
    "openrouter",
    open_router,
    kinds=(404, 422, 401),
    loses=dict.fromkeys((404, 401), "it requires a number in `error.code`"),
)
