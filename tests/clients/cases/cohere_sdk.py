"""Cohere's SDK: Client (v1) and ClientV2, blocking and async."""

import asyncio

import cohere

from checks import DOCUMENTS, GOOD_KEY, INSTRUCTION, QUERY, check_instruction, check_ranking, ensure
from harness import case, error_cases

MODEL = "rerank-v4.0-pro"
ERRORS = {
    404: cohere.NotFoundError,
    422: cohere.UnprocessableEntityError,
    401: cohere.UnauthorizedError,
    429: cohere.TooManyRequestsError,
}


def rows(reply):
    return [(row.index, row.relevance_score) for row in reply.results]


@case("cohere", "ClientV2.rerank", "cohere")
def v2(servers):
    client = cohere.ClientV2(GOOD_KEY, base_url=servers.url)
    reply = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=3, max_tokens_per_doc=4096, priority=0)
    check_ranking(servers, rows(reply), top_n=3)
    ensure(reply.id and reply.meta.billed_units.search_units == 1, f"id {reply.id!r}, meta {reply.meta}")


@case("cohere", "ClientV2.rerank, all documents", "cohere")
def v2_all(servers):
    reply = cohere.ClientV2(GOOD_KEY, base_url=servers.url).rerank(model=MODEL, query=QUERY, documents=DOCUMENTS)
    check_ranking(servers, rows(reply))


@case("cohere", "ClientV2.rerank, YAML documents", "cohere")
def v2_yaml(servers):
    documents = [f"title: Note {number}\ntext: {text}\n" for number, text in enumerate(DOCUMENTS)]
    reply = cohere.ClientV2(GOOD_KEY, base_url=servers.url).rerank(model=MODEL, query=QUERY, documents=documents)
    check_ranking(servers, rows(reply), documents=documents)


@case("cohere", "AsyncClientV2.rerank", "cohere")
def v2_async(servers):
    async def call():
        async with cohere.AsyncClientV2(GOOD_KEY, base_url=servers.url) as client:
            return await client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=2)

    check_ranking(servers, rows(asyncio.run(call())), top_n=2)


@case("cohere", "ClientV2.rerank, instruction", "cohere")
def v2_instruction(servers):
    client = cohere.ClientV2(GOOD_KEY, base_url=servers.url)
    options = {"additional_body_parameters": {"instruction": INSTRUCTION}}
    reply = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, request_options=options)
    check_instruction(servers, rows(reply))


@case("cohere", "Client.rerank", "cohere")
def v1(servers):
    client = cohere.Client(GOOD_KEY, base_url=servers.url)
    reply = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=3, max_chunks_per_doc=10)
    check_ranking(servers, rows(reply), top_n=3)
    ensure(all(row.document is None for row in reply.results), "documents that were not requested")


@case("cohere", "ClientV2.rerank, passages and a minimum score", "cohere")
def v2_passages(servers):
    client = cohere.ClientV2(GOOD_KEY, base_url=servers.url)
    filler = "The museum opens at nine and closes at five, except on public holidays. " * 40
    documents = [f"{filler}\n\n{DOCUMENTS[1]}", *DOCUMENTS[2:]]
    options = {"additional_body_parameters": {"long_documents": "chunk"}}
    reply = client.rerank(model=MODEL, query=QUERY, documents=documents, request_options=options)
    first = next(row for row in reply.results if row.index == 0)
    place = first.passage if isinstance(first.passage, dict) else first.passage.model_dump()
    ensure(place["count"] > 1, f"passages {place}")
    ensure(documents[0][place["start"] : place["end"]].endswith(DOCUMENTS[1]), f"passage {place}")
    options = {"additional_body_parameters": {"min_score": 1}}
    reply = client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, request_options=options)
    ensure(reply.results == [], f"results below the minimum: {reply.results}")


@case("cohere", "Client.rerank, return_documents", "cohere")
def v1_documents(servers):
    client = cohere.Client(GOOD_KEY, base_url=servers.url)
    documents = [{"text": text} for text in DOCUMENTS]
    reply = client.rerank(model=MODEL, query=QUERY, documents=documents, return_documents=True)
    check_ranking(servers, rows(reply), texts=[row.document.text for row in reply.results])


@case("cohere", "Client.rerank, rank_fields", "cohere")
def v1_fields(servers):
    client = cohere.Client(GOOD_KEY, base_url=servers.url)
    documents = [{"title": f"Note {number}", "body": text} for number, text in enumerate(DOCUMENTS)]
    reply = client.rerank(model=MODEL, query=QUERY, documents=documents, rank_fields=["body"])
    # The model reads a record as one line for each field.
    check_ranking(servers, rows(reply), documents=[f"body: {text}" for text in DOCUMENTS])


@case("cohere", "AsyncClient.rerank", "cohere")
def v1_async(servers):
    async def call():
        async with cohere.AsyncClient(GOOD_KEY, base_url=servers.url) as client:
            return await client.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, return_documents=True, top_n=2)

    reply = asyncio.run(call())
    check_ranking(servers, rows(reply), top_n=2, texts=[row.document.text for row in reply.results])


def call_v1(url, key, model, query):
    client = cohere.Client(key, base_url=url)
    return client.rerank(model=model, query=query, documents=DOCUMENTS, request_options={"max_retries": 0})


def call_v2(url, key, model, query):
    client = cohere.ClientV2(key, base_url=url)
    return client.rerank(model=model, query=query, documents=DOCUMENTS, request_options={"max_retries": 0})


error_cases("cohere", "Client.rerank", "cohere", call_v1, raises=ERRORS)
error_cases("cohere", "ClientV2.rerank", "cohere", call_v2, raises=ERRORS)
