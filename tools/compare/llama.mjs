// Runs llama.cpp through node-llama-cpp, whose package holds llama.cpp built for every kind of processor.
//
//   node llama.mjs score FILE THREADS            a cross-encoder: requests on standard input, one JSON a line
//   node llama.mjs prompt FILE THREADS LENGTHS   a decoder: times prompts of these lengths, e.g. 1024,4096
//
// The first line that `score` prints has the versions, each further line the scores and milliseconds of a request, as
// peer.py's do. `prompt` prints a JSON with the milliseconds of five runs of each length, after one to warm up.
// node-llama-cpp is found in the folder node_modules of the working directory.

import {createRequire} from "node:module";
import {readFileSync} from "node:fs";
import path from "node:path";
import readline from "node:readline";
import {pathToFileURL} from "node:url";

const [mode, file, threadsText, lengthsText] = process.argv.slice(2);
const threads = Number(threadsText);
const require = createRequire(path.join(process.cwd(), "package.json"));
const {getLlama, LlamaLogLevel} = await import(pathToFileURL(require.resolve("node-llama-cpp")));
const found = JSON.parse(readFileSync(path.join(process.cwd(), "node_modules/node-llama-cpp/package.json"), "utf8"));

const llama = await getLlama({gpu: false, build: "never", maxThreads: threads, logLevel: LlamaLogLevel.warn, progressLogs: false});
const versions = {"node-llama-cpp": found.version, "llama.cpp": llama.llamaCppRelease.release};
const model = await llama.loadModel({modelPath: file});
const print = (value) => process.stdout.write(JSON.stringify(value) + "\n");

async function score() {
    // The template of a BERT pair; without it a separator would stand twice.
    const template = "[CLS]{{query}}[SEP]{{document}}[SEP]";
    const context = await model.createRankingContext({contextSize: 512, batchSize: 512, threads, template});
    print({versions});
    for await (const line of readline.createInterface({input: process.stdin})) {
        const {query, documents} = JSON.parse(line);
        const started = performance.now();
        const probabilities = await context.rankAll(query, documents);
        const milliseconds = performance.now() - started;
        print({milliseconds, scores: probabilities.map((p) => Math.log(p / (1 - p)))});
    }
}

async function prompt() {
    const lengths = lengthsText.split(",").map(Number);
    const longest = Math.max(...lengths);
    const context = await model.createContext({contextSize: longest + 8, batchSize: longest, threads, sequences: 1});
    const sequence = context.getSequence();
    const times = {};
    for (const length of lengths) {
        times[length] = [];
        for (let run = 0; run <= 5; run++) {
            // Other tokens in each run, none of them a control token.
            const tokens = Array.from({length}, (_, index) => 1000 + ((index * 7919 + run * 104729) % 20000));
            await sequence.clearHistory();
            const started = performance.now();
            await sequence.evaluateWithoutGeneratingNewTokens(tokens);
            if (run > 0)
                times[length].push(performance.now() - started);
        }
    }
    print({versions, system: llama.systemInfo, milliseconds: times});
}

await {score, prompt}[mode]();
process.exit(0);
