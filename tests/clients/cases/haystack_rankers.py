"""Haystack's rankers."""

import asyncio

from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.jina import JinaRanker
from haystack_integrations.components.rankers.nvidia import NvidiaRanker

from checks import DOCUMENTS, GOOD_KEY, PROFILE, QUERY, check_ranking, check_steered, ensure
from harness import case, error_cases

NVIDIA = "nvidia/llama-nemotron-rerank-1b-v2"
PASSAGES = [Document(content=text, meta={"place": place}) for place, text in enumerate(DOCUMENTS)]


def rows(found):
    return [(each.meta["place"], each.score) for each in found["documents"]]


def cohere(url, key, model):
    return CohereRanker(model=model, top_k=3, api_key=Secret.from_token(key), api_base_url=url)


def jina(url, key, model):
    return JinaRanker(model=model, top_k=3, api_key=Secret.from_token(key), base_url=url + "/v1/rerank")


def nvidia(url, key, model):
    return NvidiaRanker(model=model, top_k=3, api_key=Secret.from_token(key), api_url=url + "/v1", truncate="END")


@case("cohere-haystack", "CohereRanker.run", "cohere-haystack")
def cohere_run(servers):
    check_ranking(servers, rows(cohere(servers.url, GOOD_KEY, "rerank-v4.0-pro").run(QUERY, PASSAGES)), top_n=3)


@case("cohere-haystack", "CohereRanker.run_async", "cohere-haystack")
def cohere_async(servers):
    found = asyncio.run(cohere(servers.url, GOOD_KEY, "rerank-v4.0-pro").run_async(QUERY, PASSAGES))
    check_ranking(servers, rows(found), top_n=3)


@case("jina-haystack", "JinaRanker.run", "jina-haystack")
def jina_run(servers):
    found = jina(servers.url, GOOD_KEY, "jina-reranker-v3").run(QUERY, PASSAGES)
    check_ranking(servers, rows(found), top_n=3)
    ensure(found["meta"]["usage"]["total_tokens"] > 0, f"{found['meta']}")


@case("nvidia-haystack", "NvidiaRanker.run", "nvidia-haystack")
def nvidia_run(servers):
    check_ranking(servers, rows(nvidia(servers.url, GOOD_KEY, NVIDIA).run(QUERY, PASSAGES)), top_n=3, raw=True)


@case("jina-haystack", "JinaRanker.run, profile in the model's name", "jina-haystack")
def profile(servers):
    found = jina(servers.url, GOOD_KEY, f"podium-mini@{PROFILE}").run(QUERY, PASSAGES, top_k=len(PASSAGES))
    check_steered(servers, rows(found), profile=PROFILE)


def call_with(make):
    return lambda url, key, model, query: make(url, key, model).run(query, PASSAGES)


def nvidia_call(url, key, _, query):
    return nvidia(url, key, NVIDIA).run(query, PASSAGES)


# CohereRanker has no case for 429, because its SDK waits for Retry-After and retries.
error_cases("cohere-haystack", "CohereRanker", "cohere-haystack", call_with(cohere), kinds=(404, 422, 401))
error_cases("jina-haystack", "JinaRanker", "jina-haystack", call_with(jina), raises=RuntimeError)
error_cases("nvidia-haystack", "NvidiaRanker", "nvidia-haystack", nvidia_call, kinds=(422, 401, 429))
