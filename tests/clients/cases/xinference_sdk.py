"""Xinference's client: it requests the model's description first and requires a reranker."""

from xinference_client import RESTfulClient

from checks import DOCUMENTS, GOOD_KEY, INSTRUCTION, QUERY, check_instruction, check_ranking
from harness import case, error_cases


def model_of(url, key=GOOD_KEY):
    return RESTfulClient(url, api_key=key).get_model("podium-mini")


def rows(reply):
    return [(row["index"], row["relevance_score"]) for row in reply["results"]]


@case("xinference-client", "get_model, rerank", "xinference-client")
def plain(servers):
    reply = model_of(servers.url).rerank(DOCUMENTS, QUERY, top_n=3)
    check_ranking(servers, rows(reply), top_n=3)


@case("xinference-client", "get_model, rerank, documents back", "xinference-client")
def documents(servers):
    reply = model_of(servers.url).rerank(DOCUMENTS, QUERY, return_documents=True, return_len=True)
    check_ranking(servers, rows(reply), texts=[row["document"]["text"] for row in reply["results"]])


@case("xinference-client", "get_model, rerank, instruction", "xinference-client")
def instruction(servers):
    check_instruction(servers, rows(model_of(servers.url).rerank(DOCUMENTS, QUERY, instruction=INSTRUCTION)))


def call(url, key, _, query):
    return model_of(url, key).rerank(DOCUMENTS, query)


error_cases("xinference-client", "rerank", "xinference-client", call, kinds=(422, 401, 429), raises=RuntimeError)
