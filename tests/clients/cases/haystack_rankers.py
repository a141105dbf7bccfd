"""Haystack's rankers."""

import asyncio
import os

from haystack import Document
from haystack.utils import Secret
from haystack_integrations.components.rankers.amazon_bedrock import AmazonBedrockRanker
from haystack_integrations.components.rankers.cohere import CohereRanker
from haystack_integrations.components.rankers.huggingface_api import HuggingFaceTEIRanker
from haystack_integrations.components.rankers.jina import JinaRanker
from haystack_integrations.components.rankers.nvidia import NvidiaRanker
from haystack_integrations.components.rankers.vllm import VLLMRanker
from haystack_integrations.components.rankers.voyage import VoyageRanker

from checks import (
    DOCUMENTS,
    GOOD_KEY,
    INSTRUCTION,
    PROFILE,
    QUERY,
    check_instruction,
    check_ranking,
    check_steered,
    ensure,
)
from harness import case, error_cases, voyage_losses

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


def vllm(url, key, model, **more):
    return VLLMRanker(model=model, api_key=Secret.from_token(key), api_base_url=url + "/v1", top_k=3, **more)


def tei(url, key, _):
    return HuggingFaceTEIRanker(url=url, top_k=3, token=Secret.from_token(key), max_retries=0)


def voyage(url, key, model):
    ranker = VoyageRanker(model=model, top_k=3, api_key=Secret.from_token(key), max_retries=0)
    # No argument sets the URL.
    ranker.client._params["base_url"] = url + "/v1"
    return ranker


def bedrock(url, model):
    # No argument sets the URL; boto3 reads this variable.
    os.environ["AWS_ENDPOINT_URL_BEDROCK_AGENT_RUNTIME"] = url
    any_secret = Secret.from_token("any")
    return AmazonBedrockRanker(
        model=model,
        top_k=3,
        aws_access_key_id=any_secret,
        aws_secret_access_key=any_secret,
        aws_session_token=None,
        aws_region_name="us-west-2",
        aws_profile_name=None,
    )


@case("vllm-haystack", "VLLMRanker.run", "vllm-haystack")
def vllm_run(servers):
    found = vllm(servers.url, GOOD_KEY, "podium-mini").run(QUERY, PASSAGES)
    check_ranking(servers, rows(found), top_n=3)
    ensure(found["meta"]["usage"]["total_tokens"] > 0, f"{found['meta']}")


@case("vllm-haystack", "VLLMRanker.run, instruction", "vllm-haystack")
def vllm_instruction(servers):
    ranker = vllm(servers.url, GOOD_KEY, "podium-mini", extra_parameters={"instruction": INSTRUCTION})
    check_instruction(servers, rows(ranker.run(QUERY, PASSAGES, top_k=len(PASSAGES))))


@case("huggingface-api-haystack", "HuggingFaceTEIRanker.run", "huggingface-api-haystack")
def tei_run(servers):
    check_ranking(servers, rows(tei(servers.url, GOOD_KEY, None).run(QUERY, PASSAGES)), top_n=3)


@case("voyage-embedders-haystack", "VoyageRanker.run", "voyage-embedders-haystack")
def voyage_run(servers):
    check_ranking(servers, rows(voyage(servers.url, GOOD_KEY, "rerank-2.5").run(QUERY, PASSAGES)), top_n=3)


@case("amazon-bedrock-haystack", "AmazonBedrockRanker.run", "amazon-bedrock-haystack")
def bedrock_run(servers):
    check_ranking(servers, rows(bedrock(servers.url, "podium-mini").run(QUERY, PASSAGES)), top_n=3)


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
error_cases("vllm-haystack", "VLLMRanker", "vllm-haystack", call_with(vllm), raises=RuntimeError)
error_cases(
    "huggingface-api-haystack", "HuggingFaceTEIRanker", "huggingface-api-haystack", call_with(tei), kinds=(422, 401)
)
error_cases(
    "voyage-embedders-haystack",
    "VoyageRanker",
    "voyage-embedders-haystack",
    call_with(voyage),
    kinds=(404, 422, 401),
    loses=voyage_losses(),
)
error_cases(
    "amazon-bedrock-haystack",
    "AmazonBedrockRanker",
    "amazon-bedrock-haystack",
    lambda url, key, model, query: bedrock(url, model).run(query, PASSAGES),
    kinds=(404,),
)
