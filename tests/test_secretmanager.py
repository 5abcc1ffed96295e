"""Google Secret Manager: its own client library, talking to a server on loopback that speaks its
protocol."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import grpc  # type: ignore[import-untyped]  # it ships no types
import pytest
from google.cloud.secretmanager import (
    AccessSecretVersionRequest,
    AccessSecretVersionResponse,
    SecretManagerServiceClient,
)
from google.cloud.secretmanager_v1.services.secret_manager_service.transports import (
    SecretManagerServiceGrpcTransport,
)

from function import secretmanager
from function.secretmanager import SecretUnreadable
from sandbox.servicenow import ServiceNow
from tests.payloads import insert
from tests.world import PASSWORD, World, outage

NAME = "projects/p/secrets/s/versions/latest"
Handler = Callable[[AccessSecretVersionRequest, grpc.ServicerContext], AccessSecretVersionResponse]


@contextmanager
def secret_manager(handler: Handler) -> Iterator[SecretManagerServiceClient]:
    """Google's own client, talking to a server on loopback that speaks Secret Manager's
    protocol."""
    method = grpc.unary_unary_rpc_method_handler(
        handler,
        request_deserializer=AccessSecretVersionRequest.deserialize,
        response_serializer=AccessSecretVersionResponse.serialize,
    )
    service = "google.cloud.secretmanager.v1.SecretManagerService"
    with ThreadPoolExecutor(2) as workers:
        server = grpc.server(workers)
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(service, {"AccessSecretVersion": method}),)
        )
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
                yield SecretManagerServiceClient(
                    transport=SecretManagerServiceGrpcTransport(channel=channel)
                )
        finally:
            server.stop(None).wait()


def holding(payload: bytes) -> Handler:
    def answer(
        request: AccessSecretVersionRequest, context: grpc.ServicerContext
    ) -> AccessSecretVersionResponse:
        return AccessSecretVersionResponse(
            name=request.name, payload={"data": payload if request.name == NAME else b"no"}
        )

    return answer


class TestGoogleSecretManager:
    @pytest.mark.parametrize(
        ("payload", "read"),
        [("pässwörd", "pässwörd"), ("pw\n", "pw"), ("pw\r\n", "pw"), (" p w ", " p w ")],
    )
    def test_a_secret_is_read_without_the_line_end_that_echo_leaves(
        self, payload: str, read: str
    ) -> None:
        with secret_manager(holding(payload.encode())) as client:
            assert secretmanager.read_secret(NAME, client=client) == read

    def test_a_secret_that_is_no_text_is_refused(self) -> None:
        with (
            secret_manager(holding(b"\xff\xfe")) as client,
            pytest.raises(SecretUnreadable, match="not UTF-8"),
        ):
            secretmanager.read_secret(NAME, client=client)

    @pytest.mark.parametrize(
        ("code", "said"),
        [
            (grpc.StatusCode.PERMISSION_DENIED, "PermissionDenied"),
            (grpc.StatusCode.NOT_FOUND, "NotFound"),
        ],
    )
    def test_a_refusal_is_said_in_googles_word_without_its_details(
        self, code: grpc.StatusCode, said: str
    ) -> None:
        def refuse(request: AccessSecretVersionRequest, context: grpc.ServicerContext) -> Any:
            context.abort(code, "details about planted-address")

        with secret_manager(refuse) as client, pytest.raises(SecretUnreadable) as caught:
            secretmanager.read_secret(NAME, client=client)

        assert str(caught.value) == said

    def test_a_moment_of_unavailability_is_waited_out(self) -> None:
        tries = itertools.count(1)

        def second_time(
            request: AccessSecretVersionRequest, context: grpc.ServicerContext
        ) -> AccessSecretVersionResponse:
            if next(tries) == 1:
                context.abort(grpc.StatusCode.UNAVAILABLE, "not now")
            return holding(b"pw")(request, context)

        with secret_manager(second_time) as client:
            assert secretmanager.read_secret(NAME, client=client) == "pw"

    def test_a_version_is_asked_for_by_its_name(self) -> None:
        vault = Vault({"projects/p/secrets/s": ["old", "new"]})
        with secret_manager(vault) as client:
            read = [
                secretmanager.read_secret(
                    str(secretmanager.resource(f"secret://projects/p/secrets/s{version}")),
                    client=client,
                )
                for version in ("", "/versions/latest", "/versions/1", "/versions/2")
            ]

        assert read == ["new", "new", "old", "new"]
        assert [name.rpartition("/")[2] for name in vault.asked] == ["latest", "latest", "1", "2"]

    def test_what_is_unavailable_for_long_is_given_up(self) -> None:
        tries = []

        def never(request: AccessSecretVersionRequest, context: grpc.ServicerContext) -> Any:
            tries.append(request.name)
            context.abort(grpc.StatusCode.UNAVAILABLE, "planted details")

        started = time.monotonic()
        with secret_manager(never) as client, pytest.raises(SecretUnreadable) as caught:
            secretmanager.read_secret(NAME, client=client, seconds=1)

        assert time.monotonic() - started < 4
        assert len(tries) > 1
        assert str(caught.value) in {"RetryError", "ServiceUnavailable", "DeadlineExceeded"}

    def test_a_server_that_does_not_answer_is_waited_for_no_longer_than_that(self) -> None:
        over = threading.Event()

        def silent(request: AccessSecretVersionRequest, context: grpc.ServicerContext) -> Any:
            over.wait(10)

        with secret_manager(silent) as client:
            started = time.monotonic()
            with pytest.raises(SecretUnreadable, match=r"DeadlineExceeded|RetryError"):
                secretmanager.read_secret(NAME, client=client, seconds=0.5)
            took_seconds = time.monotonic() - started
            over.set()

        assert took_seconds < 3


class Vault:
    """Secrets with their versions, the last of which is the latest; silent while *answering* is not
    set."""

    def __init__(self, secrets: dict[str, list[str]]) -> None:
        self.secrets = secrets
        self.asked: list[str] = []
        self.answering = threading.Event()
        self.answering.set()

    def __call__(
        self, request: AccessSecretVersionRequest, context: grpc.ServicerContext
    ) -> AccessSecretVersionResponse:
        self.asked.append(request.name)
        self.answering.wait(30)
        secret, _, version = request.name.rpartition("/versions/")
        versions = self.secrets.get(secret, [])
        number = len(versions) if version == "latest" else int(version)
        if not 1 <= number <= len(versions):
            context.abort(
                grpc.StatusCode.NOT_FOUND, f"Secret [{secret}] not found or has no versions."
            )
        value = versions[number - 1].encode()
        return AccessSecretVersionResponse(
            name=f"{secret}/versions/{number}", payload={"data": value}
        )


PASSWORDS = "projects/p/secrets/servicenow"


@contextmanager
def keeping(
    vault: Vault, *, concurrency_max: int = 8, settings: Mapping[str, str] | None = None
) -> Iterator[World]:
    """A world whose function reads what it signs in with (a password, or see *settings*) from
    *vault*."""
    with secret_manager(vault) as client:
        world = World(SERVICENOW_MAX_CONCURRENCY=str(concurrency_max))
        world.read_secret = partial(secretmanager.read_secret, client=client)
        with world:
            world.start(**(settings or {"SERVICENOW_PASSWORD": SECRET}))
            yield world


SECRET = f"secret://{PASSWORDS}"
NOBODY = {"SERVICENOW_USERNAME": "", "SERVICENOW_PASSWORD": ""}
BY_CLIENT = {"SERVICENOW_CLIENT_ID": "sandbox-client", "SERVICENOW_CLIENT_SECRET": SECRET}
OLD, NEW = PASSWORD, f"{PASSWORD}-new"


@dataclass(frozen=True)
class Login:
    """A way to sign in whose secret is in the vault: how ServiceNow is given it, and how often it
    refused one."""

    settings: Mapping[str, str]
    give: Callable[[ServiceNow, str], None]
    refused: Callable[[ServiceNow], int]


def give_password(servicenow: ServiceNow, password: str) -> None:
    servicenow.password = password


def give_client_secret(servicenow: ServiceNow, secret: str) -> None:
    servicenow.oauth.client_secret = secret
    servicenow.oauth.expire()


def give_api_key(servicenow: ServiceNow, key: str) -> None:
    servicenow.api_key = key


def refused_tokens(servicenow: ServiceNow) -> int:
    return [asked.status for asked in servicenow.token_requests].count(401)


LOGINS = {
    "password": Login(
        {"SERVICENOW_PASSWORD": SECRET}, give_password, lambda it: len(it.refused_logins)
    ),
    "client secret": Login(NOBODY | BY_CLIENT, give_client_secret, refused_tokens),
    "API key": Login(
        NOBODY | {"SERVICENOW_API_KEY": SECRET},
        give_api_key,
        lambda it: [c.status for c in it.calls].count(401),
    ),
}


def timed(world: World, number: int) -> float:
    """Seconds until the event of row *number* was answered, with a retry."""
    started = time.monotonic()
    assert world.send(insert("outages", outage(number))).status == 503
    return time.monotonic() - started


class TestTheFunction:
    def test_a_secret_is_read_at_start_and_not_for_each_call(self) -> None:
        vault = Vault({PASSWORDS: [PASSWORD]})
        with keeping(vault) as world:
            answers = [world.send(insert("outages", outage(number))) for number in range(20)]

        assert {answer.status for answer in answers} == {200}
        assert vault.asked == [f"{PASSWORDS}/versions/latest"]

    @pytest.mark.parametrize("login", LOGINS.values(), ids=LOGINS)
    def test_a_rotated_secret_heals_within_one_delivery(self, login: Login) -> None:
        vault = Vault({PASSWORDS: [OLD]})
        with keeping(vault, settings=login.settings) as world:
            login.give(world.servicenow, OLD)
            world.send(insert("outages", outage(1)))
            login.give(world.servicenow, NEW)
            vault.secrets[PASSWORDS].append(NEW)
            answer = world.send(insert("outages", outage(2)))
            later = world.send(insert("outages", outage(3)))

            assert (answer.said, later.said) == ("created", "created")
            assert len(world.incidents) == 3
            assert login.refused(world.servicenow) == 1
            assert len(vault.asked) == 2
            assert world.mails == []

    @pytest.mark.parametrize("login", LOGINS.values(), ids=LOGINS)
    def test_two_hundred_rows_meet_a_rotated_secret_and_none_waits(self, login: Login) -> None:
        vault = Vault({PASSWORDS: [OLD]})
        with keeping(vault, concurrency_max=4, settings=login.settings) as world:
            login.give(world.servicenow, OLD)
            world.send(insert("outages", outage("first")))
            login.give(world.servicenow, NEW)
            vault.secrets[PASSWORDS].append(NEW)
            with ThreadPoolExecutor(16) as pool:
                answers = list(
                    pool.map(
                        lambda number: world.send(insert("outages", outage(number))), range(200)
                    )
                )

            assert {answer.status for answer in answers} == {200}
            assert len(world.incidents) == 201
            assert login.refused(world.servicenow) == 1

    def test_a_password_changed_only_in_servicenow_is_tried_once(self) -> None:
        vault = Vault({PASSWORDS: [PASSWORD]})
        with keeping(vault) as world:
            world.servicenow.password = f"{PASSWORD}-new"
            answers = [world.send(insert("outages", outage(number))) for number in range(5)]

            assert {answer.said for answer in answers} == {"retrying servicenow_unauthorized"}
            assert len(world.servicenow.refused_logins) == 1
            assert len(vault.asked) == 2

    def test_where_secret_manager_hangs_every_event_is_answered_in_time(self) -> None:
        vault = Vault({PASSWORDS: [PASSWORD]})
        short = {
            "SERVICENOW_PASSWORD": SECRET,
            "DEADLINE_SECONDS": "2",
            "SERVICENOW_TIMEOUT_SECONDS": "1",
        }
        with keeping(vault, settings=short) as world:
            world.servicenow.password = f"{PASSWORD}-new"
            vault.answering.clear()
            try:
                with ThreadPoolExecutor(3) as pool:
                    took = list(pool.map(lambda number: timed(world, number), range(3)))
            finally:
                vault.answering.set()

            assert max(took) < 2.5
            assert len(world.servicenow.refused_logins) == 1

    def test_a_secret_that_cannot_be_read_again_is_a_line_in_the_log_and_tried_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        vault = Vault({PASSWORDS: [PASSWORD]})
        with keeping(vault) as world:
            world.servicenow.password = f"{PASSWORD}-new"
            vault.secrets.clear()
            answer = world.send(insert("outages", outage(1)))

            assert answer.said == "retrying servicenow_unauthorized"
            assert len(world.servicenow.refused_logins) == 1
        assert "SERVICENOW_PASSWORD could not be read from" in caplog.text
        assert "NotFound" in caplog.text
