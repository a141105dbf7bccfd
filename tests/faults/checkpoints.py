"""Checkpoints that are broken on disk or while they are downloaded."""

import http.server
import json
import os
import shutil
import struct
import subprocess
import threading

from server import BODY, BUILT_IN, FIXTURES, Server, Skipped, assert_does_not_start

WEIGHTS = "model.safetensors"


def copy_model(source, folder):
    copy = folder / "model"
    shutil.copytree(source, copy)
    return copy


def read_safetensors(path):
    """The header of a safetensors file as JSON, and the data behind it."""
    content = path.read_bytes()
    (length,) = struct.unpack("<Q", content[:8])
    return json.loads(content[8 : 8 + length]), content[8 + length :]


def write_safetensors(path, header, data):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data)


def cut_in_half(path):
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])


def absurd_header_length(path):
    path.write_bytes(struct.pack("<Q", 1 << 62) + path.read_bytes()[8:])


def header_that_is_not_json(path):
    header, data = read_safetensors(path)
    write_safetensors(path, b"x" * len(json.dumps(header)), data)


def with_offsets(change):
    def damage(path):
        header, data = read_safetensors(path)
        names = sorted(
            (name for name in header if name != "__metadata__"), key=lambda name: header[name]["data_offsets"]
        )
        change([header[name]["data_offsets"] for name in names])
        write_safetensors(path, header, data)

    return damage


def overlap(offsets):
    offsets[1][0] -= 4
    offsets[1][1] -= 4


def out_of_range(offsets):
    offsets[-1][0] += 1 << 40
    offsets[-1][1] += 1 << 40


def not_a_number(path):
    header, data = read_safetensors(path)
    data = bytearray(data)
    name = next(name for name, tensor in header.items() if tensor.get("dtype") == "F32")
    start = header[name]["data_offsets"][0]
    data[start : start + 4] = struct.pack("<f", float("nan"))
    write_safetensors(path, header, bytes(data))


def broken(damage, *words, source=FIXTURES / "qwen3-mha-f32", file=WEIGHTS):
    def case(podium, folder):
        model = copy_model(source, folder)
        damage(model / file)
        return assert_does_not_start(podium, folder, "--model", model, words=[str(model / file), *words])

    return case


def removed_under_the_server(podium, folder):
    model = copy_model(BUILT_IN, folder)
    with Server(podium, folder, "--model", model).wait_until_listening() as server:
        before, _ = server.send(BODY)
        shutil.rmtree(model)
        after, _ = server.send(BODY)
    assert (before, after) == (200, 200), (before, after)
    return "200 before and after: the weights are in memory, the files are not read again"


class Hub(http.server.BaseHTTPRequestHandler):
    """The parts of the hub that a download needs, with the built-in model. A response longer than `breaks_at` bytes
    ends there."""

    breaks_at = None
    COMMIT = "0123456789abcdef0123456789abcdef01234567"

    def log_message(self, *_):
        pass

    def do_GET(self):
        if self.path.startswith("/api/models/"):
            siblings = [{"rfilename": path.name} for path in sorted(BUILT_IN.iterdir())]
            return self.respond(200, json.dumps({"sha": self.COMMIT, "siblings": siblings}).encode())
        path = BUILT_IN / self.path.rsplit("/", 1)[-1]
        if not path.is_file():
            return self.respond(404, b"no such file")
        content = path.read_bytes()
        given = self.headers.get("range")
        if not given:
            return self.respond(200, content, path.name)
        first, _, last = given.removeprefix("bytes=").partition("-")
        first, last = int(first), min(int(last or len(content) - 1), len(content) - 1)
        return self.respond(206, content[first : last + 1], path.name, f"bytes {first}-{last}/{len(content)}")

    def respond(self, status, content, etag=None, content_range=None):
        self.send_response(status)
        self.send_header("content-length", str(len(content)))
        self.send_header("accept-ranges", "bytes")
        self.send_header("x-repo-commit", self.COMMIT)
        if etag:
            self.send_header("etag", f'"{etag}"')
        if content_range:
            self.send_header("content-range", content_range)
        self.end_headers()
        if self.breaks_at and len(content) > self.breaks_at:
            content = content[: self.breaks_at]
            self.close_connection = True
        try:
            self.wfile.write(content)
        except ConnectionError:
            # The client has no room for more and closes the connection.
            self.close_connection = True


class HubServer:
    def __enter__(self):
        handler = type("Handler", (Hub,), {})
        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.handler = handler
        self.environment = {"HF_ENDPOINT": f"http://127.0.0.1:{self.server.server_port}", "NO_PROXY": "*"}
        return self

    def __exit__(self, *_):
        self.server.shutdown()
        self.server.server_close()


def full_disk(podium, folder):
    if os.geteuid() != 0:
        raise Skipped("a small disk needs root")
    small = folder / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], check=True)
    try:
        with HubServer() as hub:
            environment = {**hub.environment, "HF_HOME": str(small)}
            return assert_does_not_start(
                podium, folder, "--model", "owner/podium-nano", environment=environment,
                words=["owner/podium-nano", WEIGHTS, "No space left on device"],
            )
    finally:
        subprocess.run(["umount", small], check=True)


def download_that_breaks(podium, folder):
    with HubServer() as hub:
        environment = {**hub.environment, "HF_HOME": str(folder / "cache")}
        hub.handler.breaks_at = 4 << 20
        seen = assert_does_not_start(
            podium, folder, "--model", "owner/podium-nano", environment=environment,
            words=["owner/podium-nano", WEIGHTS],
        )
        hub.handler.breaks_at = None
        with Server(podium, folder, "--model", "owner/podium-nano", environment=environment).wait_until_listening() as server:
            status, _ = server.send(BODY)
    assert status == 200, status
    return f"{seen}; after a restart it downloads the rest and responds with 200"


def a_missing_shard(podium, folder):
    model = copy_model(FIXTURES / "qwen3-gqa2-sharded", folder)
    (model / SHARDED["file"]).unlink()
    words = [SHARDED["file"], "1 of them are missing", "the download is not complete"]
    return assert_does_not_start(podium, folder, "--model", model, words=words)


SHARDED = {"source": FIXTURES / "qwen3-gqa2-sharded", "file": "model-00002-of-00003.safetensors"}
CASES = [
    ("checkpoint: weights cut in half", broken(cut_in_half, "bytes")),
    ("checkpoint: a shard of the index is missing", a_missing_shard),
    ("checkpoint: a shard cut in half", broken(cut_in_half, "bytes", **SHARDED)),
    ("checkpoint: absurd header length", broken(absurd_header_length)),
    ("checkpoint: header is not JSON", broken(header_that_is_not_json)),
    ("checkpoint: tensors overlap", broken(with_offsets(overlap))),
    ("checkpoint: a tensor beyond the end", broken(with_offsets(out_of_range))),
    ("checkpoint: a weight is NaN", broken(not_a_number, "non-finite")),
    ("checkpoint: tokenizer cut in half", broken(cut_in_half, file="tokenizer.json")),
    ("checkpoint: config.json cut in half", broken(cut_in_half, file="config.json")),
    ("checkpoint: files removed under the server", removed_under_the_server),
    ("hub: the cache's disk is full", full_disk),
    ("hub: the download breaks", download_that_breaks),
]
