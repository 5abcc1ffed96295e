"""A server that answers as it is told to, byte by byte: what the client meets on a bad day, on a
real socket."""

import contextlib
import json
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self, TypeAlias


@dataclass(frozen=True, slots=True)
class Seen:
    """A request as it arrived. *headers* are keyed in lower case; *connection* counts connections
    from 1."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes
    connection: int


Answer: TypeAlias = Callable[[socket.socket, Seen], bool]
"""Sends what it likes; True keeps the connection for the next request."""


def http(
    status: int, body: bytes | str = b"", content_type: str = "application/json", **headers: str
) -> bytes:
    """A whole answer; underscores in the names of *headers* are hyphens."""
    body = body.encode() if isinstance(body, str) else body
    lines = [
        f"HTTP/1.1 {status} Whatever",
        f"Content-Type: {content_type}",
        f"Content-Length: {len(body)}",
    ]
    lines += [f"{name.replace('_', '-')}: {value}" for name, value in headers.items()]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


def result(value: object, status: int = 200, **headers: str) -> bytes:
    return http(status, json.dumps({"result": value}), "application/json;charset=UTF-8", **headers)


def always(answer: bytes) -> Answer:
    def send(sock: socket.socket, seen: Seen) -> bool:
        sock.sendall(answer)
        return True

    return send


def reset(sock: socket.socket) -> None:
    """Close so that the other side meets a reset, not an end."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


class Server:
    """Answers every request with *answer*; what arrived is in *seen*, the most at any one time in
    *in_flight_max*."""

    def __init__(self, answer: Answer, tls: ssl.SSLContext | None = None) -> None:
        self.answer = answer
        self.seen: list[Seen] = []
        self.in_flight_max = 0
        self.stopping = threading.Event()
        self._tls = tls
        self._lock = threading.Lock()
        self._in_flight = 0
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self._listener.settimeout(0.05)

    @property
    def url(self) -> str:
        scheme = "http" if self._tls is None else "https"
        return f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        self._start(self._accept)
        return self

    def __exit__(self, *_: object) -> None:
        self.stopping.set()
        for connection in self._connections:
            with contextlib.suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        self._listener.close()

    def _start(self, work: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=work, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while not self.stopping.is_set():
            with contextlib.suppress(TimeoutError):
                sock, _ = self._listener.accept()
                sock.settimeout(10)
                self._connections.append(sock)
                self._start(self._serve, sock, len(self._connections))

    def _serve(self, sock: socket.socket, connection: int) -> None:
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.enter_context(sock)
            if self._tls is not None:
                sock = stack.enter_context(self._tls.wrap_socket(sock, server_side=True))
            while (seen := self._read(sock, connection)) is not None:
                with self._lock:
                    self.seen.append(seen)
                    self._in_flight += 1
                    self.in_flight_max = max(self.in_flight_max, self._in_flight)
                try:
                    keep = self.answer(sock, seen)
                finally:
                    with self._lock:
                        self._in_flight -= 1
                if not keep:
                    return

    @staticmethod
    def _read(sock: socket.socket, connection: int) -> Seen | None:
        received = b""
        while b"\r\n\r\n" not in received:
            chunk = sock.recv(65536)
            if not chunk:
                return None
            received += chunk
        head, body = received.split(b"\r\n\r\n", 1)
        first, *lines = head.decode("latin-1").split("\r\n")
        headers = {name.lower(): value for name, value in (line.split(": ", 1) for line in lines)}
        while len(body) < int(headers.get("content-length", "0")):
            body += sock.recv(65536)
        method, target, _ = first.split(" ")
        return Seen(method, target, headers, body, connection)


def drip(sock: socket.socket, answer: bytes, server: Server) -> None:
    """Send *answer* a byte at a time, never long enough apart for one wait to time out, until the
    other side leaves."""
    for byte in answer:
        if server.stopping.is_set():
            return
        sock.sendall(bytes([byte]))
        time.sleep(0.05)


# Where a cloud tells its machines their secrets, and what else is link-local, in the spellings that
# resolvers read.
LINK_LOCAL = [
    "169.254.169.254", "169.254.0.1", "169.254.170.2", "2852039166", "0xa9fea9fe",
    "0xA9.0xFE.0xA9.0xFE",
    "0251.0376.0251.0376", "169.254.43518", "169.16689662", "[fe80::1]", "[febf::1]",
    "[::ffff:169.254.169.254]", "[::ffff:a9fe:a9fe]", "[0:0:0:0:0:ffff:169.254.169.254]",
    "[::169.254.169.254]",
    "[64:ff9b::169.254.169.254]", "[64:ff9b::a9fe:a9fe]", "[64:ff9b:1:a9fe:a9:fe00::]",
    "[64:ff9b:1:a9:fe:a9fe::]", "[64:ff9b:1::a9:fea9:fe00:0]", "[64:ff9b:1::a9fe:a9fe]",
    "[2002:a9fe:a9fe::1]", "[fd00:ec2::254]",
    "[fd20:ce::254]",
    "100.100.100.200", "168.63.129.16", "192.0.0.192",
]  # fmt: skip
