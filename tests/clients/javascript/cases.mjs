// JavaScript clients against a server: order and scores are compared with a plain request, errors must show the
// server's words.
import assert from "node:assert/strict";
import { readFileSync, writeFileSync } from "node:fs";
import { createAmazonBedrock } from "@ai-sdk/amazon-bedrock";
import { createCohere } from "@ai-sdk/cohere";
import { createTogetherAI } from "@ai-sdk/togetherai";
import { BedrockAgentRuntimeClient, RerankCommand } from "@aws-sdk/client-bedrock-agent-runtime";
import { Client as Elasticsearch } from "@elastic/elasticsearch";
import { rerank } from "ai";
import { CohereClient, CohereClientV2 } from "cohere-ai";
import { CohereRerank as LangChainCohere } from "@langchain/cohere";
import { MixedbreadAIReranker as LangChainMixedbread } from "@langchain/mixedbread-ai";
import { CohereRerank as LlamaIndexCohere } from "@llamaindex/cohere";
import { TextNode } from "@llamaindex/core/schema";
import { MixedbreadAIReranker as LlamaIndexMixedbread } from "@llamaindex/mixedbread";
import Mixedbread from "@mixedbread/sdk";
import { OpenRouter } from "@openrouter/sdk";
import { Pinecone } from "@pinecone-database/pinecone";
import ContextualAI from "contextual-client";
import OpenAI from "openai";
import Together from "together-ai";
import { createVoyage } from "voyage-ai-provider";
import { VoyageAIClient } from "voyageai";
import ZeroEntropy from "zeroentropy";

const url = process.argv[2];
const model = "podium-mini";
const query = "How do I get my money back for a cancelled flight?";
const documents = [
  "Our cabin crew serves hot meals on all flights that are longer than three hours.",
  "Passengers of a cancelled flight may claim a refund of the full ticket price within seven days.",
  "The airport train leaves every fifteen minutes from platform two.",
  "To ask for your money back, open the booking, choose Cancelled flight and press Request refund.",
  "Refunds of cancelled flights were slow last year, a newspaper wrote.",
];
const topN = 3;
const quick = { apiKey: "any", maxRetries: 0 };

const cohere = { token: "any", environment: url };
const nodes = () => documents.map((text) => ({ node: new TextNode({ text }), score: 0 }));
const rowsOf = (ranked) => ranked.map(({ node, score }) => ({ index: documents.indexOf(node.text), score }));
const aiSdk = async (model) => {
  const { ranking } = await rerank({ model, query, documents, topN, maxRetries: 0 });
  return ranking.map((row) => ({ index: row.originalIndex, relevanceScore: row.score }));
};
const aws = { region: "us-west-2", credentials: { accessKeyId: "any", secretAccessKey: "any" } };
const clients = {
  "@ai-sdk/amazon-bedrock": {
    rerank: async (model) => {
      const keys = { region: "us-west-2", accessKeyId: "any", secretAccessKey: "any" };
      // No setting has the address of the agent runtime.
      const there = (address, options) => fetch(`${url}${new URL(address).pathname}`, options);
      return aiSdk(createAmazonBedrock({ ...keys, fetch: there }).reranking(model));
    },
  },
  "@ai-sdk/togetherai": {
    rerank: async (model) => aiSdk(createTogetherAI({ apiKey: "any", baseURL: `${url}/v1` }).reranking(model)),
  },
  "voyage-ai-provider": {
    rerank: async (model) => aiSdk(createVoyage({ apiKey: "any", baseURL: `${url}/v1` }).reranking(model)),
  },
  "@aws-sdk/client-bedrock-agent-runtime": {
    RerankCommand: async (model) => {
      const client = new BedrockAgentRuntimeClient({ ...aws, endpoint: url, maxAttempts: 1 });
      const sources = documents.map((text) => ({
        type: "INLINE",
        inlineDocumentSource: { type: "TEXT", textDocument: { text } },
      }));
      const modelArn = `arn:aws:bedrock:us-west-2::foundation-model/${model}`;
      const rerankingConfiguration = {
        type: "BEDROCK_RERANKING_MODEL",
        bedrockRerankingConfiguration: { numberOfResults: topN, modelConfiguration: { modelArn } },
      };
      const queries = [{ type: "TEXT", textQuery: { text: query } }];
      return (await client.send(new RerankCommand({ queries, sources, rerankingConfiguration }))).results;
    },
  },
  "@elastic/elasticsearch": {
    "inference.rerank": async (model) => {
      const client = new Elasticsearch({ node: url, auth: { apiKey: "any" }, maxRetries: 0 });
      const reply = await client.inference.rerank({ inference_id: model, query, input: documents, top_n: topN });
      return reply.rerank;
    },
  },
  "@openrouter/sdk": {
    "OpenRouter.rerank.rerank": async (model) => {
      const client = new OpenRouter({ apiKey: "any", serverURL: `${url}/v1`, retryConfig: { strategy: "none" } });
      const requestBody = { model, query, documents, topN };
      // It requires a document in each row, and has no setting that asks for one.
      const headers = { "podium-return-documents": "true" };
      return (await client.rerank.rerank({ requestBody }, { headers })).results;
    },
  },
  "@pinecone-database/pinecone": {
    "inference.rerank": async (model) => {
      const client = new Pinecone({ apiKey: "any", controllerHostUrl: `${url}/pinecone` });
      return (await client.inference.rerank({ model, query, documents, topN })).data;
    },
  },
  "contextual-client": {
    "ContextualAI.rerank.create": async (model) =>
      (
        await new ContextualAI({ ...quick, baseURL: `${url}/v1` }).rerank.create({
          model,
          query,
          documents,
          top_n: topN,
        })
      ).results,
  },
  "cohere-ai": {
    "CohereClientV2.rerank": async (model) =>
      (await new CohereClientV2(cohere).rerank({ model, query, documents, topN }, { maxRetries: 0 })).results,
    "CohereClient.rerank": async (model) =>
      (await new CohereClient(cohere).rerank({ model, query, documents, topN }, { maxRetries: 0 })).results,
  },
  "@ai-sdk/cohere": {
    rerank: async (model) => {
      return aiSdk(createCohere({ apiKey: "any", baseURL: `${url}/v2` }).reranking(model));
    },
  },
  voyageai: {
    "VoyageAIClient.rerank": async (model) => {
      const client = new VoyageAIClient({ apiKey: "any", environment: `${url}/v1` });
      return (await client.rerank({ model, query, documents, topK: topN }, { maxRetries: 0 })).data;
    },
  },
  "@langchain/cohere": {
    "CohereRerank.rerank": async (model) => {
      const client = new CohereClient(cohere);
      const quiet = { rerank: (body) => client.rerank(body, { maxRetries: 0 }) };
      return new LangChainCohere({ client: quiet, model, topN }).rerank(documents, query);
    },
  },
  "@langchain/mixedbread-ai": {
    "MixedbreadAIReranker.rerank": async (model) =>
      (
        await new LangChainMixedbread({ apiKey: "any", baseUrl: url, model, topK: topN, maxRetries: 0 }).rerank(
          documents,
          query,
        )
      ),
  },
  "@llamaindex/cohere": {
    "CohereRerank.postprocessNodes": async (model) =>
      rowsOf(await new LlamaIndexCohere({ apiKey: "any", baseUrl: url, model, topN }).postprocessNodes(nodes(), query)),
  },
  "@llamaindex/mixedbread": {
    "MixedbreadAIReranker.postprocessNodes": async (model) => {
      const reranker = new LlamaIndexMixedbread({ apiKey: "any", baseUrl: url, model, topK: topN, maxRetries: 0 });
      return rowsOf(await reranker.postprocessNodes(nodes(), query));
    },
  },
  "together-ai": {
    "Together.rerank.create": async (model) =>
      (await new Together({ ...quick, baseURL: `${url}/v1` }).rerank.create({ model, query, documents, top_n: topN }))
        .results,
  },
  "@mixedbread/sdk": {
    "Mixedbread.rerank": async (model) =>
      (await new Mixedbread({ ...quick, baseURL: url }).rerank({ model, query, input: documents, top_k: topN })).data,
  },
  zeroentropy: {
    "ZeroEntropy.models.rerank": async (model) =>
      (
        await new ZeroEntropy({ ...quick, baseURL: `${url}/v1` }).models.rerank({
          model,
          query,
          documents,
          top_n: topN,
        })
      ).results,
  },
  openai: {
    "OpenAI.post": async (model) =>
      (
        await new OpenAI({ ...quick, baseURL: `${url}/v1` }).post("/rerank", {
          body: { model, query, documents, top_n: topN },
        })
      ).results,
  },
};

const versions = JSON.parse(readFileSync(new URL("package.json", import.meta.url))).dependencies;

async function ask(body) {
  const headers = { "content-type": "application/json" };
  const reply = await fetch(`${url}/v1/rerank`, { method: "POST", headers, body: JSON.stringify(body) });
  return (await reply.json()).results;
}

const expected = await ask({ query, documents, top_n: topN });

const checks = {
  ranks: async (call) => {
    const rows = await call(model);
    assert.deepEqual(
      rows.map((row) => row.index),
      expected.map((row) => row.index),
    );
    rows.forEach((row, place) => {
      const score = row.relevanceScore ?? row.relevance_score ?? row.score;
      assert.ok(Math.abs(score - expected[place].relevance_score) < 1e-4, `score ${score} of document ${row.index}`);
    });
  },
  "unknown model": async (call, client) => {
    const shown = (error) => `${error.message} ${error.detail ?? ""}`.includes("no-such-model");
    await assert.rejects(call("no-such-model"), (error) => shown(error) === !(client in losses));
  },
};
// Elasticsearch's inference id may be any text.
const anyModel = ["@elastic/elasticsearch"];
// Why a client does not show the message of any server.
const losses = {
  "@openrouter/sdk": "it requires a number in `error.code`",
  "@pinecone-database/pinecone": "it shows the status only",
  "voyage-ai-provider": "it reads `error`, which Voyage does not send",
};

let failures = 0;
async function report(client, version, name, run) {
  const result = await run().then(
    () => "ok",
    (error) => `FAILED ${error.message}`,
  );
  failures += result === "ok" ? 0 : 1;
  console.log(client.padEnd(38), version.padEnd(15), name.padEnd(42), result);
}

for (const [client, calls] of Object.entries(clients)) {
  for (const [name, call] of Object.entries(calls)) {
    for (const [description, check] of Object.entries(checks)) {
      if (description === "unknown model" && anyModel.includes(client)) continue;
      await report(client, versions[client], `${name}: ${description}`, () => check(call, client));
    }
  }
}

// The snippets of the page, with the address replaced: each prints the best document and its score first.
const page = readFileSync(process.argv[3], "utf8");
for (const [number, [, code]] of [...page.matchAll(/^```js\n(.*?)^```$/gms)].entries()) {
  await report("documentation", "", `javascript.md, snippet ${number + 1}`, async () => {
    const file = new URL(`snippet-${number}.mjs`, import.meta.url);
    writeFileSync(file, code.replaceAll("http://127.0.0.1:8080", url));
    const lines = [];
    const log = console.log;
    console.log = (...parts) => lines.push(parts);
    await import(file).finally(() => (console.log = log));
    const [index, score] = lines[0];
    const instruction = code.match(/encodeURIComponent\("(.*?)"\)/)?.[1];
    const [best] = await ask({
      query: code.match(/query: "(.*?)"/)[1],
      documents: JSON.parse(code.match(/\["Cats.*?\]/)[0]),
      instruction,
    });
    assert.equal(index, best.index);
    assert.ok(
      Math.abs(score - best.relevance_score) < 1e-4,
      `it printed ${score}, the server's score is ${best.relevance_score}`,
    );
  });
}
process.exit(failures ? 1 : 0);
