"""A proxy on real sockets, which connects its clients to others (CONNECT), and tells to whom."""

import base64
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from typing import Self


class ProxyServer:
    """A forward proxy; a context manager.

    *places*: where the hosts of this world really are, by name. *login*: the ``user:password`` that
    it wants. *refusing*: the HTTP status that it answers everybody. *silent*: it takes requests and
    answers nothing. *asked* are the targets of the CONNECTs, *seen* all that came before the
    tunnels.
    """

    def __init__(
        self,
        places: Mapping[str, int] | None = None,
        *,
        login: str = "",
        refusing: int = 0,
        silent: bool = False,
        family: socket.AddressFamily = socket.AF_INET,
    ) -> None:
        self._places = dict(places or {})
        self._login = login
        self._refusing = refusing
        self._silent = silent
        self._listener = socket.socket(family)
        self._listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        self._listener.listen()
        self._open: list[socket.socket] = []
        self.port = int(self._listener.getsockname()[1])
        self.asked: list[str] = []
        self.seen = b""

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        for sock in (self._listener, *self._open):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            self._open.append(client)
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with suppress(OSError):
            head = b""
            while b"\r\n\r\n" not in head:
                more = client.recv(65536)
                if not more:
                    return
                head += more
            self.seen += head
            lines = head.decode("latin-1").split("\r\n")
            method, target, _ = lines[0].split(" ")
            headers = {
                name.lower(): value
                for name, _, value in (line.partition(": ") for line in lines[1:])
            }
            self.asked.append(f"{method} {target}" if method != "CONNECT" else target)
            if self._silent:
                return
            wanted = f"Basic {base64.b64encode(self._login.encode()).decode()}"
            if self._login and headers.get("proxy-authorization") != wanted:
                client.sendall(
                    b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n"
                )
            elif self._refusing or method != "CONNECT":
                client.sendall(
                    b"HTTP/1.1 %d Refused\r\nContent-Length: 0\r\n\r\n" % (self._refusing or 405)
                )
            else:
                self._connect(client, target)
                return
            client.close()

    def _connect(self, client: socket.socket, target: str) -> None:
        host, _, port = target.rpartition(":")
        there = socket.create_connection(("127.0.0.1", self._places.get(host, int(port))))
        self._open.append(there)
        client.sendall(b"HTTP/1.1 200 Connection established\r\nProxy-Agent: test\r\n\r\n")
        threading.Thread(target=_pass_on, args=(there, client), daemon=True).start()
        _pass_on(client, there)


def _pass_on(one: socket.socket, other: socket.socket) -> None:
    with suppress(OSError):
        while data := one.recv(65536):
            other.sendall(data)
    with suppress(OSError):
        other.shutdown(socket.SHUT_WR)
