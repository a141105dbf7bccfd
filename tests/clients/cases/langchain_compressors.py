"""LangChain's document compressors."""

import asyncio
from urllib.parse import quote

import cohere
from langchain_aws import BedrockRerank
from langchain_cohere import CohereRerank
from langchain_community.document_compressors import jina_rerank
from langchain_core.documents import Document
from langchain_nvidia_ai_endpoints import NVIDIARerank
from langchain_reranker.rerankers import init_reranker
from langchain_voyageai import VoyageAIRerank
from langchain_zerank import ZeroEntropyRerank
from pydantic import SecretStr
from zeroentropy import ZeroEntropy

from checks import DOCUMENTS, GOOD_KEY, INSTRUCTION, PROFILE, QUERY, check_instruction, check_ranking, check_steered
from harness import case, error_cases, voyage_losses

NVIDIA = "nvidia/llama-nemotron-rerank-1b-v2"
PASSAGES = [Document(page_content=text, metadata={"place": place}) for place, text in enumerate(DOCUMENTS)]


def rows(documents):
    return [(each.metadata["place"], each.metadata["relevance_score"]) for each in documents]


@case("langchain-cohere", "CohereRerank.compress_documents", "langchain-cohere")
def cohere_rerank(servers):
    compressor = CohereRerank(cohere_api_key=GOOD_KEY, base_url=servers.url, model="rerank-v4.0-pro", top_n=3)
    check_ranking(servers, rows(compressor.compress_documents(PASSAGES, QUERY)), top_n=3)


@case("langchain-cohere", "CohereRerank.rerank, dictionaries", "langchain-cohere")
def cohere_dictionaries(servers):
    compressor = CohereRerank(cohere_api_key=GOOD_KEY, base_url=servers.url, model="rerank-v4.0-pro")
    documents = [{"text": text, "number": number} for number, text in enumerate(DOCUMENTS)]
    found = compressor.rerank(documents, QUERY, rank_fields=["text"], top_n=None)
    sent = [compressor._document_to_str(each, ["text"]) for each in documents]
    check_ranking(servers, [(row["index"], row["relevance_score"]) for row in found], documents=sent)


@case("langchain-cohere", "CohereRerank, profile in the model's name", "langchain-cohere")
def cohere_profile(servers):
    model = f"podium-mini@{PROFILE}"
    compressor = CohereRerank(cohere_api_key=GOOD_KEY, base_url=servers.url, model=model, top_n=None)
    check_steered(servers, rows(compressor.compress_documents(PASSAGES, QUERY)), profile=PROFILE)


@case("langchain-nvidia-ai-endpoints", "NVIDIARerank, instruction in a header", "langchain-nvidia-ai-endpoints")
def nvidia_instruction(servers):
    compressor = NVIDIARerank(
        base_url=servers.url + "/v1",
        model="podium-mini",
        api_key=GOOD_KEY,
        usage_telemetry_enabled=False,
        default_headers={"podium-instruction": quote(INSTRUCTION)},
    )
    check_instruction(servers, rows(compressor.compress_documents(PASSAGES, QUERY)), raw=True)


@case("langchain-voyageai", "VoyageAIRerank.compress_documents", "langchain-voyageai")
def voyage_rerank(servers):
    check_ranking(servers, rows(voyage(servers.url).compress_documents(PASSAGES, QUERY)), top_n=3)


@case("langchain-voyageai", "VoyageAIRerank.acompress_documents", "langchain-voyageai")
def voyage_async(servers):
    check_ranking(servers, rows(asyncio.run(voyage(servers.url).acompress_documents(PASSAGES, QUERY))), top_n=3)


def voyage(url, key=GOOD_KEY, model="rerank-2.5"):
    return VoyageAIRerank(api_key=key, base_url=url + "/v1", model=model, top_k=3)


@case("langchain-nvidia-ai-endpoints", "NVIDIARerank.compress_documents", "langchain-nvidia-ai-endpoints")
def nvidia_rerank(servers):
    check_ranking(servers, rows(nvidia(servers.url).compress_documents(PASSAGES, QUERY)), top_n=3, raw=True)


@case("langchain-nvidia-ai-endpoints", "NVIDIARerank.acompress_documents", "langchain-nvidia-ai-endpoints")
def nvidia_async(servers):
    found = asyncio.run(nvidia(servers.url).acompress_documents(PASSAGES, QUERY))
    check_ranking(servers, rows(found), top_n=3, raw=True)


def nvidia(url, key=GOOD_KEY, model=NVIDIA):
    return NVIDIARerank(
        base_url=url + "/v1", model=model, api_key=key, top_n=3, truncate="END", usage_telemetry_enabled=False
    )


@case("langchain-community", "JinaRerank.compress_documents", "langchain-community")
def jina(servers):
    check_ranking(servers, rows(jina_call(servers.url, GOOD_KEY, "jina-reranker-v3", QUERY)), top_n=3)


def jina_call(url, key, model, query):
    # The URL is a constant of the module.
    jina_rerank.JINA_API_URL = url + "/v1/rerank"
    return jina_rerank.JinaRerank(jina_api_key=key, model=model, top_n=3).compress_documents(PASSAGES, query)


@case("langchain-aws", "BedrockRerank.compress_documents", "langchain-aws")
def bedrock(servers):
    check_ranking(servers, rows(bedrock_call(servers.url, None, "podium-mini", QUERY)), top_n=3)


def bedrock_call(url, _, model, query):
    compressor = BedrockRerank(
        model_arn=f"arn:aws:bedrock:us-west-2::foundation-model/{model}",
        endpoint_url=url,
        region_name="us-west-2",
        aws_access_key_id=SecretStr("any"),
        aws_secret_access_key=SecretStr("any"),
        top_n=3,
    )
    return compressor.compress_documents(PASSAGES, query)


@case("langchain-reranker", "init_reranker, provider custom", "langchain-reranker")
def http_reranker(servers):
    check_ranking(servers, rows(http_call(servers.url, GOOD_KEY, "podium-mini", QUERY)), top_n=3)


def http_call(url, key, model, query):
    reranker = init_reranker(f"custom:{model}", base_url=url + "/v1", api_key=key, top_n=3)
    return reranker.compress_documents(PASSAGES, query)


@case("langchain-zerank", "ZeroEntropyRerank.compress_documents", "langchain-zerank")
def zerank(servers):
    check_ranking(servers, rows(zerank_call(servers.url, GOOD_KEY, "zerank-2", QUERY)), top_n=3)


def zerank_call(url, key, model, query):
    client = ZeroEntropy(api_key=key, base_url=url + "/v1", max_retries=0)
    return ZeroEntropyRerank(client=client, model=model, top_n=3).compress_documents(PASSAGES, query)


def cohere_call(url, key, model, query):
    return CohereRerank(cohere_api_key=key, base_url=url, model=model).compress_documents(PASSAGES, query)


def voyage_call(url, key, model, query):
    return voyage(url, key, model).compress_documents(PASSAGES, query)


def nvidia_call(url, key, _, query):
    # The client requests the list of models first, and rejects a name that is not in it.
    return nvidia(url, key).compress_documents(PASSAGES, query)


# CohereRerank has no case for 429, because its SDK always waits for Retry-After and retries.
error_cases(
    "langchain-cohere",
    "CohereRerank",
    "langchain-cohere",
    cohere_call,
    kinds=(404, 422, 401),
    raises={404: cohere.NotFoundError, 422: cohere.UnprocessableEntityError, 401: cohere.UnauthorizedError},
)
error_cases("langchain-voyageai", "VoyageAIRerank", "langchain-voyageai", voyage_call, loses=voyage_losses())
error_cases("langchain-community", "JinaRerank", "langchain-community", jina_call, raises=RuntimeError)
error_cases(
    "langchain-nvidia-ai-endpoints", "NVIDIARerank", "langchain-nvidia-ai-endpoints", nvidia_call, kinds=(422, 401, 429)
)
error_cases("langchain-aws", "BedrockRerank", "langchain-aws", bedrock_call, kinds=(404,))
error_cases(
    "langchain-reranker",
    "HttpReranker",
    "langchain-reranker",
    http_call,
    loses="httpx shows the status and not the body",
)
error_cases("langchain-zerank", "ZeroEntropyRerank", "langchain-zerank", zerank_call)
