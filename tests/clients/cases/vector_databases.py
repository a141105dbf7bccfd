"""The rerankers of vector databases' Python packages: Milvus and LanceDB."""

import pyarrow
from lancedb.rerankers import CohereReranker, JinaReranker, VoyageAIReranker
from lancedb.rerankers import jinaai as lancedb_jina
from pymilvus.model.reranker import CohereRerankFunction, JinaRerankFunction, TEIRerankFunction, VoyageRerankFunction
from pymilvus.model.reranker import jinaai as pymilvus_jina

from checks import DOCUMENTS, GOOD_KEY, QUERY, check_ranking
from harness import case, error_cases


def pymilvus_cohere(url, key, model, query):
    # No argument sets the URL; the function passes its options to the SDK's call.
    function = CohereRerankFunction(model, key, request_options={"max_retries": 0})
    function.client._client_wrapper._base_url = url
    return function(query, DOCUMENTS, top_k=3)


def pymilvus_voyage(url, key, model, query):
    function = VoyageRerankFunction(model, key)
    # No argument sets the URL.
    function.client._params["base_url"] = url + "/v1"
    return function(query, DOCUMENTS, top_k=3)


def pymilvus_jina_ai(url, key, model, query):
    # The URL is a constant of the module. The function reads documents that it does not ask for.
    pymilvus_jina.API_URL = url + "/v1/rerank"
    function = JinaRerankFunction(model, key)
    function._session.headers["podium-return-documents"] = "true"
    return function(query, DOCUMENTS, top_k=3)


def pymilvus_tei(url, key, model, query):
    return TEIRerankFunction(url)(query, DOCUMENTS)


def pymilvus_case(function, call, top_n=3):
    @case("pymilvus-model", function, "pymilvus-model")
    def rank(servers):
        found = call(servers.url, GOOD_KEY, "podium-mini", QUERY)
        rows = [(each.index, each.score) for each in found]
        check_ranking(servers, rows, top_n=top_n, texts=[each.text for each in found])


pymilvus_case("CohereRerankFunction", pymilvus_cohere)
pymilvus_case("VoyageRerankFunction", pymilvus_voyage)
pymilvus_case("JinaRerankFunction", pymilvus_jina_ai)
pymilvus_case("TEIRerankFunction", pymilvus_tei, top_n=None)
error_cases("pymilvus-model", "CohereRerankFunction", "pymilvus-model", pymilvus_cohere, kinds=(404, 422, 401))
error_cases("pymilvus-model", "VoyageRerankFunction", "pymilvus-model", pymilvus_voyage, kinds=(404, 422, 401))
error_cases("pymilvus-model", "JinaRerankFunction", "pymilvus-model", pymilvus_jina_ai, raises=RuntimeError)
error_cases("pymilvus-model", "TEIRerankFunction", "pymilvus-model", pymilvus_tei, kinds=(422,), raises=RuntimeError)




def results_of_a_search():
    """The table that a vector search returns."""
    return pyarrow.table({"text": DOCUMENTS, "_distance": [float(place) for place in range(len(DOCUMENTS))]})


def lance_cohere(url, key, model, query):
    reranker = CohereReranker(model_name=model, top_n=3, api_key=key)
    # No argument sets the URL; the SDK reads CO_API_URL when it is imported.
    reranker._client._client_wrapper._base_url = url
    return reranker.rerank_vector(query, results_of_a_search())


def lance_jina(url, key, model, query):
    # The URL is a constant of the module.
    lancedb_jina.API_URL = url + "/v1/rerank"
    return JinaReranker(model_name=model, top_n=3, api_key=key).rerank_vector(query, results_of_a_search())


def lance_voyage(url, key, model, query):
    reranker = VoyageAIReranker(model_name=model, top_n=3, api_key=key)
    reranker._client._params["base_url"] = url + "/v1"
    return reranker.rerank_vector(query, results_of_a_search())


def lance_case(reranker, call):
    @case("lancedb", f"{reranker}.rerank_vector", "lancedb")
    def rank(servers):
        found = call(servers.url, GOOD_KEY, "podium-mini", QUERY).to_pylist()
        rows = [(DOCUMENTS.index(row["text"]), row["_relevance_score"]) for row in found]
        check_ranking(servers, rows, top_n=3)


lance_case("CohereReranker", lance_cohere)
lance_case("JinaReranker", lance_jina)
lance_case("VoyageAIReranker", lance_voyage)
error_cases("lancedb", "JinaReranker", "lancedb", lance_jina, raises=RuntimeError)
error_cases("lancedb", "VoyageAIReranker", "lancedb", lance_voyage, kinds=(404, 422, 401))
