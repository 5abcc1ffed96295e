"""An address is checked where the connection is made, and is the one that is connected to."""

import socket
import ssl
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from typing import Any

import pytest
import trustme

from function.http.addresses import is_not_public
from function.http.network import NetworkSettings
from function.http.session import (
    PUBLIC_ONLY,
    AnswerBroken,
    AnswerTooLarge,
    ConnectPolicy,
    ForbiddenAddressError,
    HttpSession,
    NotConnected,
)
from tests.answers import Seen, Server, always, http

PRIVATE, PUBLIC = "127.0.0.1", "127.0.0.2"


class Resolver:
    """A name service of the test's own: each look-up gives the next of *answers*, the last one for
    ever."""

    def __init__(self, *answers: Sequence[str]) -> None:
        self._answers = list(answers)
        self.asked: list[str] = []

    def __call__(self, host: str, port: int, **_: Any) -> list[tuple[Any, ...]]:
        self.asked.append(host)
        found = self._answers.pop(0) if len(self._answers) > 1 else self._answers[0]
        family = socket.AF_INET
        return [(family, socket.SOCK_STREAM, 6, "", (address, port)) for address in found]


class TwoHosts:
    """One port on two addresses of this machine: what listens on PRIVATE must never be reached."""

    def __init__(self) -> None:
        self.private = Server(always(http(200, "private")))
        self.port = int(self.private.url.rpartition(":")[2])
        self.public: list[bytes] = []

    def __enter__(self) -> "TwoHosts":
        self.private.__enter__()
        self._listener = socket.create_server((PUBLIC, self.port))
        self._listener.settimeout(5)
        return self

    def __exit__(self, *raised: object) -> None:
        self._listener.close()
        self.private.__exit__(*raised)

    def reached(self) -> bool:
        """Whether anybody has connected to the one on PUBLIC by now."""
        self._listener.settimeout(0.5)
        try:
            self._listener.accept()[0].close()
        except TimeoutError:
            return False
        return True


@pytest.fixture
def hosts() -> Iterator[TwoHosts]:
    with TwoHosts() as hosts:
        yield hosts


def exchange(hosts: TwoHosts, resolver: Resolver, *, seconds: float = 1.0) -> object:
    policy = ConnectPolicy(refuses=lambda address: address == PRIVATE, resolve=resolver)
    session = HttpSession(
        f"http://orders.example.com:{hosts.port}",
        connections_max=2,
        network=NetworkSettings(),
        policy=policy,
    )
    try:
        return session.exchange(
            "POST", data=b"x", headers={}, left_seconds=seconds, body_bytes_max=1000
        )
    except Exception as error:  # noqa: BLE001  # what is raised is what is looked at
        return error
    finally:
        session.close()


def test_a_name_that_changes_between_the_check_and_the_connection_leads_nowhere(
    hosts: TwoHosts,
) -> None:
    resolver = Resolver([PUBLIC], [PRIVATE])
    exchange(hosts, resolver)

    assert hosts.reached()
    assert hosts.private.seen == []
    assert resolver.asked == ["orders.example.com"]


def test_a_name_that_has_become_private_is_refused_at_the_next_connection(hosts: TwoHosts) -> None:
    resolver = Resolver([PUBLIC], [PRIVATE])
    exchange(hosts, resolver)
    hosts.reached()
    refused = exchange(hosts, resolver)

    assert isinstance(refused, NotConnected)
    assert isinstance(refused.cause, ForbiddenAddressError)
    assert refused.cause.address == PRIVATE
    assert hosts.private.seen == []


def test_a_name_with_a_private_address_among_others_is_not_called_at_all(hosts: TwoHosts) -> None:
    for answers in ([PUBLIC, PRIVATE], [PRIVATE, PUBLIC]):
        refused = exchange(hosts, Resolver(answers))

        assert isinstance(refused, NotConnected)
        assert isinstance(refused.cause, ForbiddenAddressError)
    assert not hosts.reached()
    assert hosts.private.seen == []


@pytest.mark.parametrize(
    "host", ["127.0.0.1", "0x7f000001", "2130706433", "127.1", "[::1]", "[::ffff:127.0.0.1]",
             "localhost"],
)  # fmt: skip
def test_the_public_policy_refuses_this_machine_in_any_spelling(hosts: TwoHosts, host: str) -> None:
    session = HttpSession(
        f"http://{host}:{hosts.port}",
        connections_max=2,
        network=NetworkSettings(),
        policy=PUBLIC_ONLY,
    )
    with pytest.raises(NotConnected) as caught:
        session.exchange("POST", data=b"x", headers={}, left_seconds=1.0, body_bytes_max=1000)
    session.close()

    assert isinstance(caught.value.cause, ForbiddenAddressError)
    assert is_not_public(caught.value.cause.address)
    assert hosts.private.seen == []


def test_a_redirect_to_a_private_address_is_an_answer(hosts: TwoHosts) -> None:
    def redirect(sock: socket.socket, seen: Seen) -> bool:
        sock.sendall(http(307, "", Location=f"http://{PRIVATE}:{hosts.port}/"))
        return True

    with Server(redirect) as other:
        session = HttpSession(other.url, connections_max=2, network=NetworkSettings())
        reply = session.exchange(
            "POST", data=b"x", headers={}, left_seconds=5.0, body_bytes_max=1000
        )
        session.close()

    assert reply.status == 307
    assert hosts.private.seen == []


def test_what_was_read_of_a_large_answer_is_kept_with_its_headers() -> None:
    with Server(always(http(503, "x" * 5000, Retry_After="7"))) as server:
        session = HttpSession(server.url, connections_max=2, network=NetworkSettings())
        with pytest.raises(AnswerTooLarge) as caught:
            session.exchange("POST", data=b"x", headers={}, left_seconds=5.0, body_bytes_max=1000)
        session.close()

    assert (caught.value.status, caught.value.reply.headers["retry-after"]) == (503, "7")


# What bounds a call


@pytest.fixture
def silent() -> Iterator[list[str]]:
    """The PORT of this machine, on many addresses, where whoever connects hears nothing."""
    with ExitStack() as opened:
        first = opened.enter_context(socket.socket())
        first.bind(("127.0.0.2", 0))
        port = first.getsockname()[1]
        addresses = [f"127.0.0.{2 + number}" for number in range(24)]
        for address in addresses:
            listener = first if address == "127.0.0.2" else opened.enter_context(socket.socket())
            if listener is not first:
                listener.bind((address, port))
            listener.listen(0)
            for _ in range(3):  # more than wait to be accepted
                waiting = opened.enter_context(socket.socket())
                waiting.setblocking(False)
                waiting.connect_ex((address, port))
        yield [str(port), *addresses]


def test_a_name_of_many_silent_addresses_is_tried_for_the_time_of_one_call(
    silent: list[str],
) -> None:
    port, *addresses = silent
    session = HttpSession(
        f"http://many.example.com:{port}",
        connections_max=2,
        network=NetworkSettings(),
        policy=ConnectPolicy(resolve=Resolver(addresses)),
    )
    began = time.monotonic()
    with pytest.raises(NotConnected) as caught:
        session.exchange("POST", data=b"x", headers={}, left_seconds=0.8, body_bytes_max=1000)
    session.close()

    assert isinstance(caught.value.cause, TimeoutError)
    assert time.monotonic() - began < 1.2


@pytest.mark.parametrize("slow_seconds", [0.47, 1.5])
def test_where_a_name_is_looked_up_for_as_long_as_a_call_may_take_none_is_made(
    hosts: TwoHosts, slow_seconds: float
) -> None:
    class SlowResolver(Resolver):
        def __call__(self, host: str, port: int, **options: Any) -> list[tuple[Any, ...]]:
            time.sleep(slow_seconds)
            return super().__call__(host, port, **options)

    began = time.monotonic()
    refused = exchange(hosts, SlowResolver([PUBLIC]), seconds=0.5)

    assert isinstance(refused, NotConnected)
    assert isinstance(refused.cause, TimeoutError)
    assert time.monotonic() - began < 0.9


class SlowReader:
    """Reads what it is sent at BYTES_PER_SECOND, and answers where a request is whole."""

    BYTES_PER_SECOND = 5_000_000

    def __init__(self, tls: ssl.SSLContext | None) -> None:
        self._tls = tls
        self._listener = socket.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
        self._listener.bind(("127.0.0.1", 0))
        self._listener.listen()
        self._thread = threading.Thread(target=self._serve)
        scheme = "https" if tls else "http"
        self.url = f"{scheme}://127.0.0.1:{self._listener.getsockname()[1]}"

    def __enter__(self) -> "SlowReader":
        self._thread.start()
        return self

    def __exit__(self, *raised: object) -> None:
        self._thread.join()
        self._listener.close()

    def _serve(self) -> None:
        with suppress(OSError), ExitStack() as opened:
            sock = opened.enter_context(self._listener.accept()[0])
            sock.settimeout(5)
            if self._tls is not None:
                sock = opened.enter_context(self._tls.wrap_socket(sock, server_side=True))
            received, began = b"", time.monotonic()
            while not received.endswith(b"end"):
                chunk = sock.recv(65536)
                if not chunk:
                    return
                received += chunk
                due = began + len(received) / self.BYTES_PER_SECOND
                time.sleep(max(0.0, due - time.monotonic()))
            sock.sendall(http(204))


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize(
    ("body_bytes", "seconds", "is_answered"), [(8_000_000, 2.4, True), (16_000_000, 1.0, False)]
)
def test_a_body_may_be_sent_for_as_long_as_the_call_may_take_and_no_longer(
    scheme: str, body_bytes: int, seconds: float, is_answered: bool, tmp_path: Any
) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("127.0.0.1").configure_cert(tls)
    with SlowReader(tls if scheme == "https" else None) as reader:
        session = HttpSession(
            reader.url,
            connections_max=2,
            network=NetworkSettings(),
            ca_file=str(tmp_path / "ca.pem"),
        )
        began = time.monotonic()
        try:
            status = session.exchange(
                "POST",
                data=b"x" * body_bytes + b"end",
                headers={},
                left_seconds=seconds,
                body_bytes_max=1000,
            ).status
        except AnswerBroken as broken:
            status = broken.reply.status
        took = time.monotonic() - began
        session.close()

    assert status == (204 if is_answered else 0)
    assert took < seconds + 0.4
