"""LlamaIndex's node postprocessors."""

import os

import boto3
import dashscope
import httpx
from botocore.config import Config
from llama_index.core.schema import NodeWithScore, TextNode
from llama_index.postprocessor.bedrock_rerank import BedrockRerank
from llama_index.postprocessor.cohere_rerank import CohereRerank
from llama_index.postprocessor.dashscope_rerank import DashScopeRerank
from llama_index.postprocessor.jinaai_rerank import JinaRerank
from llama_index.postprocessor.mixedbreadai_rerank import MixedbreadAIRerank
from llama_index.postprocessor.nvidia_rerank import NVIDIARerank
from llama_index.postprocessor.siliconflow_rerank import SiliconFlowRerank
from llama_index.postprocessor.tei_rerank import TextEmbeddingInference
from llama_index.postprocessor.voyageai_rerank import VoyageAIRerank
from llama_index.postprocessor.xinference_rerank import XinferenceRerank

from checks import DOCUMENTS, GOOD_KEY, PROFILE, QUERY, check_ranking, check_steered
from harness import case, error_cases, voyage_losses

PACKAGE = "llama-index-postprocessor-{}-rerank"
NVIDIA = "nvidia/llama-nemotron-rerank-1b-v2"


def nodes():
    return [NodeWithScore(node=TextNode(id_=str(place), text=text), score=0.5) for place, text in enumerate(DOCUMENTS)]


def ask(postprocessor, query):
    return postprocessor.postprocess_nodes(nodes(), query_str=query)


def cohere_call(url, key, model, query):
    return ask(CohereRerank(top_n=3, model=model, api_key=key, base_url=url, max_retries=1), query)


def jina_call(url, key, model, query):
    return ask(JinaRerank(top_n=3, model=model, api_key=key, base_url=url + "/v1"), query)


def tei_call(url, key, model, query):
    return ask(TextEmbeddingInference(top_n=3, base_url=url, auth_token=f"Bearer {key}", model_name=model), query)


def nvidia_call(url, key, model, query):
    return ask(NVIDIARerank(model=model, api_key=key, base_url=url + "/v1", top_n=3), query)


def siliconflow_call(url, key, model, query):
    return ask(SiliconFlowRerank(model=model, base_url=url + "/v1/rerank", api_key=key, top_n=3), query)


def xinference_call(url, key, model, query):
    return ask(XinferenceRerank(top_n=3, model=model, base_url=url), query)


def mixedbread_call(url, key, model, query):
    # No argument sets the URL; the SDK reads this variable.
    os.environ["MIXEDBREAD_BASE_URL"] = url
    return ask(MixedbreadAIRerank(top_n=3, model=model, api_key=key, max_retries=0), query)


def voyage_call(url, key, model, query):
    postprocessor = VoyageAIRerank(model=model, api_key=key, top_n=3)
    # No argument sets the URL.
    postprocessor._client._params["base_url"] = url + "/v1"
    return ask(postprocessor, query)


def bedrock_call(url, key, model, query):
    client = boto3.client(
        "bedrock-agent-runtime",
        region_name="us-west-2",
        endpoint_url=url,
        aws_access_key_id="any",
        aws_secret_access_key="any",
        config=Config(retries={"max_attempts": 0}),
    )
    return ask(BedrockRerank(top_n=3, rerank_model_name=model, region_name="us-west-2", client=client), query)


def dashscope_call(url, key, model, query):
    # No argument sets the URL.
    dashscope.base_http_api_url = url + "/api/v1"
    return ask(DashScopeRerank(top_n=3, model=model, api_key=key), query)


CALLS = {
    "cohere": (cohere_call, "rerank-v4.0-pro", "CohereRerank"),
    "jinaai": (jina_call, "jina-reranker-v3", "JinaRerank"),
    "tei": (tei_call, "podium-mini", "TextEmbeddingInference"),
    "nvidia": (nvidia_call, NVIDIA, "NVIDIARerank"),
    "siliconflow": (siliconflow_call, "BAAI/bge-reranker-v2-m3", "SiliconFlowRerank"),
    "xinference": (xinference_call, "podium-mini", "XinferenceRerank"),
    "mixedbreadai": (mixedbread_call, "mixedbread-ai/mxbai-rerank-large-v2", "MixedbreadAIRerank"),
    "voyageai": (voyage_call, "rerank-2.5", "VoyageAIRerank"),
    "bedrock": (bedrock_call, "podium-mini", "BedrockRerank"),
    "dashscope": (dashscope_call, "podium-mini", "DashScopeRerank"),
}


def plain_case(name):
    call, model, postprocessor = CALLS[name]

    @case(f"llama-index {name}", postprocessor, PACKAGE.format(name))
    def rank(servers):
        found = call(servers.url, GOOD_KEY, model, QUERY)
        rows = [(each.node.node_id, each.score) for each in found]
        check_ranking(servers, rows, top_n=3, texts=[each.node.text for each in found], raw=name == "nvidia")


@case("llama-index jinaai", "JinaRerank, profile in the model's name", PACKAGE.format("jinaai"))
def profile(servers):
    url, model = servers.url + "/v1", f"podium-mini@{PROFILE}"
    found = ask(JinaRerank(top_n=len(DOCUMENTS), model=model, api_key=GOOD_KEY, base_url=url), QUERY)
    check_steered(servers, [(each.node.node_id, each.score) for each in found], profile=PROFILE)


def error_family(name, **expected):
    call, _, postprocessor = CALLS[name]
    error_cases(f"llama-index {name}", postprocessor, PACKAGE.format(name), call, **expected)


for each in CALLS:
    plain_case(each)
# No case for 429 if the SDK always waits and retries.
error_family("cohere", kinds=(404, 422, 401))
error_family("jinaai", raises=RuntimeError)
error_family("tei", kinds=(422, 401, 429), raises=Exception, loses="it parses the reply without checking the status")
error_family("siliconflow", raises=RuntimeError)
error_family("xinference", kinds=(404, 422))
error_family("mixedbreadai")
error_family("voyageai", kinds=(404, 422, 401), loses=voyage_losses())
error_family("bedrock", kinds=(404,))
error_family("dashscope", raises=AttributeError, loses="it parses the reply without checking the status")


def nvidia_listed(url, key, _, query):
    # The client itself rejects a name that the server does not list.
    return nvidia_call(url, key, NVIDIA, query)


error_cases(
    "llama-index nvidia",
    "NVIDIARerank",
    PACKAGE.format("nvidia"),
    nvidia_listed,
    kinds=(422, 401, 429),
    raises=httpx.HTTPStatusError,
    loses="httpx shows the status and not the body",
)
