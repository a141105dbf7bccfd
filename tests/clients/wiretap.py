"""A TCP relay in front of a server: forwards bytes unchanged in both directions and records them.

The table of results has the path that a client called; a failed case has its requests and replies.
"""

import gzip
import json
import socket
import threading
from dataclasses import dataclass, field


@dataclass
class Exchange:
    """One request and its reply."""

    method: str
    path: str
    headers: dict
    sent: bytes
    status: int = 0
    received: bytes = b""

    def reply(self):
        """The reply's JSON; None if it is not JSON."""
        try:
            return json.loads(self.received)
        except ValueError:
            return None

    def __str__(self):
        sent, received = (part.decode("utf-8", "replace") for part in (self.sent, self.received))
        return f"{self.method} {self.path} {sent[:1500]}\n      -> {self.status} {received[:1500]}"


@dataclass
class Connection:
    """The bytes of one connection, by direction."""

    sent: bytearray = field(default_factory=bytearray)
    received: bytearray = field(default_factory=bytearray)
    forgotten: int = 0

    def exchanges(self):
        replies = messages(bytes(self.received))
        found = []
        for position, (start, headers, body) in enumerate(messages(bytes(self.sent))):
            method, path, _ = start.split(" ", 2)
            exchange = Exchange(method, path, headers, body)
            if position < len(replies):
                exchange.status = int(replies[position][0].split(" ")[1])
                exchange.received = decompressed(*replies[position][1:])
            found.append(exchange)
        return found


def decompressed(headers, body):
    """The body of a reply, as a client reads it."""
    match headers.get("content-encoding"):
        case "gzip" if body:
            return gzip.decompress(body)
        case "zstd" if body:
            # A client that accepts zstd has this package.
            import zstandard

            return zstandard.ZstdDecompressor().decompressobj().decompress(body)
    return body


class Wiretap:
    """Listens on a free port of 127.0.0.1 and relays to `port`."""

    def __init__(self, port):
        self.target = port
        self.connections = []
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self._accept, daemon=True).start()

    def forget(self):
        """Discards the exchanges so far."""
        for connection in self.connections:
            connection.forgotten = len(connection.exchanges())

    def exchanges(self):
        """The exchanges since the last `forget`, by connection."""
        return [each for connection in self.connections for each in connection.exchanges()[connection.forgotten :]]

    def _accept(self):
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.target))
            connection = Connection()
            self.connections.append(connection)
            for source, sink, kept in ((client, server, connection.sent), (server, client, connection.received)):
                threading.Thread(target=relay, args=(source, sink, kept), daemon=True).start()


def relay(source, sink, kept):
    """Forwards and records bytes until one side closes the connection."""
    try:
        while data := source.recv(65536):
            kept.extend(data)
            sink.sendall(data)
    except OSError:
        pass
    try:
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass


def messages(data):
    """Parses the HTTP/1.1 messages in `data`: start line, headers (lower-case names) and body."""
    found = []
    while b"\r\n\r\n" in data:
        head, data = data.split(b"\r\n\r\n", 1)
        start, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value.strip() for name, value in (line.split(":", 1) for line in lines)}
        if headers.get("transfer-encoding", "").lower() == "chunked":
            body, data = dechunk(data)
        else:
            length = int(headers.get("content-length", 0))
            body, data = data[:length], data[length:]
        found.append((start, headers, body))
    return found


def dechunk(data):
    """Decodes the chunked body at the start of `data`. Returns it and the remaining bytes."""
    body = b""
    while b"\r\n" in data:
        size, data = data.split(b"\r\n", 1)
        length = int(size.split(b";")[0] or b"0", 16)
        body, data = body + data[:length], data[length + 2 :]
        if length == 0:
            break
    return body, data
