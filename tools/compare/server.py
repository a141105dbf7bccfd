"""A Podium server process, and helpers that all comparisons share. Standard library only."""

import argparse
import http.client
import json
import os
import random
import re
import statistics
import subprocess
import sys
import threading
import time

WORDS = """the of and to in is that for it was on are as with they at be this from have or by one had not but what all were
when we there can an your which their said if do will each about how up out them then she many some so these would other
into has more her two like him see time could no make than first been its who now people my made over did down only way
find use may water long little very after words called just where most know market winter letter doctor station bridge
island village law price tax court contract evidence theory measure signal pressure energy surface metal carbon""".split()

# Podium's flags for each type.
PODIUM_FLAGS = {"f32": ["--dtype", "f32"], "bf16": ["--dtype", "bf16"], "int8": ["--quantize", "int8"]}


class Podium:
    """A server process on a free port, with one type of weights."""

    def __init__(self, arguments: argparse.Namespace, dtype: str):
        flags = [*model_flags(arguments), *PODIUM_FLAGS[dtype]]
        command = [arguments.podium, "serve", "--listen", "127.0.0.1:0", "--device", "cpu", *flags]
        # The same request repeats, so the prefix cache would skip work.
        environment = {
            **os.environ,
            "RAYON_NUM_THREADS": str(arguments.threads),
            "PODIUM__MODEL__PREFIX_CACHE_BYTES": "0",
        }
        self.process = subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)
        for line in self.process.stderr:
            if found := re.search(r"listening on http://([\d.]+):(\d+)", re.sub(r"\x1b\[[\d;]*m", "", line)):
                break
        else:
            sys.exit("the server exited before it listened")
        # Keep reading the log, because the server would block on a full pipe.
        threading.Thread(target=self.process.stderr.read, daemon=True).start()
        self.address = (found[1], int(found[2]))

    def rerank(self, body: dict) -> dict:
        # A new connection for each request: the server may close an idle one while transformers
        # runs.
        connection = http.client.HTTPConnection(*self.address)
        connection.request("POST", "/v1/rerank", json.dumps(body), {"content-type": "application/json"})
        response = connection.getresponse()
        reply = json.loads(response.read())
        connection.close()
        if response.status != 200:
            sys.exit(f"podium replied {response.status}: {reply}")
        return reply

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def model_flags(arguments: argparse.Namespace) -> list[str]:
    return ["--model", str(arguments.model), "--family", arguments.family]


def generate_words(draw: random.Random, count: int) -> str:
    """Generates a text of this number of common words; most tokenizers have one token for each."""
    return " ".join(draw.choices(WORDS, weights=[1 / rank for rank in range(1, len(WORDS) + 1)], k=count))


def time_ms(work) -> float:
    started = time.perf_counter()
    work()
    return (time.perf_counter() - started) * 1e3


def format_spread(values: list[float]) -> str:
    return f"{statistics.median(values):10.1f} {min(values):10.1f} {max(values):10.1f}"
