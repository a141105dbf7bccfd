"""Sends requests as users of rerank servers send them, and prints what each is answered.

    podium serve &
    python3 tools/requests/table.py http://127.0.0.1:8080 [target/release/podium]

The first part has the requests of public reports, by kind; the second has variations of them; the third has what is
tried first by hand or from another library, and unusual HTTP. With the path of a program, its command line is tried
too. Exits with 1 if an answer is not the expected one. Needs Python 3.10 or newer
and no packages.
"""

import gzip
import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request

RERANK = "/v1/rerank"
NEUTRAL = "Given a web search query, retrieve relevant passages that answer the query"
PASSWORD = ["Git stores commits.", "Open Settings, then Security, then Reset password."]
RESET = "how do I reset my password?"
DASHSCOPE = "/api/v1/services/rerank/text-rerank/text-rerank"


def with_(**more):
    return {"query": "q", "documents": ["a", "b"], **more}


def raw(text):
    return text if isinstance(text, bytes) else text.encode()


# Kind, what is sent, path, body (JSON, or bytes as they are), expected status, part of the expected answer or
# warning ("" for any), and more headers.
REPORTS = [
    ("A", "a neutral instruction", RERANK, {"query": RESET, "instruct": NEUTRAL, "documents": PASSWORD}, 200, '"index":1', {}),
    ("A", "the profile recent", RERANK, {"query": RESET, "profile": "recent", "documents": PASSWORD}, 200, '"index":1', {}),
    ("E", "vLLM's score with top_n", "/v1/score", {"text_1": ["p", "q"], "text_2": ["a", "b"], "encoding_format": "float",
        "score_threshold": 0.7, "top_n": 32}, 200, "top_n: ", {}),
    ("E", "Infinity's default model", "/infinity/rerank", with_(model="default/not-specified", raw_scores=False), 200, "", {}),
    ("E", "top_n 0", "/rerank", with_(top_n=0), 200, "all results", {}),
    ("E", "top_n -1", "/rerank", with_(top_n=-1), 422, "negative", {}),
    ("E", "top_n -1 under /infinity", "/infinity/rerank", with_(top_n=-1), 200, "all results", {}),
    ("E", "top_n null", "/rerank", with_(top_n=None), 200, "", {}),
    ("E", "top_n 100", "/rerank", with_(top_n=100), 200, "", {}),
    ("E", "max_tokens_per_doc 0", "/rerank", with_(max_tokens_per_doc=0), 200, "no limit", {}),
    ("E", "score with max_tokens_per_doc 0", "/score", {"text_1": "q", "text_2": ["a"], "max_tokens_per_doc": 0}, 200, "no limit", {}),
    ("E", "vLLM's truncation fields", "/rerank", with_(truncate_prompt_tokens=512, truncation_side="left",
        max_tokens_per_doc=100, max_tokens_per_query=64), 200, "texts are cut on the right", {}),
    ("E", "llama.cpp's return_text and texts", RERANK, with_(return_text=False, texts=True, top_n=6), 200, "not known", {}),
    ("E", "a model of another name", RERANK, with_(model="M"), 404, "--served-model-name", {}),
    ("E", "documents as one object", RERANK, {"query": "q", "documents": {"content": [{"type": "text", "text": "a"}]}}, 200, "list of 1", {}),
    ("E", "documents as one object with a picture", RERANK, {"query": "q", "documents": {"content": [
        {"type": "text", "text": "a"}, {"type": "image_url", "image_url": {"url": "x"}}]}}, 422, "only text is read", {}),
    ("E", "documents as one string", RERANK, {"query": "q", "documents": "a"}, 200, "list of 1", {}),
    ("F", "half an emoji at the end", RERANK, raw(r'{"query":"q","documents":["fine","cut emoji \ud83d"]}'), 200, "documents[1]", {}),
    ("F", "the other half", RERANK, raw(r'{"query":"q","documents":["fine","tail \udc4b"]}'), 200, "documents[1]", {}),
    ("F", "half an emoji in the query", RERANK, raw(r'{"query":"q\ud83d","documents":["a"]}'), 200, "query: half", {}),
    ("F", "half an emoji in metadata", RERANK, raw(r'{"query":"q","documents":["a"],"metadata":["\ud83d"]}'), 200, "metadata[0]", {}),
    ("F", "half an emoji, TEI", "/rerank", raw(r'{"query":"q","texts":["\ud83d x"]}'), 200, "texts[0]", {}),
    ("F", "half an emoji, Voyage", RERANK, raw(r'{"query":"q","documents":["\ud83d x"],"top_k":1,"truncation":true}'), 200, "documents[0]", {}),
    ("F", "one Latin-1 byte", RERANK, b'{"query":"q","documents":["ok","caf\xe9"]}', 400, "in documents[1]", {}),
    ("F", "a GBK body", RERANK, '{"query":"中文","documents":["a"]}'.encode("gbk"), 400, "not UTF-8", {}),
    ("G", "a slash at the end", "/v1/rerank/", with_(), 200, "", {}),
    ("G", "/v1/v1/rerank", "/v1/v1/rerank", with_(), 404, "did you mean /v1/rerank", {}),
    ("G", "/rerank/rerank", "/rerank/rerank", with_(), 404, "did you mean /rerank", {}),
    ("G", "/v1/reranks", "/v1/reranks", with_(), 200, "", {}),
    ("G", "/v3/rerank", "/v3/rerank", with_(), 404, "did you mean /rerank", {}),
    ("G", "/api/v1/rerank/", "/api/v1/rerank/", with_(), 404, "did you mean /v1/rerank", {}),
    ("G", "/openai/v1/rerank", "/openai/v1/rerank", with_(), 404, "did you mean /v1/rerank", {}),
    ("G", "a prefix from the proxy", "/rerankers/v1/rerank", with_(), 200, "", {"x-forwarded-prefix": "/rerankers"}),
    ("G", "NIM's probe", "GET /v1/health/ready", None, 200, "ready", {}),
    ("G", "Kubernetes' probe", "GET /healthz", None, 200, "ok", {}),
    ("G", "HEAD on a ranking path", "HEAD /v1/rerank", None, 405, "", {}),
    ("G", "OPTIONS", "OPTIONS /v1/rerank", None, 204, "", {}),
    ("H", "an empty picture", RERANK, {"query": "q", "documents": [{"text": "a shoe", "image": ""}]}, 200, "", {}),
    ("H", "an empty list of pictures", RERANK, {"query": "q", "documents": [{"text": "a shoe", "image_url": []}]}, 200, "", {}),
    ("H", "a picture beside a title", RERANK, {"query": "q", "documents": [{"title": "t", "image": "https://x/1.jpg"}]}, 422, "rank_fields", {}),
    ("H", "a picture, rank_fields", RERANK, {"query": "q", "documents": [{"title": "t", "image": "https://x/1.jpg"}], "rank_fields": ["title"]}, 200, "", {}),
    ("H", "text null beside a title", RERANK, {"query": "q", "documents": [{"text": None, "title": "t"}]}, 200, "", {}),
    ("I", 'top_n "2"', RERANK, with_(top_n="2"), 200, "was read as 2", {}),
    ("I", 'max_tokens_per_doc "512"', RERANK, with_(max_tokens_per_doc="512"), 200, "was read as 512", {}),
    ("I", 'timeout_ms "60000"', RERANK, with_(timeout_ms="60000"), 200, "was read as 60000", {}),
    ("I", "return_documents 1", RERANK, with_(return_documents=1), 200, "was read as true", {}),
    ("J", "top_k 0, Voyage", RERANK, with_(top_k=0, truncation=True), 422, "top_k: is 0", {}),
    ("J", 'top_k "x"', RERANK, with_(top_k="x"), 422, "top_k: expected", {}),
    ("J", "priority -1", RERANK, with_(priority=-1), 422, "between 0", {}),
    ("K", "passages", RERANK, {"query": "q", "passages": ["a"]}, 422, "did you mean `documents`", {}),
    ("K", "candidates", RERANK, {"query": "q", "candidates": ["a"]}, 422, "did you mean `documents`", {}),
    ("K", "docs and k", RERANK, {"query": "q", "docs": ["a"], "k": 1}, 422, "did you mean `documents`", {}),
    ("K", "inputs", RERANK, {"query": "q", "inputs": ["a"]}, 422, "did you mean `documents`", {}),
    ("K", "querry", RERANK, {"querry": "q", "documents": ["a"]}, 422, "did you mean `query`", {}),
    ("K", "question", RERANK, {"question": "q", "documents": ["a"]}, 422, "did you mean `query`", {}),
    ("K", "Documents", RERANK, {"query": "q", "Documents": ["a"]}, 422, "did you mean `documents`", {}),
    ("K", "DashScope's nesting", RERANK, {"model": "podium-mini", "input": {"query": "q", "documents": ["a"]}, "parameters": {}}, 200, "output", {}),
    ("M", "a byte order mark", RERANK, b'\xef\xbb\xbf{"query":"q","documents":["a"]}', 200, "", {}),
    ("M", "UTF-16", RERANK, '{"query":"q","documents":["a"]}'.encode("utf-16"), 200, "UTF-16", {}),
    ("P", "TEI's is_truncated", "/rerank", {"query": "q", "texts": ["a"], "is_truncated": True}, 200, '"is_truncated" is not known', {}),
    ("P", "truncation_direction Left", "/rerank", {"query": "q", "texts": ["a"], "truncation_direction": "Left"}, 422, "cut on the right", {}),
    ("-", "empty documents", RERANK, {"query": "machine learning", "documents": ["", "Machine learning is a subset of AI", " ", "Pizza"]},
        200, "without text, so with a score of 0", {}),
    ("-", "a Chinese query", RERANK, {"query": "睡眠", "documents": ["a"]}, 200, "reads English", {}),
    ("-", "gzip", RERANK, gzip.compress(b'{"query":"q","documents":["a"]}'), 200, "", {"content-encoding": "gzip"}),
    ("-", "brotli", RERANK, b"x", 415, "gzip, zstd", {"content-encoding": "br"}),
    ("-", "Weaviate", "/weaviate/rerank", {"query": "q", "documents": ["a"], "property": ""}, 200, "scores", {}),
]

VARIATIONS = [
    ("E", 'top_n "0"', RERANK, with_(top_n="0"), 200, "all results", {}),
    ("E", "top_n 0, SGLang", "/sglang/v1/rerank", with_(top_n=0), 200, "all results", {}),
    ("E", "topN 0, Vertex", "/v1/projects/p/locations/l/rankingConfigs/c:rank", {"query": "q", "records": [{"id": "1", "content": "a"}], "topN": 0}, 200, "records", {}),
    ("E", "top_n 2.0", RERANK, with_(top_n=2.0), 200, "", {}),
    ("E", "rank_fields []", RERANK, with_(rank_fields=[]), 200, "", {}),
    ("E", "instruction empty", RERANK, with_(instruction=""), 200, "", {}),
    ("E", "model null", RERANK, with_(model=None), 200, "", {}),
    ("E", "model empty", RERANK, with_(model=""), 404, "leave it out for the default", {}),
    ("E", "chat_template_kwargs {}", "/v1/rerank", with_(chat_template_kwargs={}), 200, "", {}),
    ("F", "a surrogate in UTF-8", RERANK, b'{"query":"q","documents":["x \xed\xa0\xbd"]}', 200, "documents[0]", {}),
    ("F", "a pair of surrogates in UTF-8", RERANK, b'{"query":"q","documents":["\xed\xa0\xbd\xed\xb8\x80"]}', 200, "", {}),
    ("F", "half an emoji in an unknown field", RERANK, raw(r'{"query":"q","documents":["a"],"user":"\ud83d"}'), 200, "user: half", {}),
    ("F", "half an emoji in a field's name", RERANK, raw(r'{"query":"q","documents":["a"],"x\ud83d":1}'), 200, "the name of the field", {}),
    ("F", "half an emoji, NIM", "/v1/ranking", raw(r'{"query":{"text":"q"},"passages":[{"text":"\ud83d a"}]}'), 200, "passages[0].text", {}),
    ("F", "half an emoji, DashScope", DASHSCOPE, raw(r'{"input":{"query":"q","documents":["a\ud83d"]}}'), 200, "input.documents[0]", {}),
    ("F", "NUL in a document", RERANK, raw(r'{"query":"q","documents":["a\u0000b"]}'), 200, "", {}),
    ("F", "a Latin-1 byte in the query, TEI", "/rerank", b'{"query":"caf\xe9","texts":["a"]}', 400, "in query", {}),
    ("F", "windows-1252 quotes, NIM", "/v1/ranking", b'{"query":{"text":"q"},"passages":[{"text":"\x93a\x94"}]}', 400, "passages[0].text", {}),
    ("M", "UTF-16 big-endian, no mark", RERANK, '{"query":"q","documents":["a"]}'.encode("utf-16-be"), 200, "UTF-16", {}),
    ("M", "UTF-32", RERANK, '{"query":"q","documents":["a"]}'.encode("utf-32"), 400, "UTF-32", {}),
    ("G", "//v1//rerank", "//v1//rerank", with_(), 404, "did you mean /v1/rerank", {}),
    ("G", "/v1/re-rank", "/v1/re-rank", with_(), 404, "did you mean /v1/rerank", {}),
    ("G", "/v1/rerank?model=x", "/v1/rerank?model=x", with_(), 200, "", {}),
    ("G", "/v1/health/live", "GET /v1/health/live", None, 200, "ok", {}),
    ("G", "GET on a ranking path", "GET /v1/rerank", None, 405, "use POST", {}),
    ("H", "a video that is null", RERANK, {"query": "q", "documents": [{"text": "a", "video": None}]}, 200, "", {}),
    ("H", "all text fields null", RERANK, {"query": "q", "documents": [{"text": None, "content": None}]}, 422, "documents[0]", {}),
    ("I", 'top_k "1", mixedbread', "/v1/reranking", {"query": "q", "input": ["a", "b"], "top_k": "1"}, 200, "was read as 1", {}),
    ("I", 'priority "3"', "/v2/rerank", with_(priority="3"), 200, "was read as 3", {}),
    ("I", "truncation no", RERANK, with_(truncation="no"), 200, "was read as false", {}),
    ("I", "rank_fields as one text", RERANK, {"query": "q", "documents": [{"title": "t"}], "rank_fields": "title"}, 200, "list of 1", {}),
    ("I", 'top_n "many"', RERANK, with_(top_n="many"), 422, "expected a whole number", {}),
    ("J", "top_k 1.5, Pinecone", "/pinecone/rerank", {"query": "q", "documents": ["a"], "top_k": 1.5}, 422, "top_k", {}),
    ("K", "texts at Pinecone", "/pinecone/rerank", {"query": "q", "texts": ["a"]}, 422, "did you mean `documents`", {}),
    ("K", "documents at NIM", "/v1/ranking", {"query": {"text": "q"}, "documents": ["a"]}, 422, "did you mean `passages`", {}),
    ("K", "records at Elasticsearch", "/_inference/rerank/x", {"query": "q", "records": ["a"]}, 422, "did you mean `input`", {}),
    ("K", "documents at Vertex", "/v1/projects/p/locations/l/rankingConfigs/c:rank", {"query": "q", "documents": ["a"]}, 422, "did you mean `records`", {}),
    ("K", "query outside DashScope's input", DASHSCOPE, {"query": "q", "input": {"documents": ["a"]}}, 422, "input.query", {}),
    ("K", "an unknown field in DashScope's parameters", DASHSCOPE, {"input": {"query": "q", "documents": ["a"]}, "parameters": {"topn": 1}}, 200, "parameters.top_n", {}),
    ("P", "an unknown field, score", "/score", {"text_1": "q", "text_2": "a", "softmax": True}, 200, '"softmax" is not known', {}),
    ("-", "only empty documents", RERANK, {"query": "q", "documents": ["", " "]}, 200, "without text", {}),
    ("-", "zero-width document", RERANK, {"query": "q", "documents": ["\u200b", "a"]}, 200, "without text", {}),
    ("-", "Russian documents", RERANK, {"query": "q", "documents": ["Привет мир", "a"]}, 200, "reads English", {}),
    ("-", "broken gzip", RERANK, b'{"query":"q"}', 400, "not valid gzip", {"content-encoding": "gzip"}),
    ("-", "a gzip bomb", RERANK, gzip.compress(b" " * 40_000_000), 413, "when it is decompressed", {"content-encoding": "gzip"}),
    ("-", "a query of parts", RERANK, {"query": [{"type": "text", "text": "q"}], "documents": ["a"]}, 200, "", {}),
    ("-", "Bedrock on /rerank", "/rerank", {"queries": [{"textQuery": {"text": "q"}}], "sources": [{"inlineDocumentSource": {"textDocument": {"text": "a"}}}]}, 200, "relevanceScore", {}),
]

LANGCHAIN = {"page_content": "a", "metadata": {"source": "x.pdf"}, "id": "1", "type": "Document"}
FORM = "application/x-www-form-urlencoded"
NUMBERS = [f"document {number}" for number in range(1001)]

# What is tried first, by hand or from another library: content types, addresses, JSON that is almost right,
# documents of every shape, parameters of another name or type, models, other dialects.
NEWCOMERS = [
    ("HTTP", "curl -d without a header", RERANK, with_(), 415, "with curl, add -H", {"content-type": FORM}),
    ("HTTP", "a form", RERANK, raw("query=q&documents=a"), 400, "it looks like a form", {}),
    ("HTTP", "a multipart form", RERANK, raw("--x\r\n\r\nq\r\n--x--\r\n"), 415, "must be application/json", {"content-type": "multipart/form-data; boundary=x"}),
    ("HTTP", "charset=utf-8", RERANK, with_(), 200, "", {"content-type": "application/json; charset=utf-8"}),
    ("HTTP", "charset=iso-8859-1, and bytes of it", RERANK, b'{"query":"caf\xe9","documents":["a"]}', 400, "send it encoded as UTF-8", {"content-type": "application/json; charset=iso-8859-1"}),
    ("HTTP", "a vendor's JSON type", RERANK, with_(), 200, "", {"content-type": "application/vnd.api+json"}),
    ("HTTP", "top_n in the address", RERANK + "?top_n=1", with_(), 200, "in the address has no effect", {}),
    ("HTTP", "Azure's api-version in the address", RERANK + "?api-version=2024-05-01", with_(), 200, "", {}),
    ("HTTP", "GET with a query string", "GET /v1/rerank?query=q&documents=a", None, 405, "use POST", {}),
    ("HTTP", "PUT", "PUT /v1/rerank", with_(), 405, "use POST", {}),
    ("HTTP", "a browser's accept header", RERANK, with_(), 200, "", {"accept": "text/html"}),
    ("HTTP", "return documents by a header", RERANK, with_(), 200, '"document":', {"podium-return-documents": "true"}),
    ("JSON", "a body that was encoded twice", RERANK, json.dumps(json.dumps(with_())).encode(), 422, "encoded twice", {}),
    ("JSON", "a list of requests", RERANK, [with_(), with_()], 422, "send each object by itself", {}),
    ("JSON", "two requests in lines", RERANK, raw('{"query":"q"}\n{"query":"q"}'), 400, "a request has one object", {}),
    ("JSON", "a Python dictionary", RERANK, raw("{'query': 'q', 'documents': ['a']}"), 400, "quotes names and texts", {}),
    ("JSON", "an object in JavaScript's words", RERANK, raw("[object Object]"), 400, "JSON.stringify", {}),
    ("JSON", "True", RERANK, raw('{"query":"q","documents":["a"],"return_documents":True}'), 400, "writes true, false and null", {}),
    ("JSON", "NaN", RERANK, raw('{"query":"q","documents":[{"text":"a","price":NaN}]}'), 400, "no NaN", {}),
    ("JSON", "a comment", RERANK, raw('{"query":"q", // the query\n"documents":["a"]}'), 400, "no comments", {}),
    ("JSON", "a trailing comma", RERANK, raw('{"query":"q","documents":["a",]}'), 400, "trailing comma", {}),
    ("JSON", "names without quotes", RERANK, raw('{query:"q",documents:["a"]}'), 400, "in quotation marks", {}),
    ("JSON", "a word processor's quotes", RERANK, raw("{“query”:“q”}"), 400, "quotes names and texts", {}),
    ("JSON", "a line break in a text", RERANK, raw('{"query":"q","documents":["a\nb"]}'), 400, "a line break is written", {}),
    ("JSON", "a Windows path", RERANK, raw(r'{"query":"C:\Users","documents":["a"]}'), 400, "a backslash is written", {}),
    ("JSON", "a body that is cut off", RERANK, raw('{"query":"q","documents":["a"'), 400, "ends before its JSON does", {}),
    ("JSON", "a field twice", RERANK, raw('{"query":"q","query":"r","documents":["a"]}'), 422, "given more than once", {}),
    ("JSON", "200 levels", RERANK, raw('{"query":"q","documents":["a"],"x":' + "[" * 200 + "]" * 200 + "}"), 400, "nested at most 128", {}),
    ("JSON", "a number of 23 digits", RERANK, raw('{"query":"q","documents":["a"],"top_n":99999999999999999999999}'), 200, "", {}),
    ("JSON", "1e1", RERANK, raw('{"query":"q","documents":["a"],"top_n":1e1}'), 200, "", {}),
    ("docs", "LangChain's documents", RERANK, {"query": "q", "documents": [LANGCHAIN], "return_documents": True}, 200, '"text":"a"', {}),
    ("docs", "a list in a string", RERANK, {"query": "q", "documents": '["a","b"]'}, 422, "expected an array, found the string", {}),
    ("docs", "an object by number", RERANK, {"query": "q", "documents": {"0": "a", "1": "b"}}, 422, "expected an array, found an object", {}),
    ("docs", "title and body", RERANK, {"query": "q", "documents": [{"id": 7, "title": "T", "body": "x"}], "return_documents": True}, 200, "title: T", {}),
    ("docs", "all kinds together", RERANK, {"query": "q", "documents": ["a", {"text": "b"}, LANGCHAIN, {"title": "t"}]}, 200, "", {}),
    ("docs", "a number", RERANK, {"query": "q", "documents": ["a", 2]}, 422, "documents[1]: expected a string", {}),
    ("docs", "null among them", RERANK, {"query": "q", "documents": ["a", None]}, 422, "documents[1]: expected a string", {}),
    ("docs", "pairs, as for a cross-encoder", RERANK, {"query": "q", "documents": [["q", "a"], ["q", "b"]]}, 422, "documents[0]: expected a string", {}),
    ("docs", "none", RERANK, {"query": "q", "documents": []}, 422, "at least one document", {}),
    ("docs", "65", RERANK, {"query": "q", "documents": NUMBERS[:65]}, 200, "", {}),
    ("docs", "1001", RERANK, {"query": "q", "documents": NUMBERS}, 422, "over the limit of 1000", {}),
    ("docs", "one of 1 MB", RERANK, {"query": "q", "documents": ["word " * 200_000, "a"]}, 200, "was cut to", {}),
    ("docs", "a family of emoji, right to left, NUL", RERANK, {"query": "q", "documents": ["👩\u200d👩\u200d👧 \u202eabc\u0000 hello", "b"]}, 200, "", {}),
    ("docs", "control tokens", RERANK, {"query": "q", "documents": ["<|embed_token|> a", "[CLS] b"]}, 200, "control token was removed", {}),
    ("field", "topN", RERANK, with_(topN=1), 200, 'did you mean "top_n"', {}),
    ("field", "TOP_N", RERANK, with_(TOP_N=1), 200, 'did you mean "top_n"', {}),
    ("field", "limit", RERANK, with_(limit=1), 200, 'did you mean "top_n"', {}),
    ("field", "threshold", RERANK, with_(threshold=0.5), 200, 'did you mean "min_score"', {}),
    ("field", "extra_body, as it stands", RERANK, with_(extra_body={"instruction": "i"}), 200, "only at the top level", {}),
    ("field", "stream", RERANK, with_(stream=True), 200, '"stream" is not known', {}),
    ("field", "top_n of an empty text", RERANK, with_(top_n=""), 422, "expected a whole number", {}),
    ("field", "top_n 2.5", RERANK, with_(top_n=2.5), 422, "not a whole number", {}),
    ("field", "top_n true", RERANK, with_(top_n=True), 422, "expected a whole number", {}),
    ("field", 'min_score "0.0"', RERANK, with_(min_score="0.0"), 200, "was read as 0.0", {}),
    ("field", "min_score 50", RERANK, with_(min_score=50), 422, "between 0 and 1", {}),
    ("field", "return_documents of an empty text", RERANK, with_(return_documents=""), 422, "expected true or false", {}),
    ("field", "a query that is a number", RERANK, {"query": 42, "documents": ["a"]}, 422, "query: expected a string", {}),
    ("field", "a list of queries", RERANK, {"query": ["q", "r"], "documents": ["a"]}, 422, "query: expected a string", {}),
    ("field", "a blank query", RERANK, {"query": " \n", "documents": ["a"]}, 422, "must not be empty", {}),
    ("field", "an instruction of 40,000 letters", RERANK, with_(instruction="x " * 20_000), 200, "instruction: cut from", {}),
    ("model", "a vendor's model", RERANK, with_(model="rerank-v3.5"), 404, "--served-model-name", {}),
    ("model", "a number", RERANK, with_(model=123), 422, "model: expected a string", {}),
    ("model", "spaces around it", RERANK, with_(model=" podium-mini "), 404, "available: podium-mini", {}),
    ("API", "NIM with plain texts", "/v1/ranking", {"query": "q", "passages": ["a"]}, 200, "rankings", {}),
    ("API", "TEI, parameters in inputs", "/invocations", {"inputs": {"query": "q", "texts": ["a"]}}, 422, 'it is inside', {}),
    ("API", "scores of lists that do not pair", "/score", {"text_1": ["a", "b", "c"], "text_2": ["d", "e"]}, 422, "do not pair", {}),
    ("API", "ZeroEntropy's latency", "/v1/models/rerank", with_(latency="medium"), 422, "none of fast, slow", {}),
    ("API", "embeddings", "/v1/embeddings", {"input": "a", "model": "m"}, 404, "there is no route", {}),
    ("API", "mixedbread, top_n", "/v1/reranking", {"query": "q", "input": ["a", "b"], "topK": 1}, 200, 'did you mean "top_k"', {}),
]

# Arguments of `podium serve`, more environment, and part of the expected message on standard error.
COMMANDS = [
    ("--port 8080", ["--port", "8080"], {}, "--listen 0.0.0.0:8080"),
    ("--host 0.0.0.0", ["--host", "0.0.0.0"], {}, "--listen 0.0.0.0:8080"),
    ("a positional model", ["Qwen/Qwen3-Reranker-0.6B"], {}, "--model Qwen/Qwen3-Reranker-0.6B"),
    ("--model-id", ["--model-id", "a/b"], {}, "--model MODEL"),
    ("--root-path", ["--root-path", "/x"], {}, "server.path_prefix"),
    ("--trust-remote-code", ["--trust-remote-code"], {}, "never runs a checkpoint's code"),
    ("a hub URL", ["--model", "https://huggingface.co/Qwen/Qwen3-Reranker-0.6B"], {}, "give the hub id Qwen/Qwen3-Reranker-0.6B"),
    ("PODIUM_MODEL", [], {"PODIUM_MODEL": "Qwen/Qwen3-Reranker-0.6B"}, "PODIUM__MODEL__SOURCE"),
    ("PODIUM_PORT", [], {"PODIUM_PORT": "8080"}, "PODIUM__SERVER__LISTEN"),
    ("a prefix with a slash at its end", [], {"PODIUM__SERVER__PATH_PREFIX": "/x/"}, "without a slash at its end"),
]


def ask(url, place, body, headers):
    """Status, warnings and body of the answer."""
    method, path = place.split(" ") if " " in place else ("POST", place)
    data = body if isinstance(body, bytes | None) else json.dumps(body).encode()
    headers = {"content-type": "application/json", **headers}
    request = urllib.request.Request(url + path, data, headers, method=method)
    try:
        reply = urllib.request.urlopen(request, timeout=60)
    except urllib.error.HTTPError as error:
        reply = error
    with reply:
        return reply.status, reply.headers.get_all("podium-warning") or [], reply.read().decode()


BODY = json.dumps(with_())
FIELDS = "host: x\r\ncontent-type: application/json\r\n"
LENGTH = f"content-length: {len(BODY)}\r\n"
CLOSE = "connection: close\r\n"
POST = f"POST {RERANK} HTTP/1.1\r\n{FIELDS}"
CHUNKS = f"5\r\n{BODY[:5]}\r\n{len(BODY) - 5:x};a=b\r\n{BODY[5:]}\r\n0\r\nx-trailer: 1\r\n\r\n"

# Requests byte by byte, in the parts that are sent with a pause between them, how many answers 200 are expected, and
# whether the client closes its sending side.
CONNECTIONS = [
    ("a half-closed connection", [f"{POST}{LENGTH}\r\n{BODY}"], 1, True),
    ("chunks, with an extension and a trailer", [f"{POST}{CLOSE}transfer-encoding: chunked\r\n\r\n{CHUNKS}"], 1, False),
    ("a wait for 100 Continue", [f"{POST}{CLOSE}{LENGTH}expect: 100-continue\r\n\r\n", BODY], 1, False),
    ("three requests in one write", [f"{POST}{LENGTH}\r\n{BODY}" * 2 + f"{POST}{CLOSE}{LENGTH}\r\n{BODY}"], 3, False),
    ("HTTP/1.0", [f"POST {RERANK} HTTP/1.0\r\n{FIELDS}{LENGTH}\r\n{BODY}"], 1, False),
    ("HTTP/1.0, keep-alive", [f"POST {RERANK} HTTP/1.0\r\n{FIELDS}{LENGTH}connection: keep-alive\r\n\r\n{BODY}"] * 2, 2, True),
    ("header names in capitals", [f"POST {RERANK} HTTP/1.1\r\n{FIELDS.upper()}{CLOSE.upper()}{LENGTH.upper()}\r\n{BODY}"], 1, False),
    ("a whole address", [f"POST http://x{RERANK} HTTP/1.1\r\n{FIELDS}{CLOSE}{LENGTH}\r\n{BODY}"], 1, False),
    ("an offer of HTTP/2, as Java sends it", [f"{POST}{LENGTH}connection: close, Upgrade, HTTP2-Settings\r\nupgrade: h2c\r\n"
        f"http2-settings: AAMAAABk\r\n\r\n{BODY}"], 1, False),
    ("no host", [f"{POST}{CLOSE}{LENGTH}\r\n{BODY}".replace("host: x\r\n", "")], 1, False),
    ("slowly, in small parts", [*f"{POST}{CLOSE}{LENGTH}\r\n{BODY}"[:40], f"{POST}{CLOSE}{LENGTH}\r\n{BODY}"[40:]], 1, False),
]


def converse(url, parts, half_closes):
    """The first lines of the answers to a request that is sent as it is."""
    host, port = url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=60) as stream:
        for part in parts:
            stream.sendall(part.encode())
            time.sleep(0.01)
        if half_closes:
            stream.shutdown(socket.SHUT_WR)
        received = stream.makefile("rb").read().decode()
    return re.findall(r"HTTP/1\.[01] \d{3} [A-Za-z ]+", received)


def run_connections(url):
    right = 0
    for what, parts, count, half_closes in CONNECTIONS:
        lines = converse(url, parts, half_closes)
        is_right = sum(" 200 " in first for first in lines) == count
        right += line("TCP", what, ", ".join(lines), is_right)
    return right


def message(body):
    try:
        reply = json.loads(body)
    except ValueError:
        return body
    if isinstance(reply, dict):
        found = reply.get("message") or reply.get("detail") or reply.get("error")
        return found if isinstance(found, str) else ""
    return ""


def line(kind, what, answer, is_right):
    print(f"{'ok' if is_right else 'WRONG':<6} {kind:<5} {what:<45} {answer}"[:230])
    return is_right


def run_requests(url, rows):
    right = 0
    for kind, what, place, body, status, part, headers in rows:
        found, warnings, text = ask(url, place, body, headers)
        said = "; ".join(warnings) or message(text)
        is_right = found == status and part in f"{said} {text}"
        right += line(kind, what, f"{found} {said}", is_right)
    return right


def run_commands(podium):
    right = 0
    bare = {name: value for name, value in os.environ.items() if not name.startswith("PODIUM")}
    for what, arguments, environment, part in COMMANDS:
        command = [podium, "serve", "--listen", "127.0.0.1:0", "--offline", *arguments]
        done = subprocess.run(command, env={**bare, **environment}, capture_output=True, text=True, timeout=60)
        said = " ".join(done.stderr.split())
        right += line("O", what, f"exit {done.returncode}: {said}", done.returncode != 0 and part in done.stderr)
    return right


def main():
    url = sys.argv[1].rstrip("/")
    wrong = 0
    for title, rows in (("Reports", REPORTS), ("Variations", VARIATIONS), ("Newcomers", NEWCOMERS)):
        print(f"== {title}: {len(rows)}")
        wrong += len(rows) - run_requests(url, rows)
    print(f"== Connections: {len(CONNECTIONS)}")
    wrong += len(CONNECTIONS) - run_connections(url)
    if len(sys.argv) > 2:
        print(f"== Command line: {len(COMMANDS)}")
        wrong += len(COMMANDS) - run_commands(sys.argv[2])
    print(f"{wrong} answers are not the expected ones" if wrong else "every answer is the expected one")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
