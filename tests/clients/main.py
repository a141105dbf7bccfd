"""Starts the servers, runs every group of cases in its environment, and prints a table of results.

There are two servers: one without keys, which accepts the model names that clients require, and one with
keys, one of which is limited to a request per minute.
"""

import concurrent.futures
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

from checks import GOOD_KEY, SLOW_KEY
from environments import prepare

HERE = pathlib.Path(__file__).parent

# Groups of cases and the environment that each runs in; None is the Python that runs this file.
GROUPS = [
    ("litellm_sdk", "litellm"),
    ("llama_index_postprocessors", "frameworks"),
    ("langchain_compressors", "frameworks"),
    ("haystack_rankers", "frameworks"),
    ("infinity_sdk", "older"),
    ("cohere_sdk", "sdks"),
    ("cohere_sdk", "older"),
    ("voyage_sdk", "sdks"),
    ("voyage_sdk", "older"),
    ("stainless_sdks", "sdks"),
    ("pinecone_sdk", "sdks"),
    ("rerankers_lib", "sdks"),
    ("xinference_sdk", "sdks"),
    ("cloud_sdks", "clouds"),
    ("agents", "integrations"),
    ("vector_databases", "integrations"),
    ("products", None),
    ("databases", None),
    ("routes", None),
    ("pages", "litellm"),
    ("pages", "frameworks"),
    ("pages", "older"),
    ("pages", "sdks"),
    ("pages", "clouds"),
    ("pages", "integrations"),
]

# Model names that clients send: defaults of their vendors, or names that they require.
SERVED_NAMES = [
    "podium-mini",
    "rerank-v4.0-pro",
    "jina-reranker-v3",
    "rerank-2.5",
    "mixedbread-ai/mxbai-rerank-large-v2",
    "zerank-2",
    "Salesforce/Llama-Rank-v1",
    "ctxl-rerank-v2-instruct-multilingual",
    "nvidia/llama-nemotron-rerank-1b-v2",
    "bge-reranker-v2-m3",
    "BAAI/bge-reranker-v2-m3",
    "BAAI/bge-reranker-base",
]

GROUP_SECONDS = 300


class Server:
    """A podium process on a free port."""

    def __init__(self, folder, name, flags):
        with socket.create_server(("127.0.0.1", 0)) as free:
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self.log = folder / f"{name}.log"
        command = [os.environ["PODIUM_BIN"], "serve", "--listen", f"127.0.0.1:{port}", "--offline", *flags]
        print("server:", " ".join(command), file=sys.stderr)
        # Without variables that change settings.
        bare = {name: value for name, value in os.environ.items() if not name.startswith("PODIUM")}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=bare, stdin=subprocess.DEVNULL, stdout=log, stderr=log)

    def wait(self, seconds=60):
        """Waits until /ready replies 200."""
        until = time.monotonic() + seconds
        while time.monotonic() < until and self.process.poll() is None:
            try:
                with urllib.request.urlopen(self.url + "/ready", timeout=5):
                    return
            except OSError:
                time.sleep(0.05)
        self.stop()
        raise RuntimeError(f"the server did not become ready:\n{self.log.read_text()}")

    def stop(self):
        """Stops the process: SIGTERM, then SIGKILL after 10 s."""
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def start(folder, name, flags):
    """Starts a server and waits until it is ready. Returns None if it does not start."""
    try:
        server = Server(folder, name, flags)
        server.wait()
        return server
    except RuntimeError as error:
        print(f"{name}: {error}", file=sys.stderr)
        return None


def keyed_flags(folder):
    """Writes a file of API keys. Returns the flags of the server with keys."""
    keys = folder / "keys"
    keys.write_text(f"{GOOD_KEY} name=good\n{SLOW_KEY} name=slow requests_per_minute=1\n")
    keys.chmod(0o600)
    return ["--api-keys-file", str(keys)]


def environment_for(urls):
    """The environment variables of a group, without proxies, telemetry and credentials."""
    kept = {
        name: os.environ[name]
        for name in os.environ
        if name in ("PATH", "HOME", "LANG", "PYTHONPYCACHEPREFIX", "TMPDIR") or name.startswith("PODIUM_")
    }
    quiet = {
        "NO_PROXY": "*",
        "HF_HUB_OFFLINE": "1",
        "HAYSTACK_TELEMETRY_ENABLED": "False",
        "LITELLM_LOCAL_MODEL_COST_MAP": "True",
        "ANONYMIZED_TELEMETRY": "False",
        "DO_NOT_TRACK": "1",
        "TOGETHER_DISABLE_TELEMETRY": "1",
    }
    return {**kept, **quiet, **urls}


def run_group(group, pythons, urls):
    """Runs one group. Returns the rows of its cases, and one more if the group itself failed."""
    module, name = group
    command = [pythons[name] if name else sys.executable, "-W", "ignore", str(HERE / "harness.py"), module]
    urls = {**urls, "PODIUM_CLIENTS_ENVIRONMENT": name or ""}
    try:
        done = subprocess.run(command, env=environment_for(urls), capture_output=True, text=True, timeout=GROUP_SECONDS)
        output, problem = done.stdout, done.stderr[-2000:] if done.returncode else ""
    except subprocess.TimeoutExpired as late:
        output = (late.stdout or b"").decode()
        problem = f"the group took more than {GROUP_SECONDS} s"
    rows = [json.loads(line) for line in output.splitlines() if line.startswith("{")]
    if problem or not rows:
        rows.append(
            {
                "client": module,
                "version": "",
                "call": "(the group)",
                "path": "",
                "result": "FAILED",
                "note": problem or "no cases",
            }
        )
    return rows


def print_table(rows):
    """Prints client, version, call, path and result of every case, then the failures in full."""
    columns = ("client", "version", "call", "path", "result")
    widths = [max(len(each) for each in [column] + [row[column] for row in rows]) for column in columns]
    for row in [dict(zip(columns, columns))] + rows:
        print("  ".join(row[column].ljust(width) for column, width in zip(columns, widths)).rstrip())
    failures = [row for row in rows if row["result"] != "ok"]
    for row in failures:
        print(f"\nFAILED {row['client']} {row['version']}: {row['call']}\n    {row['note']}")
        for exchange in row.get("exchanges", []):
            print(f"    {exchange}")
    noted = [row for row in rows if row["result"] == "ok" and row["note"].startswith("client ")]
    if noted:
        print("\nErrors whose message a client does not show, whatever the server sends:")
        for row in noted:
            print(f"  {row['client']} {row['call']}: {row['note']}")
    print(f"\n{len(rows) - len(failures)} of {len(rows)} cases passed")
    return failures


def main(wanted):
    groups = [group for group in GROUPS if not wanted or any(each in group[0] for each in wanted)]
    if not groups:
        print("no group has a name that contains:", *wanted, file=sys.stderr)
        return 2
    pythons = prepare({name for _, name in groups if name})
    # All further requests go to this machine.
    os.environ["NO_PROXY"] = "*"
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="podium-clients-") as name:
        folder = pathlib.Path(name)
        servers = []
        try:
            flags = [flag for each in SERVED_NAMES for flag in ("--served-model-name", each)]
            plain = start(folder, "open", flags)
            if plain is None:
                return 2
            servers.append(plain)
            urls = {"PODIUM_URL": plain.url}
            if keyed := start(folder, "keyed", keyed_flags(folder)):
                servers.append(keyed)
                urls["PODIUM_KEYED_URL"] = keyed.url
            with concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 2) as pool:
                rows = [
                    row for group in pool.map(lambda group: run_group(group, pythons, urls), groups) for row in group
                ]
        finally:
            for server in servers:
                server.stop()
    rows.sort(key=lambda row: (row["client"], row["version"]))
    failures = print_table(rows)
    print(f"in {time.monotonic() - began:.0f} s")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
