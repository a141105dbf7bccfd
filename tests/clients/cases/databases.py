"""The requests of databases, gateways and Java libraries, reproduced from their sources or documentation.

None of them is a Python package that can be run here: Weaviate and Milvus are servers, OpenSearch calls a URL
with a body that its operator writes, Spring AI Alibaba and LangChain4j are Java. Milvus's Python package runs in
`vector_databases`.
"""

import http.client
import json

from checks import DOCUMENTS, QUERY, check_ranking, ensure, get, post
from harness import case

DASHSCOPE = "/api/v1/services/rerank/text-rerank/text-rerank"


def send(servers, path, body):
    status, reply = post(servers.url, path, body)
    ensure(status == 200, f"POST {path}: {status} {reply}")
    return reply


def scored(rows, score="relevance_score"):
    return [(row["index"], row[score]) for row in rows]


@case("Weaviate", "reranker-transformers")
def weaviate(servers):
    for path in ("/weaviate/.well-known/ready", "/weaviate/meta"):
        status, reply = get(servers.url, path)
        ensure(status == 200 and isinstance(reply, dict), f"GET {path}: {status} {reply}")
    reply = send(servers, "/weaviate/rerank", {"query": QUERY, "documents": DOCUMENTS, "property": ""})
    # Weaviate takes the scores by their places.
    ensure([row["document"] for row in reply["scores"]] == DOCUMENTS, "not in the order of the request")
    rows = sorted(enumerate(row["score"] for row in reply["scores"]), key=lambda row: -row[1])
    check_ranking(servers, rows)


def milvus_case(provider, path, body, results, score="relevance_score"):
    """Milvus sorts the results by index and gives the scores to the documents by their places."""

    @case("Milvus", f"rerank function, provider {provider}")
    def rank(servers):
        found = sorted(results(send(servers, path, body)), key=lambda row: row["index"])
        ensure([row["index"] for row in found] == list(range(len(DOCUMENTS))), "a document without a score")
        rows = enumerate(row[score] for row in found)
        check_ranking(servers, sorted(rows, key=lambda row: -row[1]))


PLAIN = {"query": QUERY, "documents": DOCUMENTS}
NAMED = {"model": "podium-mini", **PLAIN}
milvus_case("tei", "/rerank", {"query": QUERY, "texts": DOCUMENTS, "truncate": True}, lambda reply: reply, "score")
milvus_case("vllm", "/rerank", {**PLAIN, "truncate_prompt_tokens": 512}, lambda reply: reply["results"])
milvus_case("cohere", "/v2/rerank", {**NAMED, "max_tokens_per_doc": 512}, lambda reply: reply["results"])
milvus_case("voyageai", "/v1/rerank", {**NAMED, "truncation": True}, lambda reply: reply["data"])
milvus_case(
    "siliconflow", "/v1/rerank", {**NAMED, "max_chunks_per_doc": 10, "overlap_tokens": 80}, lambda reply: reply["results"]
)
milvus_case("ali", DASHSCOPE, {"model": "podium-mini", "input": PLAIN}, lambda reply: reply["output"]["results"])


def tensors(rows, score):
    """OpenSearch's post-process functions: one score for each document, which must be a floating-point number."""
    scores = [None] * len(rows)
    for row in rows:
        scores[row["index"]] = row[score]
    ensure(len(scores) == len(DOCUMENTS) and all(type(score) is float for score in scores), f"scores {scores}")
    return sorted(enumerate(scores), key=lambda row: -row[1])


@case("OpenSearch", "connector, pre- and post-process functions cohere.rerank")
def opensearch_cohere(servers):
    # "top_n" is the number of documents; the blueprint asks for the documents too.
    body = {**NAMED, "top_n": len(DOCUMENTS), "return_documents": True}
    for path in ("/v1/rerank", "/v2/rerank"):
        check_ranking(servers, tensors(send(servers, path, body)["results"], "relevance_score"))


@case("OpenSearch", "connector, cohere.rerank, a document without text")
def opensearch_empty(servers):
    reply = send(servers, "/v2/rerank", {**NAMED, "documents": [*DOCUMENTS[:-1], ""], "top_n": len(DOCUMENTS)})
    ensure(tensors(reply["results"], "relevance_score")[-1] == (len(DOCUMENTS) - 1, 0.0), reply["results"])


@case("OpenSearch", "connector, pre- and post-process functions bedrock.rerank")
def opensearch_bedrock(servers):
    text = {"type": "TEXT"}
    sources = [{"type": "INLINE", "inlineDocumentSource": {"textDocument": {"text": each}, **text}} for each in DOCUMENTS]
    arn = "arn:aws:bedrock:us-west-2::foundation-model/podium-mini"
    body = {
        "queries": [{"textQuery": {"text": QUERY}, **text}],
        "rerankingConfiguration": {
            "bedrockRerankingConfiguration": {"modelConfiguration": {"modelArn": arn}},
            "type": "BEDROCK_RERANKING_MODEL",
        },
        "sources": sources,
    }
    check_ranking(servers, tensors(send(servers, "/rerank", body)["results"], "relevanceScore"))


@case("Elasticsearch", "inference service hugging_face")
def elastic_hugging_face(servers):
    body = {"query": QUERY, "texts": DOCUMENTS, "return_text": True}
    reply = send(servers, "/rerank", body)
    check_ranking(servers, scored(reply, "score"), texts=[row["text"] for row in reply])


@case("Spring AI Alibaba", "DashScopeRerankModel")
def spring(servers):
    body = {
        "model": "podium-mini",
        "input": {"query": QUERY, "documents": DOCUMENTS},
        "parameters": {"top_n": 3, "return_documents": False},
    }
    reply = send(servers, DASHSCOPE, body)
    check_ranking(servers, scored(reply["output"]["results"]), top_n=3)
    ensure(reply["request_id"] and reply["usage"]["total_tokens"] > 0, reply)


def langchain4j_case(model, more, results, check):
    @case("LangChain4j", model)
    def score_all(servers):
        reply = send(servers, "/v1/rerank", {**NAMED, **more})
        # The scores are taken in the order of the indices.
        check_ranking(servers, scored(reply[results]))
        ensure(check(reply) > 0, reply)


langchain4j_case("CohereScoringModel", {}, "results", lambda reply: reply["meta"]["billed_units"]["search_units"])
langchain4j_case("JinaScoringModel", {"return_documents": False}, "results", lambda reply: reply["usage"]["total_tokens"])
langchain4j_case("VoyageAiScoringModel", {"truncation": True}, "data", lambda reply: reply["usage"]["total_tokens"])
langchain4j_case(
    "XinferenceScoringModel",
    {"return_documents": False, "return_len": True},
    "results",
    # It reads `tokens` inside `meta`, which may be absent.
    lambda reply: len(reply["meta"]),
)


@case("LangChain4j", "the JDK's client, which asks for HTTP/2 in an upgrade")
def jdk_upgrade(servers):
    upgrade = {"connection": "Upgrade, HTTP2-Settings", "upgrade": "h2c", "http2-settings": "AAEAAEAAAAIAAAAAAAMAAAAAAAQBAAAAAAUAAEAABgAGAAA"}
    connection = http.client.HTTPConnection(servers.url.removeprefix("http://"), timeout=60)
    connection.request("POST", "/v1/rerank", json.dumps(NAMED), {"content-type": "application/json", **upgrade})
    reply = connection.getresponse()
    ensure(reply.status == 200, f"{reply.status}")
    check_ranking(servers, scored(json.load(reply)["results"]))
    connection.close()


@case("Vertex AI Search", "ranking API")
def vertex(servers):
    records = [{"id": str(number), "content": text} for number, text in enumerate(DOCUMENTS)]
    path = "/v1/projects/p/locations/global/rankingConfigs/default_ranking_config:rank"
    reply = send(servers, path, {"model": "podium-mini", "query": QUERY, "records": records, "topN": 3})
    rows = [(int(row["id"]), row["score"]) for row in reply["records"]]
    documents = [f"content: {text}" for text in DOCUMENTS]
    check_ranking(servers, rows, top_n=3, documents=documents)


@case("LocalAI", "POST /v1/rerank with a backend")
def local_ai(servers):
    body = {"model": "podium-mini", "query": QUERY, "documents": DOCUMENTS, "top_n": 3, "backend": "rerankers"}
    check_ranking(servers, scored(send(servers, "/v1/rerank", body)["results"]), top_n=3)


@case("SGLang", "POST /sglang/v1/rerank")
def sglang(servers):
    body = {"query": QUERY, "documents": DOCUMENTS, "top_n": 3}
    reply = send(servers, "/sglang/v1/rerank", body)
    check_ranking(servers, scored(reply, "score"), top_n=3, texts=[row["document"] for row in reply])


@case("vllm", "POST /v1/rerank, parts of a message")
def vllm_parts(servers):
    parts = [{"type": "text", "text": text} for text in DOCUMENTS]
    body = {"query": {"content": [{"type": "text", "text": QUERY}]}, "documents": {"content": parts}}
    check_ranking(servers, scored(send(servers, "/v1/rerank", body)["results"]))
    sides = {"queries": {"content": [{"type": "text", "text": QUERY}]}, "documents": {"content": parts}}
    rows = send(servers, "/v1/score", sides)["data"]
    check_ranking(servers, sorted(scored(rows, "score"), key=lambda row: -row[1]), mode="pointwise")
