"""Tests every route with plain requests, including the routes that gateways probe."""

import urllib.request

from checks import DOCUMENTS, INSTRUCTION, QUERY, check_instruction, check_ranking, ensure, get, post
from harness import case


def ask(servers, path, body, status=200):
    found, reply = post(servers.url, path, body)
    ensure(found == status, f"POST {path}: {found} {reply}")
    return reply


def look(servers, path):
    status, reply = get(servers.url, path)
    ensure(status == 200, f"GET {path}: {status} {reply}")
    return reply


def scored(rows, score="relevance_score"):
    return [(row["index"], row[score]) for row in rows]


def superset_case(path):
    @case("superset", f"POST {path}")
    def superset(servers):
        reply = ask(servers, path, {"query": QUERY, "documents": DOCUMENTS, "top_n": 3, "return_documents": True})
        texts = [row["document"]["text"] for row in reply["results"]]
        check_ranking(servers, scored(reply["results"]), top_n=3, texts=texts)
        texts = [row["document"] for row in reply["data"]]
        check_ranking(servers, scored(reply["data"]), top_n=3, texts=texts)
        ensure(reply["object"] == "rerank", reply["object"])
        ensure(reply["usage"]["total_tokens"] > 0, reply["usage"])
        ensure(reply["meta"]["billed_units"]["search_units"] == 1, reply["meta"])

    @case("superset", f"POST {path}, instruction")
    def steered(servers):
        reply = ask(servers, path, {"query": QUERY, "documents": DOCUMENTS, "instruction": INSTRUCTION})
        ensure(all("document" not in row for row in reply["results"]), "documents that were not requested")
        check_instruction(servers, scored(reply["results"]))


for each in ("/v1/rerank", "/v2/rerank", "/rerank"):
    superset_case(each)


@case("text-embeddings-inference", "POST /rerank with texts")
def tei(servers):
    body = {"query": QUERY, "texts": DOCUMENTS, "return_text": True, "raw_scores": False, "truncate": True}
    reply = ask(servers, "/rerank", body)
    ensure(isinstance(reply, list), f"not an array: {reply}")
    check_ranking(servers, scored(reply, "score"), texts=[row["text"] for row in reply])


@case("text-embeddings-inference", "POST /rerank with texts, raw scores")
def tei_raw(servers):
    reply = ask(servers, "/rerank", {"query": QUERY, "texts": DOCUMENTS, "raw_scores": True})
    check_ranking(servers, scored(reply, "score"), raw=True)
    ensure(all("text" not in row for row in reply), "texts that were not requested")


@case("text-embeddings-inference", "POST /rerank, empty query")
def tei_error(servers):
    reply = ask(servers, "/rerank", {"query": "", "texts": DOCUMENTS}, status=422)
    ensure(isinstance(reply["error"], str) and "query" in reply["error"], f"error is not a string: {reply}")
    ensure(reply["error_type"] == "Validation", reply)


@case("text-embeddings-inference", "GET /info")
def info(servers):
    reply = look(servers, "/info")
    ensure(reply["model_type"]["reranker"] is not None and reply["model_id"], reply)
    ensure(reply["max_input_length"] > 0 and reply["max_client_batch_size"] > 0, reply)


def llama_cpp_case(path):
    @case("llama.cpp", f"POST {path} with documents")
    def documents(servers):
        reply = ask(servers, path, {"model": "podium-mini", "query": QUERY, "documents": DOCUMENTS, "top_n": 3})
        check_ranking(servers, scored(reply["results"]), top_n=3)
        ensure(reply["usage"]["total_tokens"] > 0, reply["usage"])

    @case("llama.cpp", f"POST {path} with texts")
    def texts(servers):
        reply = ask(servers, path, {"query": QUERY, "texts": DOCUMENTS, "return_text": True})
        ensure(isinstance(reply, list), f"not an array: {reply}")
        check_ranking(servers, scored(reply, "score"), texts=[row["text"] for row in reply])

    @case("mixedbread", f"POST {path} with input")
    def mixedbread(servers):
        body = {"query": QUERY, "input": DOCUMENTS, "top_k": 3, "return_input": True}
        reply = ask(servers, path, body)
        check_ranking(servers, scored(reply["data"], "score"), top_n=3, texts=[row["input"] for row in reply["data"]])
        ensure(all(row["object"] == "rank_result" for row in reply["data"]), reply["data"])
        ensure((reply["top_k"], reply["return_input"]) == (3, True), reply)


for each in ("/v1/reranking", "/reranking"):
    llama_cpp_case(each)


def vllm_case(path):
    bodies = {
        "text_1, text_2": {"text_1": QUERY, "text_2": DOCUMENTS},
        "queries, documents": {"queries": QUERY, "documents": DOCUMENTS},
        "queries, items": {"queries": QUERY, "items": DOCUMENTS},
        "data_1, data_2": {"data_1": QUERY, "data_2": DOCUMENTS},
    }
    for name, body in bodies.items():

        @case("vllm", f"POST {path} {name}")
        def score(servers, body=body):
            reply = ask(servers, path, {"model": "podium-mini", **body})
            ensure(
                [row["index"] for row in reply["data"]] == list(range(len(DOCUMENTS))), "not in the order of the input"
            )
            rows = sorted(scored(reply["data"], "score"), key=lambda row: -row[1])
            # A score is about one pair: documents are read one at a time.
            check_ranking(servers, rows, mode="pointwise")
            ensure(all(row["object"] == "score" for row in reply["data"]), reply["data"])
            ensure(reply["object"] == "list" and reply["created"] > 0, reply)

    @case("vllm", f"POST {path} pairs")
    def pairs(servers):
        reply = ask(servers, path, {"text_1": [QUERY, QUERY], "text_2": DOCUMENTS[:2]})
        for row, text in zip(reply["data"], DOCUMENTS[:2]):
            check_ranking(servers, [(0, row["score"])], documents=[text])


for each in ("/score", "/v1/score"):
    vllm_case(each)


def zeroentropy_case(path):
    @case("zeroentropy", f"POST {path}")
    def rerank(servers):
        reply = ask(servers, path, {"model": "zerank-2", "query": QUERY, "documents": DOCUMENTS, "top_n": 2})
        check_ranking(servers, scored(reply["results"]), top_n=2)
        for name in ("total_bytes", "total_tokens", "e2e_latency", "inference_latency"):
            ensure(reply[name] > 0, f"{name}: {reply[name]}")


for each in ("/v1/models/rerank", "/models/rerank"):
    zeroentropy_case(each)


def infinity_case(path):
    @case("infinity", f"POST {path}")
    def rerank(servers):
        reply = ask(servers, path, {"query": QUERY, "documents": DOCUMENTS, "return_documents": True, "top_n": 3})
        check_ranking(servers, scored(reply["results"]), top_n=3, texts=[row["document"] for row in reply["results"]])
        ensure(reply["object"] == "rerank" and reply["created"] > 0, reply)


for each in ("/infinity/rerank", "/infinity/v1/rerank"):
    infinity_case(each)


@case("nim", "POST /v1/ranking")
def nim(servers):
    body = {
        "model": "nvidia/llama-nemotron-rerank-1b-v2",
        "query": {"text": QUERY},
        "passages": [{"text": text} for text in DOCUMENTS],
        "truncate": "END",
    }
    check_ranking(servers, scored(ask(servers, "/v1/ranking", body)["rankings"], "logit"), raw=True)


@case("orchestrators", "GET /health, /ping, /ready, /version")
def probes(servers):
    for path in ("/health", "/ready", "/ping"):
        with urllib.request.urlopen(servers.url + path) as reply:
            ensure(reply.status == 200, f"GET {path}: {reply.status}")
    ensure(look(servers, "/version")["version"], "no version")


@case("openai", "GET /v1/models and each one of it")
def models(servers):
    reply = look(servers, "/v1/models")
    ensure(reply["object"] == "list" and reply["data"], reply)
    for model in reply["data"]:
        ensure(model["object"] == "model" and model["owned_by"] and model["created"] > 0, model)
        ensure(look(servers, f"/v1/models/{model['id']}")["id"] == model["id"], model)


@case("openai", "GET /v1/models/no-such-model")
def no_model(servers):
    status, reply = get(servers.url, "/v1/models/no-such-model")
    ensure(status == 404, f"{status} {reply}")
    message = reply["error"]["message"]
    ensure("no-such-model" in message and "route" not in message, f"not about a model: {message}")
