"""The requests of applications, and how they parse the response. No application runs here.

Each function copies the call of one application from its sources: path, fields and parsing.
"""

import json
import urllib.error
import urllib.request
from urllib.parse import urljoin

from checks import DOCUMENTS, GOOD_KEY, QUERY, check_ranking, ensure, get
from harness import case, error_cases


class Refused(Exception):
    """The error that these applications raise for a response that is not a ranking."""


def send(url, body, key=GOOD_KEY, seconds=60):
    """Sends a POST, as all of them do."""
    headers = {"Content-Type": "application/json", "Authorization": f"Bearer {key}"}
    request = urllib.request.Request(url, json.dumps(body).encode(), headers)
    try:
        with urllib.request.urlopen(request, timeout=seconds) as reply:
            return json.load(reply)
    except urllib.error.HTTPError as error:
        raise Refused(f"{error.code}: {error.read().decode()}") from error


def dify_openai_compatible(url, key=GOOD_KEY, model="podium-mini", query=QUERY, top_n=None):
    """Dify, OpenAI-API-compatible: top_n is null; the text is in the response, or found by index."""
    body = {"model": model, "query": query, "documents": DOCUMENTS, "top_n": top_n, "return_documents": True}
    rows = []
    for row in send(url + "/v1/rerank", body, key)["results"]:
        document = row.get("document")
        text = document.get("text") if isinstance(document, dict) else document
        rows.append((row["index"], row["relevance_score"], text or DOCUMENTS[row["index"]]))
    return rows


@case("Dify", "OpenAI-API-compatible, top_n null")
def dify_all(servers):
    rows = dify_openai_compatible(servers.url)
    check_ranking(servers, [row[:2] for row in rows], texts=[row[2] for row in rows])


@case("Dify", "OpenAI-API-compatible, top_n 2")
def dify_some(servers):
    rows = dify_openai_compatible(servers.url, top_n=2)
    check_ranking(servers, [row[:2] for row in rows], top_n=2, texts=[row[2] for row in rows])


@case("Dify", "OpenAI-API-compatible, more top_n than documents")
def dify_more(servers):
    check_ranking(servers, [row[:2] for row in dify_openai_compatible(servers.url, top_n=50)])


@case("Dify", "Jina")
def dify_jina(servers):
    body = {"model": "jina-reranker-v3", "query": QUERY, "documents": DOCUMENTS, "top_n": 3, "return_documents": True}
    results = send(servers.url + "/v1/rerank", body, seconds=5)["results"]
    texts = [row["document"]["text"] for row in results]
    check_ranking(servers, [(row["index"], row["relevance_score"]) for row in results], top_n=3, texts=texts)


@case("Dify", "Voyage")
def dify_voyage(servers):
    body = {"model": "rerank-2.5", "query": QUERY, "documents": DOCUMENTS, "top_k": 3, "return_documents": True}
    results = send(servers.url + "/v1/rerank", body, seconds=5)["data"]
    texts = [row["document"] for row in results]
    check_ranking(servers, [(row["index"], row["relevance_score"]) for row in results], top_n=3, texts=texts)


@case("Dify", "LocalAI")
def dify_localai(servers):
    body = {"model": "podium-mini", "query": QUERY, "documents": DOCUMENTS, "top_n": 3}
    rows = []
    for row in send(servers.url + "/v1/rerank", body, seconds=10)["results"]:
        text = row["document"]["text"] if "document" in row else DOCUMENTS[row["index"]]
        rows.append((row["index"], row["relevance_score"], text))
    check_ranking(servers, [row[:2] for row in rows], top_n=3, texts=[row[2] for row in rows])


@case("Dify", "text-embeddings-inference")
def dify_tei(servers):
    status, info = get(servers.url, "/info")
    ensure(status == 200, f"GET /info: {status} {info}")
    ensure("reranker" in info["model_type"] and info["max_input_length"] >= 128, f"not a reranker: {info}")
    body = {"query": QUERY, "texts": DOCUMENTS, "return_text": True, "truncate": True}
    reply = send(servers.url + "/rerank", body)
    check_ranking(servers, [(row["index"], row["score"]) for row in reply], texts=[row["text"] for row in reply])


@case("Dify", "Xinference")
def dify_xinference(servers):
    status, model = get(servers.url, "/v1/models/podium-mini")
    ensure(status == 200, f"GET /v1/models/podium-mini: {status} {model}")
    ensure(model.get("model_type") == "rerank", f"model_type is {model.get('model_type')!r}: Dify rejects the model")
    body = {"model": "podium-mini", "query": QUERY, "documents": DOCUMENTS, "top_n": 3, "return_documents": True}
    results = send(servers.url + "/v1/rerank", body)["results"]
    texts = [row["document"]["text"] for row in results]
    check_ranking(servers, [(row["index"], row["relevance_score"]) for row in results], top_n=3, texts=texts)


def by_index(results):
    """RAGFlow and Open WebUI: one score for each document that was sent."""
    scores = [None] * len(DOCUMENTS)
    for row in results:
        scores[row["index"]] = row["relevance_score"]
    ensure(None not in scores, f"a document without a score: {scores}")
    return sorted(enumerate(scores), key=lambda row: -row[1])


def ragflow_case(name, path, extra):
    @case("RAGFlow", name)
    def rank(servers):
        body = {"model": "podium-mini", "query": QUERY, "documents": DOCUMENTS, **extra}
        reply = send(servers.url + path, body)
        check_ranking(servers, by_index(reply["results"]))
        ensure(reply["usage"]["total_tokens"] > 0, "no tokens in usage")


ragflow_case("Jina", "/v1/rerank", {"top_n": len(DOCUMENTS)})
ragflow_case("OpenAI-compatible", "/v1/rerank", {"top_n": len(DOCUMENTS)})
ragflow_case("VLLM", "/rerank", {"top_n": len(DOCUMENTS)})
ragflow_case("Xinference", "/v1/rerank", {"return_documents": "true", "return_len": "true"})


def open_webui(url, key, model, query):
    body = {"model": model, "query": query, "documents": DOCUMENTS, "top_n": len(DOCUMENTS)}
    return by_index(send(url + "/v1/rerank", body, key)["results"])


@case("Open WebUI", "external reranker")
def webui(servers):
    check_ranking(servers, open_webui(servers.url, GOOD_KEY, "podium-mini", QUERY))


def light_rag(name, model, extra):
    @case("LightRAG", name)
    def rank(servers):
        body = {"model": model, "query": QUERY, "documents": DOCUMENTS, **extra}
        rows = [(row["index"], row["relevance_score"]) for row in send(servers.url + "/v1/rerank", body)["results"]]
        check_ranking(servers, rows, top_n=3)


light_rag("cohere binding", "rerank-v4.0-pro", {"top_n": 3})
light_rag("jina binding", "jina-reranker-v3", {"top_n": 3, "return_documents": False})


@case("Continue", "Jina-like reranker")
def continue_dev(servers):
    # new URL("rerank", apiBase): apiBase ends with a slash.
    body = {"query": QUERY, "documents": DOCUMENTS, "model": "jina-reranker-v3"}
    reply = send(urljoin(servers.url + "/v1/", "rerank"), body)
    check_ranking(servers, [(row["index"], row["relevance_score"]) for row in reply["results"]])


@case("Continue", "Voyage-like reranker")
def continue_voyage(servers):
    body = {"query": QUERY, "documents": DOCUMENTS, "model": "rerank-2.5"}
    reply = send(urljoin(servers.url + "/v1/", "rerank"), body)
    check_ranking(servers, [(row["index"], row["relevance_score"]) for row in reply["data"]])


@case("LibreChat", "Jina reranker")
def libre_chat(servers):
    body = {"model": "jina-reranker-v3", "query": QUERY, "top_n": 3, "documents": DOCUMENTS, "return_documents": True}
    rows, texts = [], []
    for row in send(servers.url + "/v1/rerank", body)["results"]:
        document = row["document"]
        rows.append((row["index"], row["relevance_score"]))
        texts.append(document["text"] if isinstance(document, dict) and "text" in document else document)
    check_ranking(servers, rows, top_n=3, texts=texts)


@case("LibreChat", "Cohere reranker")
def libre_chat_cohere(servers):
    body = {"model": "rerank-v4.0-pro", "query": QUERY, "top_n": 3, "documents": DOCUMENTS}
    rows = [(row["index"], row["relevance_score"]) for row in send(servers.url + "/v2/rerank", body)["results"]]
    check_ranking(servers, rows, top_n=3)


@case("Vercel AI SDK", "Cohere provider")
def vercel(servers):
    body = {
        "model": "rerank-v4.0-pro",
        "query": QUERY,
        "documents": DOCUMENTS,
        "top_n": 3,
        "max_tokens_per_doc": 4096,
        "priority": 0,
    }
    rows = [(row["index"], row["relevance_score"]) for row in send(servers.url + "/v2/rerank", body)["results"]]
    check_ranking(servers, rows, top_n=3)


error_cases("Dify", "OpenAI-API-compatible", None, dify_openai_compatible, raises=Refused)
error_cases("Open WebUI", "external reranker", None, open_webui, raises=Refused)
