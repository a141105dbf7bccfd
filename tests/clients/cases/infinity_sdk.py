"""infinity-client, and LangChain's InfinityRerank, which is built on it."""

from infinity_client import Client
from infinity_client.api.default import rerank
from infinity_client.models import RerankInput
from langchain_community.document_compressors.infinity_rerank import InfinityRerank
from langchain_core.documents import Document

from checks import DOCUMENTS, QUERY, check_ranking
from harness import case

MODEL = "BAAI/bge-reranker-base"


def prefix_case(prefix):
    @case("infinity-client", f"rerank.sync at {prefix or '/'}", "infinity-client")
    def sync(servers):
        body = RerankInput(query=QUERY, documents=DOCUMENTS, model=MODEL, top_n=3)
        reply = rerank.sync(client=Client(base_url=servers.url + prefix), body=body)
        check_ranking(servers, [(row.index, row.relevance_score) for row in reply.results], top_n=3)

    @case("infinity-client", f"rerank.sync at {prefix or '/'}, documents back", "infinity-client")
    def documents(servers):
        body = RerankInput(query=QUERY, documents=DOCUMENTS, model=MODEL, return_documents=True)
        reply = rerank.sync(client=Client(base_url=servers.url + prefix), body=body)
        rows = [(row.index, row.relevance_score) for row in reply.results]
        # The SDK does not check the declared type of `document`: without the prefix it is an
        # object.
        check_ranking(servers, rows, texts=[row.document for row in reply.results] if prefix else None)


prefix_case("/infinity")
prefix_case("")


@case("langchain-community", "InfinityRerank.compress_documents", "langchain-community")
def langchain(servers):
    compressor = InfinityRerank(client=Client(base_url=servers.url), model=MODEL, top_n=3)
    found = compressor.compress_documents([Document(page_content=text) for text in DOCUMENTS], QUERY)
    rows = [(DOCUMENTS.index(each.page_content), each.metadata["relevance_score"]) for each in found]
    check_ranking(servers, rows, top_n=3)
