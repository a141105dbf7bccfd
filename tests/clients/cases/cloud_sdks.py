"""The SDKs of clouds and databases: boto3 for AWS Bedrock, DashScope, Elasticsearch, Google's ranking API."""

import boto3
import dashscope
from botocore.config import Config
from elasticsearch import Elasticsearch
from google.auth.credentials import AnonymousCredentials
from google.cloud import discoveryengine_v1 as discoveryengine
from google.cloud.discoveryengine_v1.services.rank_service.transports import RankServiceRestTransport

from checks import DOCUMENTS, GOOD_KEY, INSTRUCTION, QUERY, check_instruction, check_ranking, ensure
from harness import case, error_cases

ARN = "arn:aws:bedrock:us-west-2::foundation-model/"


def bedrock(url, model, query, documents=None, results=3):
    """AWS's client signs its requests, so that it cannot send an API key."""
    client = boto3.client(
        "bedrock-agent-runtime",
        region_name="us-west-2",
        endpoint_url=url,
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(retries={"max_attempts": 0}),
    )
    texts = [{"type": "TEXT", "textDocument": {"text": text}} for text in documents or DOCUMENTS]
    return client.rerank(
        queries=[{"type": "TEXT", "textQuery": {"text": query}}],
        sources=[{"type": "INLINE", "inlineDocumentSource": text} for text in texts],
        rerankingConfiguration={
            "type": "BEDROCK_RERANKING_MODEL",
            "bedrockRerankingConfiguration": {
                "modelConfiguration": {"modelArn": ARN + model},
                "numberOfResults": results,
            },
        },
    )


@case("boto3", "bedrock-agent-runtime.rerank", "boto3")
def bedrock_rerank(servers):
    rows = [(row["index"], row["relevanceScore"]) for row in bedrock(servers.url, "podium-mini", QUERY)["results"]]
    check_ranking(servers, rows, top_n=3)


error_cases(
    "boto3",
    "bedrock-agent-runtime.rerank",
    "boto3",
    lambda url, key, model, query: bedrock(url, model, query),
    kinds=(404,),
)


def dash(url, key, model, query, **more):
    dashscope.base_http_api_url = url + "/api/v1"
    reply = dashscope.TextReRank.call(model=model, query=query, documents=DOCUMENTS, api_key=key, **more)
    if reply.status_code != 200:
        raise RuntimeError(f"{reply.status_code} {reply.code} {reply.message}")
    return reply.output.results


@case("dashscope", "TextReRank.call", "dashscope")
def dash_rerank(servers):
    results = dash(servers.url, GOOD_KEY, "podium-mini", QUERY, top_n=3, return_documents=True)
    texts = [row["document"]["text"] for row in results]
    check_ranking(servers, [(row.index, row.relevance_score) for row in results], top_n=3, texts=texts)


@case("dashscope", "TextReRank.call, instruct", "dashscope")
def dash_instruct(servers):
    results = dash(servers.url, GOOD_KEY, "podium-mini", QUERY, instruct=INSTRUCTION)
    check_instruction(servers, [(row.index, row.relevance_score) for row in results])


error_cases("dashscope", "TextReRank.call", "dashscope", dash, kinds=(404, 422, 401, 429))


@case("elasticsearch", "inference.rerank", "elasticsearch")
def elastic(servers):
    client = Elasticsearch(servers.url, api_key=GOOD_KEY, max_retries=0)
    reply = client.inference.rerank(inference_id="podium", query=QUERY, input=DOCUMENTS)
    check_ranking(servers, [(row["index"], row["relevance_score"]) for row in reply["rerank"]])
    settings = {"return_documents": True, "top_n": 2}
    reply = client.inference.rerank(inference_id="podium", query=QUERY, input=DOCUMENTS, task_settings=settings)
    rows = reply["rerank"]
    ensure(len(rows) == 2, f"{len(rows)} rows")
    rows_of = [(row["index"], row["relevance_score"]) for row in rows]
    check_ranking(servers, rows_of, top_n=2, texts=[row["text"] for row in rows])


def google(url, key, model, query):
    """Google's client over REST; without TLS if its transport is told so."""
    host = url.removeprefix("http://")
    transport = RankServiceRestTransport(host=host, url_scheme="http", credentials=AnonymousCredentials())
    client = discoveryengine.RankServiceClient(transport=transport)
    records = [discoveryengine.RankingRecord(id=str(place), content=text) for place, text in enumerate(DOCUMENTS)]
    request = discoveryengine.RankRequest(
        ranking_config="projects/p/locations/global/rankingConfigs/default_ranking_config",
        model=model,
        query=query,
        records=records,
        top_n=3,
    )
    return client.rank(request=request, retry=None, metadata=[("authorization", f"Bearer {key}")]).records


@case("google-cloud-discoveryengine", "RankServiceClient.rank, REST", "google-cloud-discoveryengine")
def google_rank(servers):
    rows = [(int(row.id), row.score) for row in google(servers.url, GOOD_KEY, "podium-mini", QUERY)]
    check_ranking(servers, rows, top_n=3, documents=[f"content: {text}" for text in DOCUMENTS])


error_cases(
    "google-cloud-discoveryengine",
    "RankServiceClient.rank",
    "google-cloud-discoveryengine",
    google,
    loses={401: "it tries to refresh its credentials, of which there are none"},
)
