"""A receiver that is several downstream systems: it keeps what each of them got, answers as it is
told to, and shows both on a page.

A system has the path ``/hooks/NAME`` (whatever follows it), and a port of its own where one is
opened. What fails, fails by a fault that was armed for it (receiver_faults.py).
What was read is kept, whatever was answered: of a reset or a hang nobody can say whether it counts.
"""

import argparse
import base64
import json
import os
import re
import signal
import socket
import struct
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, suppress
from http.server import BaseHTTPRequestHandler
from typing import Final, Self

from sandbox.loopback import Loopback
from sandbox.receiver_faults import (
    SECONDS_DEFAULT,
    STATUS_DEFAULT,
    ReceivedRequest,
    ReceiverFault,
)
from sandbox.receiver_pages import ReceiverPages
from sandbox.rest import Answer, Request

# Those of `make run`, and of examples/dispatcher.yaml.
SYSTEMS: Final = ("a", "b", "c", "d")
# More than any payload of a rule, less than what could hurt the machine.
BODY_BYTES_MAX: Final = 8 * 1024 * 1024
# Of each system; what is older is counted, and no more shown.
RECEIVED_MAX: Final = 5000
_LARGE_BYTES: Final = 1024 * 1024
_IDLE_SECONDS: Final = 60.0
_HOOK: Final = re.compile(r"/hooks/([a-z0-9_-]{1,32})(?:/.*)?", re.ASCII)
_NAME: Final = re.compile(r"[a-z0-9_-]{1,32}", re.ASCII)
_TAKEN: Final = b'{"received": true}\n'


class DownstreamSystem:
    """One of the systems: what it got, and the faults that are armed for it."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.total = 0
        self.taken = 0
        # How often a message came, by its webhook-id.
        self.counts: Counter[str] = Counter()
        self._received: deque[ReceivedRequest] = deque(maxlen=RECEIVED_MAX)
        self._armed: list[ReceiverFault] = []
        self._required: tuple[str, str] | None = None
        self._changed = threading.Condition()
        # Set once a fault that makes others wait is switched off.
        self._released = threading.Event()
        self._listener: _Server | None = None
        self._port = 0

    @property
    def received(self) -> list[ReceivedRequest]:
        """What arrived, the newest last."""
        with self._changed:
            return list(self._received)

    @property
    def armed(self) -> list[ReceiverFault]:
        with self._changed:
            return list(self._armed)

    @property
    def is_down(self) -> bool:
        with self._changed:
            return any(fault.kind == "down" for fault in self._armed)

    def arm(
        self,
        kind: str,
        *,
        times: int | None = 1,
        status: int = STATUS_DEFAULT,
        retry_after: str = "",
        seconds: float = SECONDS_DEFAULT,
        location: str = "",
    ) -> None:
        """Have the next *times* requests meet the fault, after those that were armed before. A
        system that is ``down`` is so until it is switched on. Raises ValueError."""
        if kind == "down":
            times = None
        fault = ReceiverFault(kind, times, status, retry_after, seconds, location)
        self.add_fault(fault)

    def add_fault(self, fault: ReceiverFault) -> None:
        with self._changed:
            self._armed.append(fault)
            if fault.kind == "down":
                self._released.set()  # those that were let in are hung up on
        self._open_or_close()

    def disarm(self, kind: str | None = None) -> None:
        """Switch every fault off, or those of that *kind*. Who hangs is hung up on."""
        with self._changed:
            self._armed = [fault for fault in self._armed if kind not in {None, fault.kind}]
            released, self._released = self._released, threading.Event()
        released.set()
        self._open_or_close()

    def require_header(self, name: str, value: str) -> None:
        """Answer 401 to whatever does not carry this header, such as a token; an empty *name* takes
        that back."""
        with self._changed:
            self._required = (name, value) if name else None

    def forget(self) -> None:
        """Forget what arrived; what is armed stays."""
        with self._changed:
            self._received.clear()
            self.counts.clear()
            self.total = self.taken = 0

    def wait(self, count: int, timeout_seconds: float) -> list[ReceivedRequest]:
        """What arrived, as soon as that was *count* requests, or *timeout_seconds* have passed."""
        with self._changed:
            self._changed.wait_for(lambda: self.total >= count, timeout_seconds)
            return list(self._received)

    def open_port(self) -> str:
        """The URL of a port of its own, where nobody listens while it is down. Raises OSError."""
        if not self._port:
            listener = _Server(f"the sandbox's system {self.name}", 0, self.answer_at)
            self._port = listener.port
            self._listener = listener
            listener.start()
            self._open_or_close()
        return f"http://127.0.0.1:{self._port}"

    def close(self) -> None:
        with self._changed:
            released = self._released
        released.set()
        if self._listener is not None:
            self._listener.stop()
            self._listener = None

    def _open_or_close(self) -> None:
        """Have somebody listen at the port of its own, or nobody."""
        if self.is_down and self._listener is not None:
            self._listener.stop()
            self._listener = None
        elif self._port and not self.is_down and self._listener is None:
            self._listener = _Server(
                f"the sandbox's system {self.name}", self._port, self.answer_at
            )
            self._listener.start()

    def answer_at(self, handler: "_Handler") -> None:
        """Take the request that *handler* holds, and answer it."""
        if self.is_down:
            handler.reset()
            return
        body = handler.read_body()
        if body is None:
            return
        fault, released = self._meet_fault()
        status = self._status_of(fault, handler)
        self._keep(handler, body, status, fault)
        kind = fault.kind if fault is not None else ""
        if fault is None or kind in {"status", "large"} or status == 401:
            headers = [("Retry-After", fault.retry_after)] if fault and fault.retry_after else []
            large = b"x" * _LARGE_BYTES if kind == "large" and status == 200 else None
            handler.send(status, large or (_TAKEN if status < 300 else b""), headers)
        elif kind == "redirect":
            handler.send(status, b"", [("Location", fault.location)])
        elif kind == "slow":
            handler.send_slowly(status, _TAKEN, fault.seconds, released)
        elif kind == "hang":
            released.wait(fault.seconds)
            handler.hang_up()
        else:
            handler.reset()

    def _meet_fault(self) -> tuple[ReceiverFault | None, threading.Event]:
        """The fault that the next request meets, which is used up if it had a number; and what ends
        its waiting."""
        with self._changed:
            fault = next((one for one in self._armed if one.kind != "down"), None)
            if fault is not None and fault.times is not None:
                fault.times -= 1
                if fault.times < 1:
                    self._armed.remove(fault)
            return fault, self._released

    def _status_of(self, fault: ReceiverFault | None, handler: "_Handler") -> int:
        """What is answered; 0 for nothing."""
        with self._changed:
            required = self._required
        if fault is not None and fault.kind in {"reset", "hang"}:
            return 0
        if fault is not None and fault.kind in {"status", "redirect"}:
            return fault.status if fault.kind == "status" else 307
        if required is not None and handler.headers.get(required[0]) != required[1]:
            return 401
        return 200

    def _keep(
        self, handler: "_Handler", body: bytes, status: int, fault: ReceiverFault | None
    ) -> None:
        with self._changed:
            self.total += 1
            request = ReceivedRequest(
                self.total,
                self.name,
                handler.command,
                handler.path,
                tuple(handler.headers.items()),
                body,
                time.time(),
                status,
                fault.described if fault is not None else "",
            )
            self._received.append(request)
            self.taken += request.is_taken
            if request.webhook_id:
                self.counts[request.webhook_id] += 1
            self._changed.notify_all()


class Receiver:
    """Several downstream systems, and the page that shows them; from enter to exit.

    *port* 0 takes a free one; entering raises OSError with a sentence where the port is taken.
    """

    def __init__(self, systems: Sequence[str] = ("a", "b"), *, port: int = 0) -> None:
        """*systems* are their names, of a-z, 0-9, - and _."""
        for name in systems:
            if not _NAME.fullmatch(name):
                raise ValueError(f"{name!r} is no name of a system: a-z, 0-9, - and _")
        self.systems = {name: DownstreamSystem(name) for name in systems}
        self._port = port
        self._pages = ReceiverPages(self)

    def __enter__(self) -> Self:
        self._server = _Server("the sandbox's receiver", self._port, self._answer_at)
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        with ExitStack() as stack:
            stack.callback(self._server.stop)
            for system in self.systems.values():
                stack.callback(system.close)

    def __getitem__(self, name: str) -> DownstreamSystem:
        return self.systems[name]

    @property
    def url(self) -> str:
        """Where the page is."""
        return f"http://127.0.0.1:{self._server.port}"

    def url_of(self, name: str) -> str:
        """Where the system takes posts."""
        return f"{self.url}/hooks/{self.systems[name].name}"

    @property
    def environ(self) -> dict[str, str]:
        """The systems' addresses, as rules may name them under `env`: ``SYSTEM_A_URL``."""
        return {
            f"SYSTEM_{name.upper().replace('-', '_')}_URL": self.url_of(name)
            for name in self.systems
        }

    def list_received(self, name: str) -> bytes:
        """What a system got, as JSON for other processes; bodies are in base64."""
        system = self.systems[name]
        received = [
            {
                "number": request.number,
                "at": request.at,
                "method": request.method,
                "path": request.path,
                "headers": request.headers,
                "body": base64.b64encode(request.body).decode(),
                "status": request.status,
                "fault": request.fault,
                "webhook_id": request.webhook_id,
            }
            for request in system.received
        ]
        listed = {"total": system.total, "taken": system.taken, "counts": system.counts}
        return json.dumps({**listed, "received": received}).encode()

    def _answer_at(self, handler: "_Handler") -> None:
        hook = _HOOK.fullmatch(handler.path.partition("?")[0])
        if hook is not None and hook[1] in self.systems:
            self.systems[hook[1]].answer_at(handler)
            return
        body = handler.read_body()
        if body is None:
            return
        path, _, query = handler.path.partition("?")
        headers = {name.lower(): value for name, value in handler.headers.items()}
        peer = str(handler.client_address[0])
        request = Request(handler.command, path, query, headers, body, len(body), peer)
        answer: Answer = self._pages.answer(request)
        handler.send(answer.status, answer.body, answer.headers)


class _Server(Loopback):
    def __init__(self, name: str, port: int, answer: Callable[["_Handler"], None]) -> None:
        """*answer* reads and answers the request that a handler holds."""
        super().__init__(name, port, _Handler)
        self.answer = answer


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        with suppress(ConnectionError, TimeoutError):  # the caller went away
            super().handle()

    def _serve(self) -> None:
        self.server.answer(self)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  # http.server's names

    def read_body(self) -> bytes | None:
        """The body; None where there is none to be had, which is answered then."""
        length = self.headers.get("Content-Length", "0")
        if "Transfer-Encoding" in self.headers or not re.fullmatch(r"[0-9]{1,12}", length):
            self.close_connection = True
            self.send(411, b"")
            return None
        if int(length) > BODY_BYTES_MAX:
            self.close_connection = True
            self.send(413, b"")
            return None
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            self.hang_up()  # the caller died while it was sending
            return None
        return body

    def send(self, status: int, body: bytes, headers: Iterable[tuple[str, str]] = ()) -> None:
        self._send_head(status, len(body), headers)
        if self.command != "HEAD":
            self.wfile.write(body)

    def send_slowly(
        self, status: int, body: bytes, seconds: float, released: threading.Event
    ) -> None:
        """Answer byte by byte, in *seconds*; hang up where it is *released*."""
        self._send_head(status, len(body), ())
        for byte in body:
            if released.wait(seconds / len(body)):
                self.hang_up()
                return
            self.wfile.write(bytes([byte]))

    def _send_head(self, status: int, length: int, headers: Iterable[tuple[str, str]]) -> None:
        self.send_response_only(status)
        self.send_header("Date", self.date_time_string())
        named = [*headers]
        if not any(name == "Content-Type" for name, _ in named):
            named.append(("Content-Type", "application/json"))
        for name, value in named:
            self.send_header(name, value)
        if status != 204:
            self.send_header("Content-Length", str(length))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()

    def hang_up(self) -> None:
        """Close the connection, with nothing more said."""
        self.close_connection = True

    def reset(self) -> None:
        """End the connection with a TCP reset."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, *_: object) -> None:
        """Say nothing: what arrived is kept."""


def main() -> int:
    """Run it alone until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.receiver", description="Several downstream systems on loopback."
    )
    parser.add_argument("--port", type=int, default=8094, help="0 takes a free one (default: 8094)")
    parser.add_argument(
        "--system",
        action="append",
        metavar="NAME",
        help="one of the systems; can be given several times (default: a, b, c, d)",
    )
    asked = parser.parse_args()
    stop = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: stop.set())
    try:
        with Receiver(asked.system or SYSTEMS, port=asked.port) as receiver:
            print(f"What arrives is shown on {receiver.url}/", flush=True)
            for name in receiver.systems:
                print(f"System {name}: {receiver.url_of(name)}", flush=True)
            stop.wait()
    except ValueError as wrong:
        print(f"{wrong}.", file=sys.stderr)
        return 1
    except OSError as taken:
        print(f"{taken.strerror}. Give another one with --port.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
