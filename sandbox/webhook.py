"""What Hasura puts on the wire, byte for byte, and how its HTTP client behaves: bodies, headers,
one POST.

Written from Hasura's source and its libraries: aeson (the JSON), http-client (the connections and
the redirects).
"""

import gzip
import json
import re
import socket
import ssl
import threading
import time
import zlib
from base64 import b64encode
from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final, TypeAlias
from urllib.parse import SplitResult, urljoin, urlsplit

VERSION: Final = "v2.48.0"
# http-client's redirectCount.
REDIRECTS_MAX: Final = 10
# Hasura reads any answer whole; this keeps a test's mistake from filling the memory.
ANSWER_BYTES_MAX: Final = 64 * 1024 * 1024
_HEAD_BYTES_MAX: Final = 65_536
_DEFAULT_PORTS: Final = {"http": 80, "https": 443}


# --- the body, as aeson writes it
# ----------------------------------------------------------------------------------


def parse(text: str) -> Any:
    """JSON as PostgreSQL writes it, its numbers exact however many digits they have."""
    return json.loads(text, parse_float=Decimal, parse_int=Decimal)


def encode(value: Any) -> str:
    """*value* as aeson encodes it: compact, keys in code-point order."""
    match value:
        case str():
            return _text(value)
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case Decimal():
            return _number(value)
        case dict():
            return (
                "{" + ",".join(f"{_text(key)}:{encode(value[key])}" for key in sorted(value)) + "}"
            )
        case list():
            return "[" + ",".join(map(encode, value)) + "]"
        case _:
            raise TypeError(f"{type(value).__name__} is nothing that PostgreSQL's JSON holds")


# Nothing else: U+007F, U+2028 and what is beyond the BMP go as they are.
_ESCAPED: Final = re.compile(r'["\\\x00-\x1f]')
_SHORT: Final = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\r": "\\r", "\t": "\\t"}


def _text(text: str) -> str:
    return (
        '"'
        + _ESCAPED.sub(lambda found: _SHORT.get(found[0]) or f"\\u{ord(found[0]):04x}", text)
        + '"'
    )


def _number(number: Decimal) -> str:
    """Haskell's Scientific: digits where it has no decimals, else fixed from 0.1 to below 10^7,
    else d.ddde±n."""
    sign, digits, exponent = number.as_tuple()
    if not isinstance(exponent, int):
        raise TypeError("NaN and Infinity are texts in PostgreSQL's JSON")
    if exponent >= 0:
        return f"{number:f}"
    shown = "".join(map(str, digits)).rstrip("0")
    minus = "-" if sign else ""
    point = len(digits) + exponent  # where the decimal point stands, counted from the first digit
    if not shown:
        return "0.0"
    if not 0 <= point <= 7:
        return f"{minus}{shown[0]}.{shown[1:] or '0'}e{point - 1}"
    whole = shown[:point].ljust(point, "0") or "0"
    return f"{minus}{whole}.{shown[point:] or '0'}"


def local_time(at: datetime) -> str:
    """A TIMESTAMP as Hasura has written `created_at` since v2.26: no zone, trailing
    zeros trimmed."""
    text = at.isoformat()
    return text.rstrip("0") if at.microsecond else text


def utc_time(at: datetime) -> str:
    """A UTC time as scheduled events have it; *at* is in UTC."""
    return local_time(at.replace(tzinfo=None)) + "Z"


# --- the headers
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Header:
    """A configured header. *value_from_env* is the variable's name where the value
    comes from one."""

    name: str
    value: str
    value_from_env: str | None = None

    def logged(self) -> dict[str, str]:
        """As the invocation log has it: the name alone of what came from the environment."""
        if self.value_from_env is not None:
            return {"name": self.name, "value_from_env": self.value_from_env}
        return {"name": self.name, "value": self.value}


# They stand in the place of configured ones of the same name.
_OWN: Final = (
    Header("Content-Type", "application/json"),
    Header("User-Agent", f"hasura-graphql-engine/{VERSION}"),
)
_OWN_NAMES: Final = {header.name.lower() for header in _OWN}


def with_own_headers(configured: Iterable[Header]) -> tuple[Header, ...]:
    return (*_OWN, *(header for header in configured if header.name.lower() not in _OWN_NAMES))


# --- the answer
# --------------------------------------------------------------------------------------------------


# In the order they came, names as they were spelled.
Headers: TypeAlias = tuple[tuple[str, str], ...]


class NoAnswer(Exception):  # noqa: N818  # what happened, to be recorded
    """There was no whole HTTP answer; the text says why, as the invocation log has it."""


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    headers: Headers
    body: bytes

    @property
    def delivered(self) -> bool:
        return 200 <= self.status < 300

    def header(self, name: str) -> str | None:
        return _header(self.headers, name)

    def logged_body(self) -> str | list[str]:
        try:
            return self.body.decode()
        except UnicodeDecodeError:
            return ["Base64", b64encode(self.body).decode()]


def _header(headers: Headers, name: str) -> str | None:
    """The first header of that lower-case *name*."""
    return next((value for known, value in headers if known.lower() == name), None)


# What Haskell's `read` takes for an Int, and no more: no sign but a minus (never above 0), no
# fraction, no unit.
_INT: Final = re.compile(r"\s*([0-9]+|0[xX][0-9a-fA-F]+|0[oO][0-7]+)\s*", re.ASCII)


def retry_after_seconds(answer: Answer) -> int | None:
    """The wait that a failed *answer* asks for: whole seconds above 0, or it is ignored."""
    said = answer.header("retry-after")
    read = _INT.fullmatch(said) if said is not None else None
    if answer.delivered or read is None:
        return None
    base = {"x": 16, "o": 8}.get(read[1][1:2].lower(), 10)
    with suppress(ValueError):  # more digits than Python reads: no time that PostgreSQL could hold
        seconds = int(read[1], base)
        return seconds if 0 < seconds < 2**63 else None
    return None


# --- the connections
# -----------------------------------------------------------------------------------------------


class _Stale(Exception):  # noqa: N818  # what happened
    """The connection died before the first byte of an answer."""


class Connections:
    """Connections that are kept alive and shared, as http-client's Manager does; safe
    for threads."""

    def __init__(self, *, idle_max: int) -> None:
        self._idle_max = idle_max
        self._lock = threading.Lock()
        self._open: set[_Connection] = set()
        self._idle: defaultdict[tuple[str, str, int], list[_Connection]] = defaultdict(list)
        self._closed = False

    def post(
        self, url: str, headers: Iterable[Header], body: bytes, *, timeout_seconds: float
    ) -> Answer:
        """POST *body* and follow redirects: the last answer. Raises NoAnswer.

        *timeout_seconds* is for everything together, as Hasura's time-out of the whole event is.
        """
        deadline = time.monotonic() + timeout_seconds
        method = "POST"
        sent = {header.name: header.value for header in headers}
        for _ in range(REDIRECTS_MAX + 1):
            answer = self._exchange(method, url, sent, body, deadline)
            location = answer.header("location")
            if not 300 <= answer.status < 400 or location is None:
                return answer
            with suppress(ValueError):  # an address that is none is refused when it is asked
                url = urljoin(url, location)
            if answer.status in {302, 303}:
                # "Almost all clients mistakenly implement it for 302 as well", and so does
                # http-client.
                method, body = "GET", b""
                sent.pop("Content-Type", None)
        raise NoAnswer("Too many redirects")

    def abort(self) -> None:
        """Hang up everywhere, as the end of a process does, and connect nowhere again."""
        with self._lock:
            self._closed = True
            idle = [connection for pool in self._idle.values() for connection in pool]
            asked = self._open.difference(idle)
            self._idle.clear()
        for connection in idle:
            connection.close()
        for connection in asked:
            connection.hang_up()  # closed by who asked

    def _exchange(
        self, method: str, url: str, headers: Mapping[str, str], body: bytes, deadline: float
    ) -> Answer:
        origin, request = _written(method, url, headers, body)
        try:
            if reused := self._reused(origin):
                with suppress(_Stale):
                    return self._asked(origin, reused, request, deadline)
                # http-client sends it again by itself, and nobody can know that the first did not
                # arrive.
            return self._asked(origin, self._connected(origin, deadline), request, deadline)
        except _Stale:
            raise NoAnswer("No response data received") from None
        except TimeoutError:
            raise NoAnswer("Response timeout") from None
        except OSError as error:
            raise NoAnswer(f"Connection failure: {error}") from error

    def _asked(
        self,
        origin: tuple[str, str, int],
        connection: "_Connection",
        request: bytes,
        deadline: float,
    ) -> Answer:
        kept = False
        try:
            answer, kept = connection.ask(request, deadline)
        finally:
            with self._lock:
                kept = kept and not self._closed and len(self._idle[origin]) < self._idle_max
                if kept:
                    self._idle[origin].append(connection)
                else:
                    self._open.discard(connection)
            if not kept:
                connection.close()
        return answer

    def _reused(self, origin: tuple[str, str, int]) -> "_Connection | None":
        with self._lock:
            return self._idle[origin].pop() if self._idle[origin] else None

    def _connected(self, origin: tuple[str, str, int], deadline: float) -> "_Connection":
        scheme, host, port = origin
        wire = socket.create_connection((host, port), timeout=_left(deadline))
        wire.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if scheme == "https":
            wire = ssl.create_default_context().wrap_socket(wire, server_hostname=host)
        connection = _Connection(wire)
        with self._lock:
            if self._closed:
                connection.close()
                raise NoAnswer("Connection failure: the engine has ended")
            self._open.add(connection)
        return connection


def _written(
    method: str, url: str, headers: Mapping[str, str], body: bytes
) -> tuple[tuple[str, str, int], bytes]:
    """Where a request goes, and its bytes."""
    try:
        at: SplitResult = urlsplit(url)
        port = at.port or _DEFAULT_PORTS[at.scheme]
        host = (at.hostname or "").encode("idna").decode()
    except (KeyError, ValueError):
        raise NoAnswer("Invalid URL") from None
    if not host:
        raise NoAnswer("Invalid URL")
    target = (at.path or "/") + (f"?{at.query}" if at.query else "")
    shown = f"[{host}]" if ":" in host else host
    lines = [
        f"{method} {target} HTTP/1.1",
        f"Host: {shown}" if port == _DEFAULT_PORTS[at.scheme] else f"Host: {shown}:{port}",
        "Accept-Encoding: gzip",
        *([f"Content-Length: {len(body)}"] if method == "POST" else []),
        *(f"{name}: {value}" for name, value in headers.items()),
    ]
    return (at.scheme, host, port), "\r\n".join([*lines, "", ""]).encode() + body


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError
    return left


class _Connection:
    """One connection, one request at a time."""

    def __init__(self, wire: socket.socket) -> None:
        self._wire = wire
        self._read = b""

    def ask(self, request: bytes, deadline: float) -> tuple[Answer, bool]:
        """Send *request*: its answer, and whether the connection can be used again.

        Raises _Stale, NoAnswer or OSError.
        """
        try:
            self._wire.settimeout(_left(deadline))
            self._wire.sendall(request)
        except ConnectionError:
            raise _Stale from None
        while True:
            status, headers, keep = self._head(deadline)
            if status >= 200:
                break
        body, ended = self._body(status, headers, deadline)
        if (_header(headers, "content-encoding") or "").lower() == "gzip":
            try:
                body = gzip.decompress(body)
            except (OSError, EOFError, zlib.error):
                raise NoAnswer("Invalid gzip") from None
        return Answer(status, headers, body), keep and ended

    def hang_up(self) -> None:
        """From another thread: whoever reads here is told that it is over."""
        with suppress(OSError):
            self._wire.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._wire.close()

    def _head(self, deadline: float) -> tuple[int, Headers, bool]:
        while (end := self._read.find(b"\r\n\r\n")) < 0:
            if len(self._read) > _HEAD_BYTES_MAX:
                raise NoAnswer("Overlong headers")
            try:
                more = self._more(deadline)
            except ConnectionError:
                more = b""
            if not more and not self._read:
                raise _Stale
            if not more:
                raise NoAnswer("Incomplete headers")
            self._read += more
        first, *lines = self._read[:end].decode("utf-8", "replace").split("\r\n")
        self._read = self._read[end + 4 :]
        protocol, _, rest = first.partition(" ")
        if not protocol.startswith("HTTP/1.") or not re.fullmatch("[0-9]{3}", rest[:3]):
            raise NoAnswer("Invalid status line")
        headers = tuple(
            (name, value.strip()) for name, _, value in (line.partition(":") for line in lines)
        )
        usual = "keep-alive" if protocol == "HTTP/1.1" else "close"
        return (
            int(rest[:3]),
            headers,
            (_header(headers, "connection") or usual).lower() == "keep-alive",
        )

    def _body(self, status: int, headers: Headers, deadline: float) -> tuple[bytes, bool]:
        """The body, and whether its end was told by anything but the end of the connection."""
        if status in {204, 304}:
            return b"", True
        if (_header(headers, "transfer-encoding") or "").lower() == "chunked":
            return self._chunks(deadline), True
        if re.fullmatch("[0-9]{1,18}", length := _header(headers, "content-length") or ""):
            return self._exactly(int(length), deadline), True
        whole = self._read
        while more := self._more(deadline):
            whole += more
            _bounded(len(whole))
        return whole, False

    def _chunks(self, deadline: float) -> bytes:
        whole: list[bytes] = []
        try:
            while size := int(self._line(deadline).partition(b";")[0], 16):
                _bounded(size + sum(map(len, whole)))
                whole.append(self._exactly(size, deadline))
                self._line(deadline)
            while self._line(deadline):
                pass  # trailers
        except ValueError:
            raise NoAnswer("Invalid chunk headers") from None
        return b"".join(whole)

    def _line(self, deadline: float) -> bytes:
        while b"\r\n" not in self._read:
            if not (more := self._more(deadline)) or len(self._read) > _HEAD_BYTES_MAX:
                raise NoAnswer("Incomplete chunk")
            self._read += more
        line, _, self._read = self._read.partition(b"\r\n")
        return line

    def _exactly(self, length: int, deadline: float) -> bytes:
        _bounded(length)
        pieces = [self._read]
        missing = length - len(self._read)
        while missing > 0:
            if not (more := self._more(deadline)):
                raise NoAnswer("Response body too short")
            pieces.append(more)
            missing -= len(more)
        whole = b"".join(pieces)
        self._read = whole[length:]
        return whole[:length]

    def _more(self, deadline: float) -> bytes:
        self._wire.settimeout(_left(deadline))
        return self._wire.recv(65_536)


def _bounded(size: int) -> None:
    if size > ANSWER_BYTES_MAX:
        raise NoAnswer("Response body too large")
