// A picture of the dashboard without Grafana: asks Prometheus what each panel asks, hands the answers to page.jsx, and lets
// Chromium draw it. README.md says how.

import { execFile } from "node:child_process";
import { readFileSync } from "node:fs";
import { createServer } from "node:http";
import { dirname, join } from "node:path";
import { fileURLToPath } from "node:url";
import { parseArgs, promisify } from "node:util";
import { build } from "esbuild";

const here = dirname(fileURLToPath(import.meta.url));
const { values: options } = parseArgs({
  options: {
    dashboard: { type: "string", default: join(here, "../../deploy/grafana/podium.json") },
    prometheus: { type: "string", default: "http://127.0.0.1:9090" },
    minutes: { type: "string", default: "20" },
    end: { type: "string" },
    "scrape-seconds": { type: "string", default: "5" },
    chromium: { type: "string", default: "chromium" },
    width: { type: "string", default: "1600" },
    out: { type: "string", default: "dashboard.png" },
  },
});
const seconds = Number(options.minutes) * 60;
const scrape = Number(options["scrape-seconds"]);
const width = Number(options.width);
const dashboard = JSON.parse(readFileSync(options.dashboard, "utf8"));

// Grafana's rule for the step of a panel that is so wide, and for the window of its rates.
const stepOf = (panel) => Math.ceil(Math.max(seconds / ((width * panel.gridPos.w) / 24), scrape) / scrape) * scrape;
const rateInterval = (step) => Math.max(step + scrape, 4 * scrape);

// Variables as they stand when the dashboard is opened: all jobs and servers, and the first choice of the rest.
function expression(text, step) {
  const builtIn = { __rate_interval: `${rateInterval(step)}s`, __range: `${seconds}s` };
  const chosen = dashboard.templating.list.map(({ name, allValue, current }) => [name, allValue ?? current.value]);
  const query = [...Object.entries(builtIn), ...chosen].reduce((query, [name, value]) => query.replaceAll(`$${name}`, value), text);
  if (query.includes("$")) throw new Error(`a variable without a value: ${query}`);
  return query;
}

async function ask(path, parameters) {
  const response = await fetch(`${options.prometheus}/api/v1/${path}?${new URLSearchParams(parameters)}`);
  const answer = await response.json();
  if (answer.status !== "success") throw new Error(`${parameters.query}: ${answer.error}`);
  return answer.data.result;
}

async function answers(panel, end) {
  const step = stepOf(panel);
  const last = Math.floor(end / step) * step;
  const first = last - Math.floor(seconds / step) * step;
  const one = async (target) => {
    const query = expression(target.expr, step);
    const result = target.instant
      ? await ask("query", { query, time: end })
      : await ask("query_range", { query, start: first, end: last, step });
    if (!result.length) console.warn(`nothing in "${panel.title}": ${query}`);
    return { ...target, result };
  };
  return { step, first, last, targets: await Promise.all((panel.targets ?? []).map(one)) };
}

const end = options.end ? Date.parse(options.end) / 1000 : Date.now() / 1000;
const panels = dashboard.panels.filter((panel) => panel.type !== "row");
const found = Object.fromEntries(await Promise.all(panels.map(async (panel) => [panel.id, await answers(panel, end)])));
const bundle = await build({
  entryPoints: [join(here, "page.jsx")],
  bundle: true,
  write: false,
  outdir: "unused",
  minify: true,
  format: "esm",
  jsx: "automatic",
  define: { "process.env.NODE_ENV": '"production"', global: "window" },
  loader: { ".woff2": "dataurl", ".woff": "empty" },
  logLevel: "error",
});
const [script, style] = [".js", ".css"].map((kind) => bundle.outputFiles.find((file) => file.path.endsWith(kind)).text);
const data = JSON.stringify({ dashboard, found, width, from: (end - seconds) * 1000, to: end * 1000 });
const page = `<!doctype html><meta charset="utf-8"><style>${style}</style><div id="page"></div>
<script>window.preview=${data.replaceAll("<", "\\u003c")};window.__grafana_public_path__="/"</script><script type="module" src="/page.js"></script>`;

// Icons are fetched one by one, so the page needs a server.
const icons = join(here, "node_modules/@grafana/ui/dist/public");
const server = createServer((request, response) => {
  if (request.url === "/") return response.setHeader("content-type", "text/html").end(page);
  if (request.url === "/page.js") return response.setHeader("content-type", "text/javascript").end(script);
  try {
    response.setHeader("content-type", "image/svg+xml").end(readFileSync(join(icons, new URL(request.url, "http://x").pathname)));
  } catch {
    response.writeHead(404).end();
  }
}).listen(0, "127.0.0.1");
await new Promise((ready) => server.once("listening", ready));
// Chromium has no sandbox for root; what it shows is this page alone.
const rows = Math.max(...dashboard.panels.map(({ gridPos }) => gridPos.y + gridPos.h));
await promisify(execFile)(options.chromium, [
  "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--virtual-time-budget=20000",
  `--window-size=${width},${rows * 38 + 64}`, `--screenshot=${options.out}`, `http://127.0.0.1:${server.address().port}/`,
]);
server.close();
console.log(`${options.out}: ${panels.length} panels, the ${options.minutes} minutes before ${new Date(end * 1000).toISOString()}`);
