"""The requests of databases, gateways and Java libraries, reproduced from their sources or documentation.

None of them is a Python package that can be run here: Weaviate and Milvus are servers, OpenSearch calls a URL
with a body that its operator writes, Spring AI Alibaba and LangChain4j are Java.
"""

from checks import DOCUMENTS, QUERY, check_ranking, ensure, get, post
from harness import case


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


@case("Milvus", "rerank function, provider tei")
def milvus_tei(servers):
    body = {"query": QUERY, "texts": DOCUMENTS, "truncate": True, "truncation_direction": "Right", "raw_scores": False}
    check_ranking(servers, scored(send(servers, "/rerank", body), "score"))


@case("Milvus", "rerank function, provider sglang")
def milvus_sglang(servers):
    body = {"model": "podium-mini", "query": QUERY, "documents": DOCUMENTS}
    check_ranking(servers, scored(send(servers, "/sglang/v1/rerank", body), "score"))


@case("Milvus", "rerank function, provider cohere")
def milvus_cohere(servers):
    body = {"model": "podium-mini", "query": QUERY, "documents": DOCUMENTS, "top_n": len(DOCUMENTS), "max_tokens_per_doc": 512}
    check_ranking(servers, scored(send(servers, "/v2/rerank", body)["results"]))


@case("Milvus", "rerank function, provider ali")
def milvus_ali(servers):
    body = {"model": "podium-mini", "input": {"query": QUERY, "documents": DOCUMENTS}, "parameters": {"return_documents": False}}
    reply = send(servers, "/api/v1/services/rerank/text-rerank/text-rerank", body)
    check_ranking(servers, scored(reply["output"]["results"]))


@case("OpenSearch", "connector, Cohere's post-process function")
def opensearch_cohere(servers):
    body = {"model": "podium-mini", "query": QUERY, "documents": DOCUMENTS, "top_n": len(DOCUMENTS)}
    rows = send(servers, "/v2/rerank", body)["results"]
    ensure(len(rows) == len(DOCUMENTS), "a document without a score")
    check_ranking(servers, scored(rows))


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
    reply = send(servers, "/api/v1/services/rerank/text-rerank/text-rerank", body)
    check_ranking(servers, scored(reply["output"]["results"]), top_n=3)
    ensure(reply["request_id"] and reply["usage"]["total_tokens"] > 0, reply)


@case("LangChain4j", "CohereScoringModel, JinaScoringModel")
def langchain4j(servers):
    body = {"model": "podium-mini", "query": QUERY, "documents": DOCUMENTS}
    for path, more in (("/v1/rerank", {}), ("/v1/rerank", {"return_documents": False})):
        reply = send(servers, path, {**body, **more})
        check_ranking(servers, scored(reply["results"]))
        ensure(reply["usage"]["total_tokens"] > 0 and reply["meta"]["billed_units"]["search_units"], reply)


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
