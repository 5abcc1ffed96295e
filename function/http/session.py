"""One request over HTTP, within one bound on the whole of it.

A socket's time-out bounds each wait, not their sum: a server that drips a byte a second would hold
us for ever. Here the answer, its headers included, is read against one deadline; and what failed
before the request was sent is told from what failed after, which no exception of requests or
urllib3 does reliably (an SSLError can be either).

    NotConnected     it was not sent: there was no connection
    CallCancelled    it was not sent: it was given up
    AnswerBroken     it was sent, and its answer did not come, or not whole
    AnswerTooLarge   it was answered by more than is read
"""

import http.client
import io
import re
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from http.cookiejar import DefaultCookiePolicy
from typing import Any, Final, TypeAlias, cast

import requests
import urllib3
from requests.adapters import HTTPAdapter
from urllib3.exceptions import HTTPError, SSLError
from urllib3.util.connection import create_connection

from function.http.addresses import FORBIDDEN, PRIVATE, is_forbidden, is_ip, is_not_public
from function.http.network import NetworkSettings, ProxyServer
from function.http.reply import Reply

# A call that has less left could only end in doubt.
CALL_SECONDS_MIN: Final = 0.05
_CHUNK_BYTES: Final = 64 * 1024
# What TLS sends at a time (RFC 8446, 5.1), each piece of which Python gives the whole time-out.
_SENT_BYTES: Final = 16 * 1024
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


@dataclass(slots=True)
class _CallProgress:
    """A call under way: by when it is over, on the monotonic clock, and how it was answered: 0
    before its status was read."""

    deadline: float
    status: int = 0

    def left(self) -> float:
        """Raises TimeoutError where nothing is."""
        left_seconds = self.deadline - time.monotonic()
        if left_seconds <= 0:
            raise TimeoutError("the call took too long")
        return left_seconds


_CALL: Final[ContextVar[_CallProgress]] = ContextVar("_CALL")


class NotConnected(Exception):  # noqa: N818  # what is the case
    """There was no connection to send the request on; *cause* is why. *by_proxy*: it was to go
    through one."""

    def __init__(self, cause: Exception, *, by_proxy: bool) -> None:
        super().__init__("the request was not sent")
        self.cause = cause
        self.by_proxy = by_proxy


class CallCancelled(Exception):  # noqa: N818  # what happened
    """The request was given up before it was sent."""


class AnswerBroken(Exception):  # noqa: N818  # what happened
    """The answer did not come, or not whole. *reply* is what came of it: its status is 0 where
    nothing did. *late*: because the time was over."""

    def __init__(self, reply: Reply, *, late: bool) -> None:
        super().__init__("the answer did not come whole")
        self.reply = reply
        self.late = late


class AnswerTooLarge(Exception):  # noqa: N818  # what is the case
    """The answer has more bytes than are read. *reply* is what was read of it."""

    def __init__(self, reply: Reply) -> None:
        super().__init__("the answer is too large")
        self.reply = reply
        self.status = reply.status


Resolver: TypeAlias = Callable[..., Sequence[tuple[Any, ...]]]
"""Looks a name up, as socket.getaddrinfo does."""


@dataclass(frozen=True, slots=True)
class ConnectPolicy:
    """Which addresses a session never connects to, and who looks names up.

    *why* says what the refused addresses are.
    """

    refuses: Callable[[str], bool] = is_forbidden
    resolve: Resolver = socket.getaddrinfo
    why: str = FORBIDDEN


# All but what is never called, and the public internet alone.
ANY_NETWORK: Final = ConnectPolicy()
PUBLIC_ONLY: Final = ConnectPolicy(refuses=is_not_public, why=PRIVATE)
# A proxy: the environment names it.
TRUSTED: Final = ConnectPolicy(refuses=lambda _: False)


class HttpSession:
    """Sends requests to one server. Threads may share it.

    *connections_max* stay open between requests. *ca_file* has the certificates to trust instead of
    those of *network*. No cookie is kept, and no redirect followed. *policy* is asked of every
    address before it is connected to.
    """

    def __init__(
        self,
        address: str,
        *,
        connections_max: int,
        network: NetworkSettings,
        ca_file: str | None = None,
        policy: ConnectPolicy = ANY_NETWORK,
    ) -> None:
        """*address* is what the path of a request is added to."""
        self._address = address
        self._session = _session(connections_max, network.proxy_for(address), policy)
        self._session.verify = ca_file or network.ca_path or True

    def close(self) -> None:
        self._session.close()

    def exchange(
        self,
        method: str,
        path: str = "",
        *,
        params: Mapping[str, str] | None = None,
        data: bytes | None = None,
        headers: Mapping[str, str | bytes],
        left_seconds: float,
        body_bytes_max: int,
    ) -> Reply:
        """Send, and receive the whole answer within *left_seconds*.

        Raises what is at the top of this file. The exception behind it is to be let go: its text
        may hold the address and what was received.
        """
        call = _CallProgress(time.monotonic() + left_seconds)
        received, body = dict[str, str](), bytearray()
        # requests hands urllib3's own kind of time-out through, which bounds connecting and
        # answering together.
        bound = _BoundedTimeout(call.deadline)
        token = _CALL.set(call)
        try:
            with self._session.request(
                method,
                self._address + path,
                params=params,
                data=data,
                headers=dict(headers),
                timeout=cast(float, bound),
                # the password must not follow a hibernating instance to another host
                allow_redirects=False,
                stream=True,
            ) as response:
                received = {name.lower(): value for name, value in response.headers.items()}
                for chunk in response.iter_content(_CHUNK_BYTES):
                    body += chunk
                    if len(body) > body_bytes_max:
                        raise AnswerTooLarge(Reply(call.status, received, bytes(body)))
        except (OSError, HTTPError) as error:  # requests' own exceptions are OSErrors
            reply = Reply(call.status, received, bytes(body))
            raise AnswerBroken(reply, late=time.monotonic() >= call.deadline) from error
        finally:
            _CALL.reset(token)
        return Reply(call.status, received, bytes(body))


class _CookielessSession(requests.Session):
    def get_redirect_target(self, resp: requests.Response) -> None:
        """None: requests would prepare the next request even if not to send it, and read the whole
        body for that."""


def _session(
    connections_max: int, proxy: ProxyServer | None, policy: ConnectPolicy
) -> requests.Session:
    session = _CookielessSession()
    # With trust_env, a .netrc would replace our Authorization; and each call would spend 8 % more
    # CPU on looking for what network.py read once.
    session.trust_env = False
    if proxy is not None:
        session.proxies = {"https": proxy.url}
    # A cookie pins us to a node of ServiceNow and to a session, which runs one request at a time
    # and drops the eleventh (KB0564204).
    session.cookies.set_policy(DefaultCookiePolicy(allowed_domains=[]))
    session.headers.update(
        {
            "Accept": "application/json",
            "Content-Type": "application/json",
            "User-Agent": "hasura-servicenow",
        }
    )
    adapter = _Adapter(
        proxy, policy, pool_connections=1, pool_maxsize=connections_max, max_retries=0
    )
    session.mount("https://", adapter)
    session.mount("http://", adapter)
    return session


class ForbiddenAddressError(OSError):
    """The host's name resolves to an address that must not be called: *address*, and *why*."""

    def __init__(self, address: str = "", why: str = FORBIDDEN) -> None:
        super().__init__("the address must not be called")
        self.address = address
        self.why = why


def connect(
    host: str,
    port: int,
    *,
    timeout_seconds: float,
    address_seconds: float | None = None,
    options: Sequence[tuple[int, int, int | bytes]] | None = None,
    policy: ConnectPolicy = ANY_NETWORK,
) -> socket.socket:
    """Connect to one of the addresses of *host*, none of which *policy* may refuse, within
    *timeout_seconds*, of which each address is given *address_seconds* at most.

    The name is looked up once: the addresses that were looked at are those that are connected to.
    Raises OSError, and UnicodeError for what cannot be a name.
    """
    deadline = time.monotonic() + timeout_seconds
    addresses = _look_up(host.strip("[]"), port, policy.resolve, timeout_seconds)
    for address in addresses:
        if policy.refuses(address):
            raise ForbiddenAddressError(address, policy.why)
    failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
    for address in addresses:
        left_seconds = deadline - time.monotonic()
        if left_seconds <= 0:
            raise TimeoutError("connecting took too long") from failure
        seconds = min(left_seconds, address_seconds or left_seconds)
        try:
            return create_connection((address, port), seconds, socket_options=list(options or ()))
        except OSError as error:
            failure = error
    raise failure


def _look_up(host: str, port: int, resolve: Resolver, timeout_seconds: float) -> list[str]:
    """The addresses of *host*. Raises OSError, of which TimeoutError where they are not known in
    time, and UnicodeError.

    Nothing ends the system's look-up of a name before its own time, which is half a minute and
    more where the name service is silent: it is left to a thread.
    """
    found = Future[Sequence[tuple[Any, ...]]]()

    def work() -> None:
        try:
            found.set_result(resolve(host, port, type=socket.SOCK_STREAM))
        except Exception as error:  # noqa: BLE001  # raised where it is waited for
            found.set_exception(error)

    if is_ip(host):
        work()
    else:
        threading.Thread(target=work, name="look-up", daemon=True).start()
    return list(dict.fromkeys(str(address[0]) for *_, address in found.result(timeout_seconds)))


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
    """An answer whose every byte is read before what is, at its start, the socket's time-out. Its
    status is known to the call, whatever becomes of the rest."""

    def __init__(self, sock: socket.socket, *args: Any, **kwargs: Any) -> None:
        super().__init__(sock, *args, **kwargs)
        self.fp.close()
        self.fp = io.BufferedReader(_TimedReader(sock, time.monotonic() + (sock.gettimeout() or 0)))

    def _read_status(self) -> tuple[str, int, str]:
        """Of the last answer to come: http.client itself skips a 100, and takes any other interim
        one (RFC 9110, 15.2) for the last."""
        while True:
            version, status, reason = super()._read_status()  # type: ignore[misc]  # unknown to typeshed
            if not 100 < status < 200 or status == http.HTTPStatus.SWITCHING_PROTOCOLS:
                return version, status, reason
            http.client.parse_headers(self.fp)

    def begin(self) -> None:
        try:
            super().begin()
        finally:
            call = _CALL.get(None)
            # The version is text until a status of HTTP has been read.
            if call is not None and isinstance(self.version, int):
                call.status = self.status
        if self.msg.defects:
            # urllib3 would read on, and log what it could not parse, which may be anything.
            raise http.client.HTTPException("the answer's headers are malformed")


class _HttpConnection(urllib3.connection.HTTPConnection):
    response_class = _TimedResponse
    policy = ANY_NETWORK
    _scope: CancelScope | None = None
    _is_cut = False
    _is_connecting = False

    def _new_conn(self) -> socket.socket:
        """Connect to an address that was looked at: the name may resolve to another one the next
        time.

        A proxy is whom the environment trusts, and looks at addresses itself.
        """
        call = _CALL.get()
        share_seconds = self.timeout or call.left()
        sock = connect(
            self._dns_host,
            self.port,
            timeout_seconds=call.left(),
            address_seconds=share_seconds,
            options=self.socket_options,
            policy=self.policy if self.proxy is None else TRUSTED,
        )
        # What follows is TLS.
        sock.settimeout(min(share_seconds, call.left()))
        return sock

    def connect(self) -> None:
        self._is_connecting = True
        try:
            super().connect()
            if _CALL.get().left() < CALL_SECONDS_MIN:
                raise TimeoutError("connecting took too long")
        except (OSError, UnicodeError, HTTPError, http.client.HTTPException) as error:
            self.close()
            raise NotConnected(error, by_proxy=self.proxy is not None) from error
        finally:
            self._is_connecting = False
        self._take()

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._take()
        super().request(*args, **kwargs)

    def send(self, data: Any) -> None:
        """Send *data*, bytes, within what is left of the call, or for connecting."""
        if self.sock is None:
            self.connect()
        if self._is_connecting:
            super().send(data)
            return
        for start in range(0, len(data), _SENT_BYTES):
            self.sock.settimeout(_CALL.get().left())
            super().send(data[start : start + _SENT_BYTES])

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
                raise CallCancelled
            self._scope = scope
            if scope is not None:
                scope.connection = self


class _SecureConnection(_HttpConnection, urllib3.connection.HTTPSConnection):
    """The same over TLS."""


class _Pool(urllib3.HTTPConnectionPool):
    ConnectionCls = _HttpConnection

    def __init__(self, *args: Any, policy: ConnectPolicy, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._policy = policy

    def _new_conn(self) -> Any:
        connection = super()._new_conn()
        connection.policy = self._policy  # type: ignore[attr-defined]  # it is of ConnectionCls
        return connection


class _SecurePool(_Pool, urllib3.HTTPSConnectionPool):
    ConnectionCls = _SecureConnection


class _Adapter(HTTPAdapter):
    def __init__(self, proxy: ProxyServer | None, policy: ConnectPolicy, **kwargs: Any) -> None:
        self._proxy = proxy
        self._pools = {
            "http": partial(_Pool, policy=policy),
            "https": partial(_SecurePool, policy=policy),
        }
        super().__init__(**kwargs)

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self.poolmanager.pool_classes_by_scheme = self._pools

    def proxy_manager_for(self, proxy: Any, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        manager.pool_classes_by_scheme = self._pools
        return manager

    def proxy_headers(self, proxy: Any) -> dict[str, str]:  # noqa: ARG002  # there is one
        return self._proxy.headers if self._proxy else {}


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


def proxy_refusal(status: int, *, system: str, setting: str) -> str:
    """The sentence for a proxy that answered *status* to CONNECT to *system*, whose address is in
    *setting*."""
    if status == 407:
        return (
            "The proxy does not accept the user and password that HTTPS_PROXY has, or wants "
            "some: check HTTPS_PROXY."
        )
    return (
        f"The proxy that HTTPS_PROXY names does not connect us to {system} (it answers HTTP "
        f"{status}): check that it lets {setting} through, or name "
        "the host in NO_PROXY."
    )


def explain_unreached(unreached: NotConnected, *, system: str, setting: str) -> str:
    """The sentence for why there was no connection to *system*, whose address is in *setting*."""
    match unreached.cause:
        case OSError() as error if unreached.by_proxy and (refused := _NO_TUNNEL.match(str(error))):
            return proxy_refusal(int(refused[1]), system=system, setting=setting)
        case socket.gaierror() | UnicodeError() if unreached.by_proxy:
            return (
                "The host name of the proxy is not known: check HTTPS_PROXY, and the "
                "network's name service."
            )
        case ssl.SSLError() | SSLError() if unreached.by_proxy:
            return (
                f"No secure connection to {system} through the proxy: check "
                f"{setting} and, where the proxy opens connections, that "
                "SSL_CERT_FILE has its certificate."
            )
        case _ if unreached.by_proxy:
            return (
                f"{system} could not be reached through the proxy: check HTTPS_PROXY, and that "
                f"the proxy is up and lets {setting} through."
            )
        case ForbiddenAddressError() as error:
            return f"{setting} names a host whose address is {error.why}."
        case socket.gaierror() | UnicodeError():
            return (
                f"{system}'s host name is not known: check {setting}, and the "
                "network's name service."
            )
        case ssl.SSLError() | SSLError():
            return f"No secure connection to {system}: check {setting} and the host's certificate."
        case TimeoutError():
            return (
                f"{system} could not be reached in time: check {setting}, "
                "firewalls and egress rules."
            )
        case _:
            return f"{system} could not be reached: check {setting}, firewalls and egress rules."
