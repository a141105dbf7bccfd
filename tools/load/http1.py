"""A small HTTP/1.1 client on asyncio, for requests that a good client would never send."""

import asyncio
from dataclasses import dataclass, field


@dataclass
class Response:
    """What came back."""

    status: int
    headers: dict[str, str] = field(default_factory=dict)
    body: bytes = b""


def request_bytes(method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None) -> bytes:
    """A whole request. A header of the same name replaces the usual one; None leaves it out."""
    usual = {"host": "podium", "content-type": "application/json", "content-length": str(len(body))}
    usual.update(headers or {})
    head = "".join(f"{name}: {value}\r\n" for name, value in usual.items() if value is not None)
    return f"{method} {path} HTTP/1.1\r\n{head}\r\n".encode("latin-1", "replace") + body


class Connection:
    """One connection, opened when it is needed and again after it has closed."""

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

    async def ask(self, data: bytes, half_close: bool = False) -> Response | None:
        """Sends these bytes and reads one answer; None where the connection closed without one."""
        reused = self.writer is not None
        try:
            await self.open()
            self.writer.write(data)
            await self.writer.drain()
            if half_close:
                self.writer.write_eof()
            response = await self._read(head_only=data.startswith(b"HEAD "))
        except OSError:
            response = None
        if response is None or half_close or response.headers.get("connection") == "close":
            self.close()
        if response is None and reused:
            # The server may close an idle connection at any time; a new one tells that from a refusal.
            return await self.ask(data, half_close)
        return response

    async def _read(self, head_only: bool) -> Response | None:
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
