"""A receiver of posts: what a rule calls. It keeps what it got, and answers as it is told to."""

import json
import socket
import ssl
from dataclasses import dataclass, field
from typing import Any

from tests.answers import Answer, Seen, Server, http

TAKEN = http(204)


@dataclass
class Receiver:
    """One target. *answer* is what it says, bytes or a function; where it is None the connection is
    cut."""

    answer: bytes | Answer | None = TAKEN
    tls: ssl.SSLContext | None = None
    server: Server = field(init=False)

    def __post_init__(self) -> None:
        self.server = Server(self._answer, self.tls)

    def __enter__(self) -> "Receiver":
        self.server.__enter__()
        return self

    def __exit__(self, *raised: object) -> None:
        self.server.__exit__(*raised)

    @property
    def url(self) -> str:
        return f"{self.server.url}/hooks"

    @property
    def got(self) -> list[Seen]:
        return self.server.seen

    @property
    def bodies(self) -> list[Any]:
        return [json.loads(seen.body) for seen in self.got]

    @property
    def ids(self) -> list[str]:
        return [seen.headers["webhook-id"] for seen in self.got]

    def _answer(self, sock: socket.socket, seen: Seen) -> bool:
        if self.answer is None:
            return False
        if callable(self.answer):
            return self.answer(sock, seen)
        sock.sendall(self.answer)
        return True
