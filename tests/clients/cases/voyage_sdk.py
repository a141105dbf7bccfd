"""Voyage's SDK, blocking and async."""

import asyncio

import voyageai
from voyageai import error

from checks import DOCUMENTS, GOOD_KEY, INSTRUCTION, QUERY, check_instruction, check_ranking, ensure
from harness import case, error_cases, voyage_losses

MODEL = "rerank-2.5"


def rows(reply):
    return [(row.index, row.relevance_score) for row in reply.results]


@case("voyageai", "Client.rerank", "voyageai")
def blocking(servers):
    client = voyageai.Client(api_key=GOOD_KEY, base_url=servers.url + "/v1")
    reply = client.rerank(QUERY, DOCUMENTS, model=MODEL, top_k=3)
    # The SDK puts the documents beside the rows itself.
    check_ranking(servers, rows(reply), top_n=3, texts=[row.document for row in reply.results])
    ensure(reply.total_tokens > 0, "no tokens in usage")


@case("voyageai", "Client.rerank, all documents", "voyageai")
def everything(servers):
    client = voyageai.Client(api_key=GOOD_KEY, base_url=servers.url + "/v1")
    check_ranking(servers, rows(client.rerank(QUERY, DOCUMENTS, model=MODEL, truncation=False)))


@case("voyageai", "AsyncClient.rerank", "voyageai")
def not_blocking(servers):
    async def call():
        client = voyageai.AsyncClient(api_key=GOOD_KEY, base_url=servers.url + "/v1")
        return await client.rerank(QUERY, DOCUMENTS, model=MODEL, top_k=2)

    check_ranking(servers, rows(asyncio.run(call())), top_n=2)


@case("voyageai", "Reranking.create, instruction", "voyageai")
def instruction(servers):
    reply = voyageai.Reranking.create(
        query=QUERY,
        documents=DOCUMENTS,
        model=MODEL,
        instruction=INSTRUCTION,
        api_key=GOOD_KEY,
        base_url=servers.url + "/v1",
    )
    check_instruction(servers, [(row.index, row.relevance_score) for row in reply.data])


def call(url, key, model, query):
    client = voyageai.Client(api_key=key, base_url=url + "/v1", max_retries=0)
    return client.rerank(query, DOCUMENTS, model=model)


error_cases(
    "voyageai",
    "Client.rerank",
    "voyageai",
    call,
    raises={
        404: error.VoyageError,
        422: error.MalformedRequestError,
        401: error.AuthenticationError,
        429: error.RateLimitError,
        **dict.fromkeys(voyage_losses(), AttributeError),
    },
    loses=voyage_losses(),
)
