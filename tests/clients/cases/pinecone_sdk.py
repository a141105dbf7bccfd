"""Pinecone's SDK: `inference.rerank`."""

from urllib.parse import quote

from pinecone import Pinecone, RetryConfig

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
from harness import case, error_cases

MODEL = "bge-reranker-v2-m3"


def client(url, key=GOOD_KEY):
    return Pinecone(api_key=key, host=url + "/pinecone", retry_config=RetryConfig(max_retries=0))


def rows(reply):
    return [(row.index, row.score) for row in reply.data]


@case("pinecone", "inference.rerank", "pinecone")
def plain(servers):
    reply = client(servers.url).inference.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, top_n=3)
    check_ranking(servers, rows(reply), top_n=3, texts=[row.document["text"] for row in reply.data])
    ensure(reply.usage.rerank_units == 1, f"rerank_units {reply.usage.rerank_units}")


@case("pinecone", "inference.rerank, rank_fields", "pinecone")
def fields(servers):
    documents = [{"id": str(number), "body": text} for number, text in enumerate(DOCUMENTS)]
    reply = client(servers.url).inference.rerank(
        model=MODEL, query=QUERY, documents=documents, rank_fields=["body"], parameters={"truncate": "END"}
    )
    # The model reads a record as one line for each field.
    check_ranking(servers, rows(reply), documents=[f"body: {text}" for text in DOCUMENTS])
    ensure(all(row.document["id"] == str(row.index) for row in reply.data), "documents do not come back whole")


@case("pinecone", "inference.rerank, no documents back", "pinecone")
def bare(servers):
    reply = client(servers.url).inference.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS, return_documents=False)
    check_ranking(servers, rows(reply))


@case("pinecone", "inference.rerank, instruction in a header", "pinecone")
def instruction(servers):
    headers = {"podium-instruction": quote(INSTRUCTION)}
    steered = Pinecone(api_key=GOOD_KEY, host=servers.url + "/pinecone", additional_headers=headers)
    check_instruction(servers, rows(steered.inference.rerank(model=MODEL, query=QUERY, documents=DOCUMENTS)))


@case("pinecone", "inference.rerank, profile in the model's name", "pinecone")
def profile(servers):
    model = f"podium-mini@{PROFILE}"
    reply = client(servers.url).inference.rerank(model=model, query=QUERY, documents=DOCUMENTS)
    check_steered(servers, rows(reply), profile=PROFILE)


def call(url, key, model, query):
    return client(url, key).inference.rerank(model=model, query=query, documents=DOCUMENTS)


# The SDK itself rejects an empty query.
error_cases("pinecone", "inference.rerank", "pinecone", call, kinds=(404, 401, 429))
