"""A small HTTP/1.1 client on asyncio that can send malformed requests."""

import asyncio
from dataclasses import dataclass, field


@dataclass
class Response:
    """A response with its whole body."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def request_bytes(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """A request with its default headers. `headers` replaces them by name; None omits a header."""
    defaults = {"host": "podium", "content-type": "application/json", "content-length": str(len(body))}
    defaults.update(headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in defaults.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1", "replace") + body


class Connection:
    """A connection that opens when it is needed, and again after it was closed."""

    def __init__(self, address: str):
        host, port = address.rsplit(":", 1)
        self.host, self.port = host, int(port)
        self.reader = self.writer = None

    async def open(self) -> None:
        if self.writer is None:
            self.reader, self.writer = await asyncio.open_connection(self.host, self.port)

    def close(self) -> None:
        if self.writer is not None:
            self.writer.close()
            self.reader = self.writer = None

    async def send(self, data: bytes, half_close: bool = False) -> Response | None:
        """Sends bytes and reads one response; None if the connection closes without one."""
        reused = self.writer is not None
        try:
            await self.open()
            self.writer.write(data)
            await self.writer.drain()
            if half_close:
                self.writer.write_eof()
            response = await self.read_response(head_only=data.startswith(b"HEAD "))
        except OSError:
            response = None
        if response is None or half_close or response.headers.get("connection") == "close":
            self.close()
        if response is None and reused:
            # The server may close an idle connection at any time, so a new connection tries once more.
            return await self.send(data, half_close)
        return response

    async def read_response(self, head_only: bool) -> Response | None:
        try:
            head = await self.reader.readuntil(b"\r\n\r\n")
            lines = head.decode("latin-1").split("\r\n")
            pairs = (line.split(":", 1) for line in lines[1:] if ":" in line)
            response = Response(int(lines[0].split()[1]), {name.lower(): value.strip() for name, value in pairs})
            if head_only:
                return response
            if "chunked" in response.headers.get("transfer-encoding", ""):
                while size := int(await self.reader.readline(), 16):
                    response.body += (await self.reader.readexactly(size + 2))[:-2]
                await self.reader.readline()
            else:
                response.body = await self.reader.readexactly(int(response.headers.get("content-length", 0)))
            return response
        except (asyncio.IncompleteReadError, ConnectionError, ValueError, IndexError):
            return None
