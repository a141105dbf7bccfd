"""LiteLLM's `rerank()` with every provider whose base URL can be set."""

import asyncio
import os

os.environ["LITELLM_LOCAL_MODEL_COST_MAP"] = "True"

import litellm

from checks import DOCUMENTS, GOOD_KEY, INSTRUCTION, QUERY, check_instruction, check_ranking
from harness import case, error_cases

# provider/model: the base URL's path, and whether a score is a logit.
PROVIDERS = {
    "cohere/rerank-v4.0-pro": ("", False),
    "jina_ai/jina-reranker-v3": ("", False),
    "infinity/BAAI/bge-reranker-base": ("/infinity", False),
    "hosted_vllm/podium-mini": ("", False),
    "huggingface/podium-mini": ("", False),
    "voyage/rerank-2.5": ("/v1", False),
    "together_ai/Salesforce/Llama-Rank-v1": ("/v1", False),
    "azure_ai/rerank-v4.0-pro": ("", False),
    "nvidia_nim/ranking/nvidia/llama-nemotron-rerank-1b-v2": ("", True),
}


def rows(reply):
    return [(row["index"], row["relevance_score"]) for row in reply.results]


def text_of(row):
    document = row.get("document")
    return document["text"] if isinstance(document, dict) else document


def provider_cases(model, path, raw):
    provider = model.split("/")[0]

    @case("litellm", f"rerank {provider}", "litellm")
    def plain(servers):
        reply = litellm.rerank(
            model=model, query=QUERY, documents=DOCUMENTS, top_n=3, api_base=servers.url + path, api_key=GOOD_KEY
        )
        check_ranking(servers, rows(reply), top_n=3, raw=raw)

    @case("litellm", f"rerank {provider}, documents back", "litellm")
    def documents(servers):
        reply = litellm.rerank(
            model=model,
            query=QUERY,
            documents=DOCUMENTS,
            return_documents=True,
            api_base=servers.url + path,
            api_key=GOOD_KEY,
        )
        check_ranking(servers, rows(reply), texts=[text_of(row) for row in reply.results], raw=raw)


for name, (path, raw) in PROVIDERS.items():
    provider_cases(name, path, raw)


@case("litellm", "rerank hosted_vllm, instruction", "litellm")
def instruction(servers):
    reply = litellm.rerank(
        model="hosted_vllm/podium-mini",
        query=QUERY,
        documents=DOCUMENTS,
        instruction=INSTRUCTION,
        api_base=servers.url,
        api_key=GOOD_KEY,
    )
    check_instruction(servers, rows(reply))


@case("litellm", "arerank cohere", "litellm")
def not_blocking(servers):
    call = litellm.arerank(
        model="cohere/rerank-v4.0-pro", query=QUERY, documents=DOCUMENTS, api_base=servers.url, api_key=GOOD_KEY
    )
    check_ranking(servers, rows(asyncio.run(call)))


def register_errors(provider, path, kinds=(404, 422, 401, 429)):
    def call(url, key, model, query):
        return litellm.rerank(
            model=f"{provider}/{model}",
            query=query,
            documents=DOCUMENTS,
            api_base=url + path,
            api_key=key,
            max_retries=0,
        )

    error_cases("litellm", f"rerank {provider}", "litellm", call, kinds=kinds)


register_errors("cohere", "")
register_errors("jina_ai", "")
register_errors("hosted_vllm", "")
register_errors("infinity", "/infinity")
register_errors("voyage", "/v1")
register_errors("huggingface", "", kinds=(422, 401, 429))
register_errors("nvidia_nim/ranking", "")
