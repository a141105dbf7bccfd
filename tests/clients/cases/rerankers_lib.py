"""The `rerankers` library: its APIRanker for every provider whose URL can be set."""

from rerankers.models.api_rankers import APIRanker

from checks import DOCUMENTS, GOOD_KEY, PROFILE, QUERY, check_ranking, check_steered
from harness import case, error_cases

PROVIDERS = {
    "cohere": ("rerank-v4.0-pro", "/v1/rerank"),
    "jina": ("jina-reranker-v3", "/v1/rerank"),
    "voyage": ("rerank-2.5", "/v1/rerank"),
    "mixedbread.ai": ("mixedbread-ai/mxbai-rerank-large-v2", "/v1/reranking"),
    "pinecone": ("bge-reranker-v2-m3", "/pinecone/rerank"),
    "text-embeddings-inference": ("podium-mini", "/rerank"),
}


def ranker(url, key, model, provider):
    return APIRanker(model, key, provider, verbose=0, url=url + PROVIDERS[provider][1])


def provider_case(provider):
    @case("rerankers", f"APIRanker {provider}", "rerankers")
    def rank(servers):
        results = ranker(servers.url, GOOD_KEY, PROVIDERS[provider][0], provider).rank(QUERY, DOCUMENTS).results
        check_ranking(
            servers,
            [(result.document.doc_id, result.score) for result in results],
            texts=[result.document.text for result in results],
        )


for each in PROVIDERS:
    provider_case(each)


@case("rerankers", "APIRanker jina, profile in the model's name", "rerankers")
def profile(servers):
    results = ranker(servers.url, GOOD_KEY, f"podium-mini@{PROFILE}", "jina").rank(QUERY, DOCUMENTS).results
    check_steered(servers, [(result.document.doc_id, result.score) for result in results], profile=PROFILE)


def call(url, key, model, query):
    return ranker(url, key, model, "jina").rank(query, DOCUMENTS)


error_cases(
    "rerankers",
    "APIRanker",
    "rerankers",
    call,
    raises=KeyError,
    loses="it looks for results without looking at the status",
)
