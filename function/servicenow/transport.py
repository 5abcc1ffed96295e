"""One call over HTTP, within one bound on the whole of it, at most so many at a time.

A socket's time-out bounds each wait, not their sum: a server that drips a byte a second would hold
us for ever. Here the answer, its headers included, is read against one deadline; and what failed
before the request was sent is told from what failed after, which no exception of requests or
urllib3 does reliably (an SSLError can be either).
"""

import http.client
import io
import json
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, Literal, cast

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NameResolutionError, SSLError
from urllib3.util.connection import create_connection

from function.core.outcome import Failure, Reason, Retryability
from function.servicenow.instance import FORBIDDEN, is_forbidden
from function.servicenow.network import NetworkSettings, ProxyServer
from function.servicenow.responses import Reply, Request, Sent, no_answer

# A call that has less left could only end in doubt.
CALL_SECONDS_MIN: Final = 0.05
# A page of records is kilobytes; 16 MiB is more than any answer that we ask for.
BODY_BYTES_MAX: Final = 16 * 1024 * 1024
_CHUNK_BYTES: Final = 64 * 1024
# Connecting to each of a host's addresses, and TLS after that, may take this part of the time that
# is left.
_CONNECT_SHARE: Final = 0.25


class CancelScope:
    """Lets another thread end what this one sends: its connection is cut, and nothing more is sent
    in its name."""

    def __init__(self) -> None:
        self.is_cancelled = False
        self.connection: _HttpConnection | None = None

    def cancel(self) -> None:
        with _CUTTING:
            self.is_cancelled = True
            if self.connection is not None:
                self.connection.cut(self)


SCOPE: Final[ContextVar[CancelScope | None]] = ContextVar("SCOPE", default=None)
# Held while a connection is cut, or taken for a request: one that was given back is another call's.
_CUTTING: Final = threading.Lock()


class Transport:
    """Sends requests to one instance, at most *concurrency_max* at a time. Threads may share it.

    *ca_file* has the certificates to trust instead of those of *network*.
    """

    def __init__(
        self,
        instance_url: str,
        *,
        concurrency_max: int,
        ca_file: str | None = None,
        network: NetworkSettings = NetworkSettings(),  # noqa: B008  # it is frozen
    ) -> None:
        self._instance_url = instance_url
        self._slots = threading.BoundedSemaphore(concurrency_max)
        self._session = _session(concurrency_max, network.proxy_for(instance_url))
        self._session.verify = ca_file or network.ca_path or True
        self._counting = threading.Lock()
        self._calls = 0

    @property
    def calls(self) -> int:
        """How many requests were sent."""
        return self._calls

    def close(self) -> None:
        self._session.close()

    def send(
        self,
        request: Request,
        params: Mapping[str, str],
        values: Mapping[str, str] | None,
        *,
        headers: Callable[[], Mapping[str, str] | Failure],
        deadline: float,
    ) -> Reply | Failure:
        """Send *request* when its turn comes, and receive the answer by *deadline* (on the
        monotonic clock).

        *headers* is asked for what proves who we are right before the request is sent; its failure
        is the answer.
        """
        scope = SCOPE.get()
        if scope is not None and scope.is_cancelled:
            return _CANCELLED
        if deadline - time.monotonic() < CALL_SECONDS_MIN:
            return _NO_TIME
        if not self._slots.acquire(timeout=deadline - time.monotonic()):
            return CROWDED
        try:
            if deadline - time.monotonic() <= CALL_SECONDS_MIN:
                return CROWDED
            proof = headers()
            if isinstance(proof, Failure):
                return proof
            if (left_seconds := deadline - time.monotonic()) <= CALL_SECONDS_MIN:
                return _NO_TIME
            body = None if values is None else json.dumps(dict(values)).encode()
            return self._exchange(request, params, body, proof, left_seconds)
        finally:
            self._slots.release()

    def post_form(self, path: str, form: bytes, *, deadline: float) -> Reply | Failure:
        """Post *form* and receive the answer by *deadline*: what a call needs, in the turn which
        that call has."""
        if (left_seconds := deadline - time.monotonic()) < CALL_SECONDS_MIN:
            return _NO_TIME
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        # Others wait for what this brings, too.
        whole = SCOPE.set(None)
        try:
            return self._exchange(_Form(path), {}, form, headers, left_seconds)
        finally:
            SCOPE.reset(whole)

    def _exchange(
        self,
        request: "Request | _Form",
        params: Mapping[str, str],
        data: bytes | None,
        proof: Mapping[str, str],
        left_seconds: float,
    ) -> Reply | Failure:
        """Send and receive.

        A failure is a value; the exception behind it is let go: its text may hold the address and
        what was received.
        """
        deadline = time.monotonic() + left_seconds
        status, headers, body = 0, dict[str, str](), bytearray()
        # requests hands urllib3's own kind of time-out through, which bounds connecting and
        # answering together.
        bound = _BoundedTimeout(deadline)
        try:
            with self._session.request(
                request.method,
                self._instance_url + request.path,
                params=params,
                data=data,
                headers=dict(proof),
                timeout=cast(float, bound),
                # the password must not follow a hibernating instance to another host
                allow_redirects=False,
                stream=True,
            ) as response:
                self._count()
                status = response.status_code
                headers = {name.lower(): value for name, value in response.headers.items()}
                for chunk in response.iter_content(_CHUNK_BYTES):
                    body += chunk
                    if len(body) > BODY_BYTES_MAX:
                        hint = (
                            "ServiceNow's answer is larger than 16 MiB, and was "
                            "not read to its end."
                        )
                        return no_answer(request, Reason.BAD_ANSWER, hint, status=status)
        except _NeverSentError as error:
            return error.failure
        except (OSError, HTTPError):  # requests' own exceptions are OSErrors
            if not status:
                self._count()
            if not _status_says_it(status):
                return _cut_off(request, status, late=time.monotonic() >= deadline)
        return Reply(status, headers, bytes(body))

    def _count(self) -> None:
        with self._counting:
            self._calls += 1


@dataclass(frozen=True, slots=True)
class _Form:
    """A form to post, which changes no record."""

    path: str
    method: Literal["POST"] = "POST"
    writes: Literal[False] = False


_NO_TIME: Final = Failure(
    Retryability.TRANSIENT, Reason.DEADLINE, "There was no time left for a call to ServiceNow."
)
_CANCELLED: Final = Failure(
    Retryability.TRANSIENT, Reason.DEADLINE, "The call was given up before it was sent."
)
CROWDED: Final = Failure(
    Retryability.TRANSIENT,
    Reason.NO_CAPACITY,
    "All our calls to ServiceNow were taken for the whole time: SERVICENOW_MAX_CONCURRENCY "
    "bounds them, and ServiceNow may be slow.",
)


def _status_says_it(status: int) -> bool:
    """Whether the status alone is the answer, so that a body broken off does not matter."""
    return status in {202, 401, 429} or 300 <= status < 400 or status >= 500


def _cut_off(request: Sent, status: int, *, late: bool) -> Failure:
    if late:
        hint = (
            "ServiceNow did not answer in time: look for slow business rules on the table, "
            "and at its status page."
        )
        return no_answer(request, Reason.TIMEOUT, hint, status=status)
    if status:
        return no_answer(
            request, Reason.BAD_ANSWER, "ServiceNow's answer broke off.", status=status
        )
    hint = (
        "The connection to ServiceNow broke before it answered: it may be restarting, or a "
        "proxy cuts connections."
    )
    return no_answer(request, Reason.UNREACHABLE, hint)


class _HttpSession(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would prepare the next request even if not to send it, and read the whole
        body for that."""


def _session(concurrency_max: int, proxy: ProxyServer | None) -> requests.Session:
    session = _HttpSession()
    # With trust_env, a .netrc would replace our Authorization; and each call would spend 8 % more
    # CPU on looking for what network.py read once.
    session.trust_env = False
    if proxy is not None:
        session.proxies = {"https": proxy.url}
    # A cookie pins us to a node and to a session, which runs one request at a time and drops the
    # eleventh (KB0564204).
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update(
        {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "hasura-servicenow",
        }
    )
    adapter = _Adapter(proxy, pool_connections=1, pool_maxsize=concurrency_max, max_retries=0)
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class ForbiddenAddressError(OSError):
    """The host's name resolves to an address that must not be called."""


def connect(
    host: str,
    port: int,
    *,
    timeout_seconds: Any,
    options: Sequence[tuple[int, int, int | bytes]] | None = None,
) -> socket.socket:
    """Connect to one of the addresses of *host*, none of which may be forbidden.

    Raises OSError, and UnicodeError for what cannot be a name.
    """
    found = socket.getaddrinfo(host.strip("[]"), port, type=socket.SOCK_STREAM)
    addresses = list(dict.fromkeys(str(address[0]) for *_, address in found))
    if any(map(is_forbidden, addresses)):
        raise ForbiddenAddressError
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
    for address in addresses:
        try:
            return create_connection(
                (address, port), timeout_seconds, socket_options=list(options or ())
            )
        except OSError as error:
            failure = error
    raise failure


class _NeverSentError(Exception):
    """There was no connection to send the request on."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.hint)
        self.failure = failure


class _TimedReader(io.RawIOBase):
    """A socket's bytes until *deadline*, and TimeoutError from then on."""

    def __init__(self, sock: socket.socket, deadline: float) -> None:
        self._sock = sock
        self._bytes = sock.makefile("rb", buffering=0)
        self._deadline = deadline

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        left_seconds = self._deadline - time.monotonic()
        if left_seconds <= 0:
            raise TimeoutError("the answer took too long")
        self._sock.settimeout(left_seconds)
        return self._bytes.readinto(buffer)

    def close(self) -> None:
        self._bytes.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    """An answer whose every byte is read before what is, at its start, the socket's time-out."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReader(sock, time.monotonic() + (sock.gettimeout() or 0)))

    def begin(self) -> None:
        super().begin()
        if self.msg.defects:
            # urllib3 would read on, and log what it could not parse, which may be anything.
            raise http.client.HTTPException("the answer's headers are malformed")


class _HttpConnection(urllib3.connection.HTTPConnection):
    response_class = _TimedResponse
    _scope: CancelScope | None = None
    _is_cut = False

    def _new_conn(self) -> socket.socket:
        """Connect to an address that was looked at: the name may resolve to another one the next
        time.

        A proxy is whom the environment trusts, and looks at addresses itself.
        """
        if self.proxy is not None:
            return super()._new_conn()
        return connect(
            self._dns_host, self.port, timeout_seconds=self.timeout, options=self.socket_options
        )

    def connect(self) -> None:
        try:
            super().connect()
        except (OSError, UnicodeError, HTTPError, http.client.HTTPException) as error:
            raise _NeverSentError(_unreached(error, by_proxy=self.proxy is not None)) from error
        self._take()

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._take()
        super().request(*args, **kwargs)

    def close(self) -> None:
        super().close()
        self._is_cut = False

    def cut(self, scope: CancelScope) -> None:
        """End what *scope* sends over it, if that is what it is used for. To be called with
        _CUTTING held."""
        if self._scope is scope and self.sock is not None:
            self._is_cut = True
            with suppress(OSError):
                # Below TLS, whose own shutdown must not be called beside a read.
                socket.socket.shutdown(self.sock, socket.SHUT_RDWR)

    def _take(self) -> None:
        scope = SCOPE.get()
        with _CUTTING:
            if self._is_cut or (scope is not None and scope.is_cancelled):
                raise _NeverSentError(_CANCELLED)
            self._scope = scope
            if scope is not None:
                scope.connection = self


class _SecureConnection(_HttpConnection, urllib3.connection.HTTPSConnection):
    """The same over TLS."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection


class _SecurePool(urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    def __init__(self, proxy: ProxyServer | None, **kwargs: Any) -> None:
        self._proxy = proxy
        super().__init__(**kwargs)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = _POOLS

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = _POOLS
        return manager

    def proxy_headers(self, proxy: Any) -> dict[str, str]:  # noqa: ARG002  # there is one
        return self._proxy.headers if self._proxy else {}


_POOLS: Final = {"http": _Pool, "https": _SecurePool}


class _BoundedTimeout(urllib3.Timeout):
    """What is left until *deadline*, whenever urllib3 asks: it connects to a proxy before its own
    clock starts."""

    def __init__(self, deadline: float) -> None:
        left_seconds = max(deadline - time.monotonic(), 0.001)
        super().__init__(total=left_seconds, connect=left_seconds * _CONNECT_SHARE)
        self._deadline = deadline

    def clone(self) -> "_BoundedTimeout":
        return _BoundedTimeout(self._deadline)


def open_tunnel(sock: socket.socket, proxy: ProxyServer, host: str, port: int) -> int:
    """Ask *proxy*, on *sock*, for a connection to *host*; the HTTP status of its answer. Raises
    OSError."""
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    lines = [
        f"CONNECT {shown} HTTP/1.1",
        f"Host: {shown}",
        *(f"{name}: {value}" for name, value in proxy.headers.items()),
    ]
    sock.sendall("\r\n".join([*lines, "", ""]).encode())
    response = _TimedResponse(sock, method="CONNECT")
    try:
        response.begin()
    except http.client.HTTPException as error:
        raise ConnectionError("the proxy's answer is none of HTTP") from error
    finally:
        response.close()
    return response.status


# http.client's words for a proxy's answer.
_NO_TUNNEL = re.compile(r"Tunnel connection failed: (\d{3})")


def proxy_refusal(status: int) -> str:
    """The sentence for a proxy that answered *status* to CONNECT."""
    if status == 407:
        return (
            "The proxy does not accept the user and password that HTTPS_PROXY has, or wants "
            "some: check HTTPS_PROXY."
        )
    return (
        "The proxy that HTTPS_PROXY names does not connect us to ServiceNow (it answers HTTP "
        f"{status}): check that it lets SERVICENOW_INSTANCE_URL through, or name "
        "the host in NO_PROXY."
    )


def _unreached(error: Exception, *, by_proxy: bool) -> Failure:
    match error:
        case OSError() if by_proxy and (refused := _NO_TUNNEL.match(str(error))):
            hint = proxy_refusal(int(refused[1]))
        case NameResolutionError() | UnicodeError() if by_proxy:
            hint = (
                "The host name of the proxy is not known: check HTTPS_PROXY, and the "
                "network's name service."
            )
        case ssl.SSLError() | SSLError() if by_proxy:
            hint = (
                "No secure connection to ServiceNow through the proxy: check "
                "SERVICENOW_INSTANCE_URL and, where the proxy opens connections, that "
                "SSL_CERT_FILE has its certificate."
            )
        case _ if by_proxy:
            hint = (
                "ServiceNow could not be reached through the proxy: check HTTPS_PROXY, and that "
                "the proxy is up and lets SERVICENOW_INSTANCE_URL through."
            )
        case ForbiddenAddressError():
            hint = f"SERVICENOW_INSTANCE_URL names a host whose address is {FORBIDDEN}."
        case NameResolutionError() | socket.gaierror() | UnicodeError():
            hint = (
                "ServiceNow's host name is not known: check SERVICENOW_INSTANCE_URL, and the "
                "network's name service."
            )
        case ssl.SSLError() | SSLError():
            hint = (
                "No secure connection to ServiceNow: check SERVICENOW_INSTANCE_URL and the "
                "host's certificate."
            )
        case ConnectTimeoutError() | TimeoutError():
            hint = (
                "ServiceNow could not be reached in time: check SERVICENOW_INSTANCE_URL, "
                "firewalls and egress rules."
            )
        case _:
            hint = (
                "ServiceNow could not be reached: check SERVICENOW_INSTANCE_URL, firewalls "
                "and egress rules."
            )
    return Failure(Retryability.TRANSIENT, Reason.UNREACHABLE, hint)
