"""OAuth and API keys: what the token endpoint's answers mean (pure), and one token for all threads
(real sockets)."""

import json
import logging
import socket
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from urllib.parse import parse_qsl

import pytest
import trustme
from hypothesis import given
from hypothesis import strategies as st

from function.connection.credentials import CredentialProvider, CredentialUnreadable
from function.connection.guarded import GuardedClient
from function.core.outcome import Failure, Reason, Retryability
from function.deadline import Deadline
from function.ledger.database import Database
from function.ledger.ledger import Ledger
from function.servicenow import (
    ApiKey,
    Basic,
    Credential,
    OAuth,
    Record,
    Reply,
    ServiceNowClient,
    ServiceNowError,
)
from function.servicenow.oauth import PAUSE_SECONDS, TokenResponse, granted
from function.settings import VARIABLES
from sandbox.servicenow import ServiceNow
from tests.answers import Answer, Seen, Server, always, drip, http, reset, result
from tests.payloads import insert
from tests.servicenow.test_client import ID, _tls, said
from tests.world import PASSWORD, Answered, World, outage

URL = "https://dev1.service-now.com"
REFUSED = json.dumps({"error_description": "access_denied", "error": "server_error"})
HIBERNATING = "<html><body>Your instance is hibernating</body></html>"
# Planted, as in tests/world.py: every one of them is looked for in every log line of the run.
CLIENT = OAuth("client-id", f"{PASSWORD}-cliënt-secret")
PERSON = OAuth("client-id", f"{PASSWORD}-cliënt-secret", "svc.häsura", f"{PASSWORD}-日本&=+%")
NOW = 1_780_000_000.0


class TestCredentials:
    def test_a_digest_is_32_hex_digits_that_depend_on_everything_and_on_the_kind(self) -> None:
        credentials: list[Credential] = [
            Basic("a", "b"),
            ApiKey("a"),
            ApiKey("b"),
            OAuth("a", "b"),
            OAuth("a", "x"),
            OAuth("x", "b"),
            OAuth("a", "b", "c"),
            OAuth("a", "b", "c", "d"),
            OAuth("a", "bd", "c", ""),
            OAuth("a", "b", "", "d"),
        ]
        digests = {
            credential.digest(url)
            for credential in credentials
            for url in (URL, "https://dev2.example.com")
        }

        assert len(digests) == 2 * len(credentials)
        assert all(len(digest) == 32 and int(digest, 16) >= 0 for digest in digests)
        assert OAuth("a", "b").digest(URL) == OAuth("a", "b").digest(URL + "/")

    @pytest.mark.parametrize(
        "credential", [OAuth("a", "hunter2", "c", "hunter2"), ApiKey("hunter2")]
    )
    def test_a_repr_hides_the_secrets(self, credential: Credential) -> None:
        assert "hunter2" not in repr(credential)

    def test_hints_name_settings_that_there_are(self) -> None:
        hints = " ".join(
            [CLIENT.refused, PERSON.refused, CLIENT.token_refused, PERSON.token_refused]
        )
        named = {word.strip(",.:") for word in hints.split() if word.startswith("SERVICENOW_")}

        assert named == {variable.name for variable in VARIABLES if variable.name in named}
        assert named >= {"SERVICENOW_CLIENT_ID", "SERVICENOW_CLIENT_SECRET", "SERVICENOW_PASSWORD"}


def reply(
    status: int, body: str | bytes = b"", content_type: str = "application/json", **headers: str
) -> Reply:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return Reply(
        status,
        {"content-type": content_type} | named,
        body if isinstance(body, bytes) else body.encode(),
    )


def grant(**changed: object) -> str:
    token = {
        "access_token": "t",
        "refresh_token": "r",
        "token_type": "Bearer",
        "expires_in": 1799,
        "scope": "x",
    }
    return json.dumps(
        {name: value for name, value in (token | changed).items() if value is not None}
    )


def failure(answer: Reply) -> Failure:
    verdict = granted(answer, "what to check", now=NOW)
    assert isinstance(verdict, Failure), "expected a failure"
    return verdict


class TestAnswers:
    def test_a_token_is_read_with_its_life_and_what_refreshes_it(self) -> None:
        assert granted(reply(200, grant()), "", now=NOW) == TokenResponse("t", "Bearer", 1799, "r")

    def test_a_token_without_the_rest_lives_as_long_as_servicenow_lets_it_by_default(self) -> None:
        answer = reply(200, grant(refresh_token=None, token_type=None, expires_in=None))

        assert granted(answer, "", now=NOW) == TokenResponse("t", "Bearer", 1800, "")

    @pytest.mark.parametrize(
        "body",
        [
            grant(access_token=None),
            grant(access_token=""),
            grant(access_token="a b"),
            grant(access_token="a\r\nX: y"),
            grant(access_token={"a": 1}),
            grant(access_token="x" * 8001),
            grant(token_type="mac"),
            grant(expires_in="soon"),
            grant()[:-1],
            "[]",
            "",
            json.dumps({"error": "x"}),
        ],
    )
    def test_what_is_no_token_is_a_bad_answer(self, body: str) -> None:
        found = failure(reply(200, body))

        assert (found.retryability, found.reason, found.status) == (
            Retryability.TRANSIENT,
            Reason.BAD_ANSWER,
            200,
        )

    @pytest.mark.parametrize(
        ("answer", "words"),
        [
            (reply(401, REFUSED), "access_denied: server_error"),
            (reply(401, "<html>", "text/html"), ""),
            (reply(401, ""), ""),
            (reply(400, '{"error":"invalid_grant"}'), "invalid_grant"),
            (
                reply(
                    403, '{"error":"invalid_client","error_description":"client_secret=hunter2"}'
                ),
                "invalid_client",
            ),
        ],
    )
    def test_a_refusal_is_a_refused_credential_in_servicenows_codes(
        self, answer: Reply, words: str
    ) -> None:
        found = failure(answer)

        assert (found.retryability, found.reason) == (Retryability.TRANSIENT, Reason.UNAUTHORIZED)
        assert (found.hint, found.remote_message, found.status) == (
            "what to check",
            words,
            answer.status,
        )

    @pytest.mark.parametrize(
        ("answer", "reason"),
        [
            (reply(200, HIBERNATING, "text/html"), Reason.HIBERNATING),
            (reply(302, location="https://developer.servicenow.com/dev.do"), Reason.HIBERNATING),
            (reply(302, location="/login.do"), Reason.NOT_SERVICENOW),
            (reply(200, "<title>Log in</title>", "text/html"), Reason.NOT_SERVICENOW),
            (reply(404, "<html>", "text/html"), Reason.NOT_SERVICENOW),
            (reply(404, said("No Record found")), Reason.NOT_SERVICENOW),
            (reply(405, said("Method not supported")), Reason.NOT_SERVICENOW),
            (reply(403, said("User Not Authorized")), Reason.NOT_SERVICENOW),
            (reply(202), Reason.OVERLOADED),
            (reply(429), Reason.OVERLOADED),
            (reply(429, retry_after="30"), Reason.RATE_LIMITED),
            (reply(408), Reason.TIMEOUT),
            (reply(502, "snow_adc"), Reason.UNAVAILABLE),
            (reply(503, said("hunter2")), Reason.UNAVAILABLE),
        ],
    )
    def test_any_other_answer_means_what_it_means_of_the_table_api(
        self, answer: Reply, reason: Reason
    ) -> None:
        found = failure(answer)

        assert (found.retryability, found.reason, found.status) == (
            Retryability.TRANSIENT,
            reason,
            answer.status,
        )
        assert found.hint
        assert found.remote_message == ""

    @given(
        st.integers(100, 700),
        st.sampled_from(["application/json", "text/html", ""]),
        st.binary()
        | st.dictionaries(
            st.sampled_from(
                ["access_token", "token_type", "expires_in", "refresh_token", "error", "result"]
            ),
            st.recursive(st.none() | st.floats() | st.integers() | st.text(), st.lists),
        ).map(lambda value: json.dumps(value).encode()),
    )
    def test_no_answer_is_too_strange(self, status: int, content_type: str, body: bytes) -> None:
        verdict = granted(reply(status, body, content_type), "hint", now=NOW)

        assert isinstance(verdict, TokenResponse) or (
            verdict.retryability is Retryability.TRANSIENT and verdict.hint
        )


# --- On real sockets
# --------------------------------------------------------------------------------------------------


class Instance:
    """A small ServiceNow: a token endpoint, and a Table API that takes the tokens which
    that gave."""

    def __init__(self, credential: OAuth = CLIENT) -> None:
        self.credential = credential
        self.asked: list[dict[str, str]] = []  # the forms that came
        self.calls: list[Seen] = []  # what came for the Table API
        self.life_seconds = 1799.0
        self.delay_seconds = 0.0
        self.grants_again = (
            True  # a new token each time; ServiceNow itself repeats the one that lives
        )
        self.endpoint: Answer | None = None  # answers in the token endpoint's place
        self.good: set[str] = set()
        self.refresh: set[str] = set()
        self.refused = 0
        self._lock = threading.Lock()
        self._given_at = 0.0
        self._given = ""

    @property
    def grants(self) -> list[str]:
        return [form["grant_type"] for form in self.asked]

    def __call__(self, sock: socket.socket, seen: Seen) -> bool:
        if seen.target != "/oauth_token.do":
            with self._lock:
                self.calls.append(seen)
                good = seen.headers.get("authorization", "").removeprefix("Bearer ") in self.good
                self.refused += not good
            sock.sendall(
                _FOUND[seen.method] if good else http(401, said("User is not authenticated"))
            )
            return True
        with self._lock:
            self.asked.append(
                dict(parse_qsl(seen.body.decode(), keep_blank_values=True, strict_parsing=True))
            )
        time.sleep(self.delay_seconds)
        if self.endpoint is not None:
            return self.endpoint(sock, seen)
        with self._lock:
            answer = self._grant(self.asked[-1])
        sock.sendall(answer)
        return True

    def _grant(self, form: dict[str, str]) -> bytes:
        ours = self.credential
        expected = {"client_id": ours.client_id, "client_secret": ours.client_secret}
        if form["grant_type"] == "refresh_token":
            expected |= {
                "grant_type": "refresh_token",
                "refresh_token": form.get("refresh_token", ""),
            }
            if form.get("refresh_token") not in self.refresh:
                return http(401, REFUSED)
        elif ours.username:
            expected |= {
                "grant_type": "password",
                "username": ours.username,
                "password": ours.password,
            }
        else:
            expected |= {"grant_type": "client_credentials"}
        if form != expected:
            return http(401, REFUSED)
        left_seconds = self._given_at + self.life_seconds - time.monotonic()
        if self.grants_again or left_seconds <= 0:
            self._given_at, left_seconds = time.monotonic(), self.life_seconds
            self._given = f"{PASSWORD}-token-{len(self.asked)}"
            self.good.add(self._given)
        token = {"access_token": self._given, "token_type": "Bearer", "expires_in": left_seconds}
        if ours.username:
            self.refresh.add(f"{PASSWORD}-refresh-{len(self.asked)}")
            token["refresh_token"] = f"{PASSWORD}-refresh-{len(self.asked)}"
        return http(200, json.dumps(token))


_FOUND = {
    "GET": result({"sys_id": ID, "number": "INC0010001"}),
    "POST": result({"sys_id": ID, "number": "INC0010001"}, 201),
}


def telling(answer: Callable[[Seen], bytes]) -> Answer:
    def send(sock: socket.socket, seen: Seen) -> bool:
        sock.sendall(answer(seen))
        return True

    return send


def breaking_off(sock: socket.socket, seen: Seen) -> bool:
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n{")
    return False


def resetting(sock: socket.socket, seen: Seen) -> bool:
    reset(sock)
    return False


@contextmanager
def calling(
    instance: Answer,
    credential: Credential | Callable[[], Credential] = CLIENT,
    *,
    timeout_seconds: float = 30,
    concurrency_max: int = 4,
) -> Iterator[ServiceNowClient]:
    with Server(instance) as server:
        # As the function has it, whose line holds a refused credential back.
        client = ServiceNowClient(
            server.url,
            credential,
            timeout_seconds=timeout_seconds,
            concurrency_max=concurrency_max,
            auth_pause_seconds=0.0,
        )
        try:
            yield client
        finally:
            client.close()


def get(client: ServiceNowClient, timeout_seconds: float = 60) -> Record:
    return client.get("incident", ID, fields=["number"], timeout_seconds=timeout_seconds)


def create(client: ServiceNowClient, timeout_seconds: float = 60) -> Record:
    return client.create(
        "incident", {"sys_id": ID}, fields=["number"], timeout_seconds=timeout_seconds
    )


def fails(
    client: ServiceNowClient,
    call: Callable[[ServiceNowClient, float], Record] = create,
    timeout_seconds: float = 60,
) -> Failure:
    with pytest.raises(ServiceNowError) as raised:
        call(client, timeout_seconds)
    return raised.value.failure


def all_at_once(number: int, call: Callable[[], object]) -> list[object]:
    """What each of *number* threads, started together, got or failed with."""
    together = threading.Barrier(number)

    def work(_: int) -> object:
        together.wait(60)
        try:
            return call()
        except ServiceNowError as error:
            return error.failure

    with ThreadPoolExecutor(number) as pool:
        return list(pool.map(work, range(number)))


class TestGrants:
    def test_client_credentials_are_exchanged_for_a_token_that_later_calls_share(self) -> None:
        instance = Instance()
        with calling(instance) as client:
            get(client)
            create(client)

        assert instance.asked == [
            {
                "grant_type": "client_credentials",
                "client_id": "client-id",
                "client_secret": CLIENT.client_secret,
            }
        ]
        assert [call.headers["authorization"] for call in instance.calls] == [
            f"Bearer {PASSWORD}-token-1"
        ] * 2

    def test_with_a_user_it_is_the_password_grant(self) -> None:
        instance = Instance(PERSON)
        with calling(instance, PERSON) as client:
            get(client)

        assert instance.asked[0] == {
            "grant_type": "password",
            "client_id": "client-id",
            "client_secret": PERSON.client_secret,
            "username": "svc.häsura",
            "password": PERSON.password,
        }

    def test_a_token_is_asked_for_with_a_form_and_without_cookies(self) -> None:
        instance = Instance()
        instance.good = {"t"}
        instance.endpoint = always(
            http(200, grant(expires_in=0), Set_Cookie="JSESSIONID=abc; Path=/")
        )
        with Server(instance) as server:
            client = ServiceNowClient(server.url, CLIENT)
            get(client)
            get(client)
            client.close()
            [form, *_] = posts = [seen for seen in server.seen if seen.method == "POST"]

        assert len(posts) == 2
        assert form.headers["content-type"] == "application/x-www-form-urlencoded"
        assert form.headers["accept"] == "application/json"
        assert not [seen for seen in server.seen if "cookie" in seen.headers]
        assert "authorization" not in form.headers

    def test_an_expired_token_is_refreshed_without_the_password(self) -> None:
        instance = Instance(PERSON)
        instance.life_seconds = 0.1
        with calling(instance, PERSON) as client:
            get(client)
            time.sleep(0.15)
            instance.life_seconds = 1799
            get(client)

        assert instance.grants == ["password", "refresh_token"]
        assert instance.asked[1] == {
            "grant_type": "refresh_token",
            "refresh_token": f"{PASSWORD}-refresh-1",
            "client_id": "client-id",
            "client_secret": PERSON.client_secret,
        }

    def test_a_refused_refresh_is_followed_by_the_whole_grant(self) -> None:
        instance = Instance(PERSON)
        instance.life_seconds = 0.1
        with calling(instance, PERSON) as client:
            get(client)
            time.sleep(0.15)
            instance.refresh.clear()
            get(client)

        assert instance.grants == ["password", "refresh_token", "password"]

    def test_a_refresh_token_is_kept_where_none_comes_with_the_next_token(self) -> None:
        instance = Instance(PERSON)
        instance.life_seconds = 0.1
        with calling(instance, PERSON) as client:
            get(client)
            time.sleep(0.15)
            instance.endpoint = always(http(200, grant(refresh_token=None, expires_in=0)))
            instance.good.add("t")
            get(client)
            get(client)

        assert [form.get("refresh_token") for form in instance.asked] == [
            None,
            *[f"{PASSWORD}-refresh-1"] * 2,
        ]

    def test_without_a_refresh_token_it_is_asked_for_anew(self) -> None:
        instance = Instance()
        instance.life_seconds = 0.1
        with calling(instance) as client:
            get(client)
            time.sleep(0.15)
            get(client)

        assert instance.grants == ["client_credentials"] * 2

    def test_another_credential_gets_a_token_of_its_own(self) -> None:
        instance = Instance()
        current = [OAuth("client-id", f"{PASSWORD}-wrong")]
        with calling(instance, lambda: current[0]) as client:
            refused = fails(client)
            current[0] = CLIENT
            get(client)

        assert refused.reason is Reason.UNAUTHORIZED
        assert len(instance.asked) == 2

    def test_over_tls_the_same_certificates_are_trusted(self, tmp_path: Path) -> None:
        authority = trustme.CA()
        authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
        instance = Instance()
        with Server(instance, _tls(authority)) as server:
            trusting = ServiceNowClient(server.url, CLIENT, ca_file=str(tmp_path / "ca.pem"))
            get(trusting)
            trusting.close()
            other = ServiceNowClient(server.url, CLIENT)
            refused = fails(other)
            other.close()

        assert (refused.retryability, refused.reason) == (
            Retryability.TRANSIENT,
            Reason.UNREACHABLE,
        )
        assert len(instance.asked) == 1


class TestOneForAll:
    def test_a_thousand_calls_with_an_expired_token_make_one_token_request(self) -> None:
        instance = Instance(PERSON)
        instance.life_seconds = 0.1
        with calling(instance, PERSON, timeout_seconds=60, concurrency_max=50) as client:
            get(client)
            time.sleep(0.15)
            instance.life_seconds, instance.delay_seconds = 1799, 0.5
            answers = all_at_once(1000, lambda: get(client))

        assert [answer for answer in answers if isinstance(answer, Failure)] == []
        assert instance.grants == ["password", "refresh_token"]
        assert (len(instance.calls), instance.refused) == (1001, 0)

    def test_a_thousand_calls_with_a_token_that_servicenow_forgot_make_one_token_request(
        self,
    ) -> None:
        instance = Instance()
        with calling(instance, timeout_seconds=60, concurrency_max=50) as client:
            get(client)
            instance.good.clear()
            instance.delay_seconds = 0.5
            answers = all_at_once(1000, lambda: get(client))

        assert [answer for answer in answers if isinstance(answer, Failure)] == []
        assert len(instance.asked) == 2
        assert 1 <= instance.refused <= 50

    def test_a_thousand_calls_share_one_refusal(self) -> None:
        instance = Instance()
        instance.delay_seconds = 0.5
        with calling(
            instance,
            OAuth("client-id", f"{PASSWORD}-wrong"),
            timeout_seconds=60,
            concurrency_max=1000,
        ) as it:
            answers = all_at_once(1000, lambda: get(it))

        assert {answer.reason for answer in answers if isinstance(answer, Failure)} == {
            Reason.UNAUTHORIZED
        }
        assert (len(answers), len(instance.asked), instance.calls) == (1000, 1, [])

    def test_calls_that_come_one_by_one_after_a_refusal_share_it_for_a_moment(self) -> None:
        instance = Instance()
        with calling(instance, OAuth("client-id", f"{PASSWORD}-wrong")) as client:
            started = time.monotonic()
            for _ in range(50):
                fails(client, get)
            took_seconds = time.monotonic() - started
            by_then = len(instance.asked)
            time.sleep(PAUSE_SECONDS)
            fails(client, get)

        assert by_then <= 1 + took_seconds / PAUSE_SECONDS
        assert len(instance.asked) == by_then + 1

    def test_a_token_is_fetched_before_it_expires_while_other_calls_go_on_with_it(self) -> None:
        instance = Instance()
        instance.life_seconds = 4
        with calling(instance, concurrency_max=8) as client:
            get(client)
            time.sleep(2.1)
            instance.delay_seconds = 1
            with ThreadPoolExecutor(1) as pool:
                renewing = pool.submit(get, client)
                time.sleep(0.2)
                started = time.monotonic()
                get(client)
                took_seconds = time.monotonic() - started
                renewing.result()

        assert took_seconds < 0.7
        assert [call.headers["authorization"][-1] for call in instance.calls] == ["1", "1", "2"]
        assert instance.refused == 0

    def test_while_the_endpoint_is_down_a_token_is_used_until_it_expires(self) -> None:
        instance = Instance()
        instance.life_seconds = 3
        with calling(instance) as client:
            get(client)
            time.sleep(1.6)
            instance.endpoint = always(http(503))
            for _ in range(20):
                get(client)
            asked = len(instance.asked)
            time.sleep(1.6)
            found = fails(client)

        assert asked == 2
        assert (found.retryability, found.reason) == (Retryability.TRANSIENT, Reason.UNAVAILABLE)

    def test_a_refused_early_fetch_is_not_tried_again_by_each_call_until_the_token_expires(
        self,
    ) -> None:
        instance = Instance(PERSON)
        instance.life_seconds = 3
        with calling(instance, PERSON) as client:
            get(client)
            time.sleep(1.6)
            instance.credential = OAuth("client-id", f"{PASSWORD}-changed")
            for _ in range(20):
                assert fails(client).reason is Reason.UNAUTHORIZED

        assert instance.grants == ["password", "refresh_token", "password"]

    def test_a_token_that_servicenow_repeats_while_it_lives_costs_few_requests(self) -> None:
        instance = Instance()
        instance.grants_again = False
        instance.life_seconds = 1.5
        with calling(instance) as client:
            until = time.monotonic() + 1.4
            while time.monotonic() < until:
                get(client)

        assert len(instance.calls) > 20
        assert len(instance.asked) < 12

    def test_a_token_without_any_life_serves_those_who_waited_for_it(self) -> None:
        instance = Instance()
        instance.life_seconds, instance.delay_seconds = 0, 0.3
        with calling(instance, concurrency_max=20) as client:
            answers = all_at_once(20, lambda: get(client))

        assert [answer for answer in answers if isinstance(answer, Failure)] == []
        assert len(instance.asked) < 10


class TestRefusedTokens:
    @pytest.mark.parametrize("call", [get, create])
    def test_a_token_that_expired_on_its_way_is_replaced_and_the_call_sent_again(
        self, call: Callable[[ServiceNowClient, float], Record]
    ) -> None:
        instance = Instance()
        with calling(instance) as client:
            get(client)
            instance.good.clear()
            record = call(client, 30)

        assert record["number"] == "INC0010001"
        assert (len(instance.asked), instance.refused) == (2, 1)

    def test_a_second_401_is_the_answer(self) -> None:
        instance = Instance()
        with calling(instance) as client:
            get(client)
            refusing = _refusing(instance)
            found = fails(client)

        assert refusing == [f"Bearer {PASSWORD}-token-1", f"Bearer {PASSWORD}-token-2"]
        assert (found.retryability, found.reason, found.status) == (
            Retryability.TRANSIENT,
            Reason.UNAUTHORIZED,
            401,
        )
        assert found.hint == CLIENT.token_refused

    def test_where_servicenow_repeats_the_token_the_call_is_not_repeated(self) -> None:
        instance = Instance()
        instance.grants_again = False
        with calling(instance) as client:
            get(client)
            refusing = _refusing(instance)
            found = fails(client)

        assert (len(refusing), len(instance.asked)) == (1, 2)
        assert (found.reason, found.hint) == (Reason.UNAUTHORIZED, CLIENT.token_refused)

    def test_a_crowd_whose_every_token_is_refused_makes_no_storm_of_token_requests(self) -> None:
        instance = Instance()
        with calling(instance, concurrency_max=8) as client:
            get(client)
            _refusing(instance)
            started = time.monotonic()
            answers = all_at_once(200, lambda: get(client))
            took_seconds = time.monotonic() - started

        assert {answer.reason for answer in answers if isinstance(answer, Failure)} == {
            Reason.UNAUTHORIZED
        }
        assert len(answers) == 200
        assert len(instance.asked) <= 2 + 2 * took_seconds / PAUSE_SECONDS

    def test_a_newer_token_is_not_dropped_by_who_still_held_the_older(self) -> None:
        """Its 401 comes late, when others have long gone on with the next token."""
        instance = Instance()
        late = threading.Event()
        held = threading.Event()

        def answer(sock: socket.socket, seen: Seen) -> bool:
            if seen.method == "GET" and not held.is_set():
                held.set()
                late.wait(10)
                sock.sendall(http(401))
                return True
            return instance(sock, seen)

        with calling(answer) as client, ThreadPoolExecutor(1) as pool:
            slow = pool.submit(get, client)
            held.wait(10)
            instance.good.clear()
            create(client)
            late.set()
            slow.result(30)

        assert len(instance.asked) == 2

    @pytest.mark.parametrize("mfa", [True, False])
    def test_what_to_check_of_an_api_key_is_said(self, *, mfa: bool) -> None:
        refusal = http(401, said("User is not authenticated"), X_MFA="invalid" if mfa else "valid")
        refusal = refusal.replace(b"X-MFA:", b"X-MFA_TOKEN:")
        seen_keys = []

        def answer(sock: socket.socket, seen: Seen) -> bool:
            seen_keys.append((seen.headers.get("x-sn-apikey"), seen.headers.get("authorization")))
            sock.sendall(refusal)
            return True

        with calling(answer, ApiKey(f"{PASSWORD}-key")) as client:
            found = fails(client)

        assert seen_keys == [(f"{PASSWORD}-key", None)]
        assert found.reason is Reason.UNAUTHORIZED
        assert ("Multi-factor" if mfa else "SERVICENOW_API_KEY") in found.hint


def _refusing(instance: Instance) -> list[str]:
    """From now on no token is good; gives those that come, as they come."""

    class NoChange(set[str]):
        def __contains__(self, token: object) -> bool:
            came.append(f"Bearer {token}")
            return False

    came: list[str] = []
    instance.good = NoChange()
    return came


class TestTheEndpointUnwell:
    @pytest.mark.parametrize(
        ("endpoint", "reason"),
        [
            (always(http(200, HIBERNATING, "text/html")), Reason.HIBERNATING),
            (always(http(503)), Reason.UNAVAILABLE),
            (always(http(429, Retry_After="30")), Reason.RATE_LIMITED),
            (always(http(404, "<html>", "text/html")), Reason.NOT_SERVICENOW),
            (always(http(200, "x" * (17 * 1024 * 1024))), Reason.BAD_ANSWER),
            (breaking_off, Reason.BAD_ANSWER),
            (resetting, Reason.UNREACHABLE),
            (lambda sock, seen: False, Reason.UNREACHABLE),
        ],
        ids=["hibernating", "503", "429", "404", "too large", "cut off", "reset", "closed"],
    )
    def test_a_create_without_a_token_was_not_sent(self, endpoint: Answer, reason: Reason) -> None:
        instance = Instance()
        instance.endpoint = endpoint
        with calling(instance) as client:
            found = fails(client)

        assert (found.retryability, found.reason) == (Retryability.TRANSIENT, reason)
        assert instance.calls == []

    def test_a_server_that_is_not_there_is_unreachable(self) -> None:
        client = ServiceNowClient("http://127.0.0.1:1", CLIENT)
        found = fails(client)
        client.close()

        assert (found.retryability, found.reason) == (Retryability.TRANSIENT, Reason.UNREACHABLE)

    def test_secrets_do_not_follow_a_redirect(self) -> None:
        elsewhere = Instance()
        instance = Instance()
        with Server(elsewhere) as other, calling(instance) as client:
            instance.endpoint = always(http(307, Location=other.url + "/oauth_token.do"))
            found = fails(client)

            assert (found.retryability, found.reason, found.status) == (
                Retryability.TRANSIENT,
                Reason.NOT_SERVICENOW,
                307,
            )
            assert other.seen == []

    @pytest.mark.parametrize("drips", [True, False], ids=["a byte at a time", "silent"])
    def test_a_slow_endpoint_keeps_the_calls_deadline(self, *, drips: bool) -> None:
        instance = Instance()
        with Server(instance) as server:

            def slow(sock: socket.socket, seen: Seen) -> bool:
                if drips:
                    drip(sock, http(200, grant() + " " * 1000), server)
                else:
                    server.stopping.wait(10)
                return False

            instance.endpoint = slow
            client = ServiceNowClient(server.url, CLIENT, timeout_seconds=30)
            started = time.monotonic()
            found = fails(client, timeout_seconds=0.6)
            took_seconds = time.monotonic() - started
            client.close()

        assert (found.retryability, found.reason) == (Retryability.TRANSIENT, Reason.TIMEOUT)
        assert "no token in time" in found.hint
        assert 0.5 < took_seconds < 1.2

    def test_who_had_little_time_left_does_not_fail_those_who_have_more(self) -> None:
        instance = Instance()
        instance.delay_seconds = 0.8
        with calling(instance) as client, ThreadPoolExecutor(2) as pool:
            hurried = pool.submit(fails, client, get, 0.4)
            time.sleep(0.1)
            patient = pool.submit(get, client)

            assert hurried.result().reason is Reason.TIMEOUT
            assert patient.result()["number"] == "INC0010001"

    def test_who_waits_for_anothers_request_keeps_its_own_deadline(self) -> None:
        instance = Instance()
        instance.delay_seconds = 1.5
        with calling(instance) as client, ThreadPoolExecutor(2) as pool:
            patient = pool.submit(get, client)
            time.sleep(0.2)
            started = time.monotonic()
            hurried = fails(client, get, 0.4)
            took_seconds = time.monotonic() - started
            patient.result()

        assert (hurried.retryability, hurried.reason) == (Retryability.TRANSIENT, Reason.TIMEOUT)
        assert took_seconds < 0.9
        assert len(instance.asked) == 1


class TestSecrecy:
    @pytest.mark.parametrize("credential", [CLIENT, PERSON])
    @pytest.mark.parametrize(
        "endpoint",
        [
            None,
            always(http(401, REFUSED)),
            telling(lambda seen: http(401, json.dumps({"error": seen.body.decode()}))),
            telling(lambda seen: http(400, json.dumps({"error_description": seen.body.decode()}))),
            telling(lambda seen: http(500, said(seen.body.decode()))),
            telling(lambda seen: http(200, seen.body)),
            telling(lambda seen: http(302, Location=f"/?{seen.body.decode()}")),
            telling(lambda seen: b"HTTP/1.1 200 OK\r\n" + seen.body + b"\r\n\r\n"),
            always(http(200, grant(access_token=f"{PASSWORD} {PASSWORD}"))),
        ],
        ids=[
            "good",
            "refused",
            "echo 401",
            "echo 400",
            "echo 500",
            "echo 200",
            "redirect",
            "bad headers",
            "bad token",
        ],
    )
    def test_no_log_line_and_no_error_holds_a_secret(
        self, endpoint: Answer | None, credential: OAuth, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        instance = Instance(credential)
        instance.endpoint = endpoint
        texts = [repr(credential)]
        with calling(instance, credential) as client:
            for revoked in (False, True):
                if revoked:
                    instance.good.clear()
                try:
                    create(client)
                except ServiceNowError as error:
                    # With those that it drags along.
                    texts += [*traceback.format_exception(error), str(error.failure)]
        texts += [record.getMessage() + str(record.__dict__) for record in caplog.records]

        assert len(caplog.records) >= 2
        assert not [text for text in texts if PASSWORD in text]

    def test_a_token_request_is_a_line_in_the_log_that_names_the_grant(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.INFO)
        instance = Instance(PERSON)
        with calling(instance, PERSON) as client:
            get(client)

        [token, call] = [
            record.getMessage() for record in caplog.records if record.name == "function.servicenow"
        ]
        assert token.startswith("ServiceNow token by password: HTTP 200 in ")
        assert call.startswith("ServiceNow GET incident: HTTP 200 in ")


# --- Against the sandbox
# ----------------------------------------------------------------------------------------------


class TestTheSandbox:
    @pytest.mark.parametrize("username", ["", "svc.hasura"], ids=["client credentials", "password"])
    def test_a_thousand_calls_with_an_expired_token_make_one_token_request(
        self, username: str
    ) -> None:
        with ServiceNow(password=PASSWORD, client_secret=CLIENT.client_secret) as instance:
            row = instance.tables.insert("incident", {"short_description": "Slow"}, by="admin")
            credential = OAuth(
                instance.oauth.client_id, CLIENT.client_secret, username, username and PASSWORD
            )
            with ServiceNowClient(
                instance.url, credential, timeout_seconds=60, concurrency_max=50
            ) as client:

                def call() -> Record:
                    return client.get(
                        "incident", row["sys_id"], fields=["number"], timeout_seconds=60
                    )

                call()
                instance.oauth.expire()
                before = len(instance.token_requests)
                answers = all_at_once(1000, call)
                asked = instance.token_requests[before:]

        assert answers == [{"sys_id": row["sys_id"], "number": row["number"]}] * 1000
        assert [(one.grant, one.status) for one in asked] == [
            ("refresh_token" if username else "client_credentials", 200)
        ]
        assert instance.refused_logins == []


class TestTheFunction:
    def test_a_crowd_of_events_makes_one_token_request_each_time_the_token_expires_and_none_waits(
        self,
    ) -> None:
        with World(
            SERVICENOW_USERNAME="",
            SERVICENOW_PASSWORD="",
            SERVICENOW_CLIENT_ID="sandbox-client",
            SERVICENOW_CLIENT_SECRET="sandbox-client-secret",
        ) as world:
            world.send(insert("outages", outage("before")))

            def deliver(number: int) -> Answered:
                if number in {0, 100}:  # before all of them, and while others are under way
                    world.servicenow.oauth.expire()
                return world.send(insert("outages", outage(number)))

            with ThreadPoolExecutor(40) as pool:
                answers = list(pool.map(deliver, range(200)))

            assert {(answer.status, answer.said) for answer in answers} == {(200, "created")}
            assert [asked.status for asked in world.servicenow.token_requests] == [200, 200, 200]
            assert len(world.incidents) == 201
            assert world.mails == []


# --- Behind the line
# --------------------------------------------------------------------------------------------------


class Kept:
    """Where the credential is kept: what it says may change, and how often it was read."""

    def __init__(self, credential: Credential) -> None:
        self.credential: Credential | None = credential
        self.reads = 0

    def __call__(self) -> Credential:
        self.reads += 1
        if self.credential is None:
            raise CredentialUnreadable("SERVICENOW_CLIENT_SECRET could not be read")
        return self.credential


@contextmanager
def lined(instance: Answer, known: Credential, kept: Kept, folder: Path) -> Iterator[GuardedClient]:
    database = Database(f"sqlite:///{folder / 'ledger.db'}")
    with Server(instance) as server:
        credentials = CredentialProvider(known, kept, server.url)
        client = ServiceNowClient(server.url, credentials.current, concurrency_max=8)
        try:
            yield GuardedClient(
                client, Ledger(database), credentials, auth_hold_seconds=600, concurrency_max=8
            )
        finally:
            client.close()
            database.close()


def through(line: GuardedClient) -> Record:
    return line.get("incident", ID, fields=["number"], deadline=Deadline.after(30))


def refused(line: GuardedClient) -> Failure:
    with pytest.raises(ServiceNowError) as raised:
        through(line)
    return raised.value.failure


class TestLine:
    def test_a_wrong_client_secret_is_tried_once_and_then_held(self, tmp_path: Path) -> None:
        instance, wrong = Instance(), OAuth("client-id", f"{PASSWORD}-wrong")
        with lined(instance, wrong, Kept(wrong), tmp_path) as line:
            first = refused(line)
            time.sleep(PAUSE_SECONDS)
            others = all_at_once(30, lambda: through(line))

        assert (first.reason, first.hint, first.remote_message) == (
            Reason.UNAUTHORIZED,
            wrong.refused,
            "access_denied: server_error",
        )
        assert {other.reason for other in others if isinstance(other, Failure)} == {
            Reason.UNAUTHORIZED
        }
        assert (len(others), len(instance.asked), instance.calls) == (30, 1, [])

    def test_a_rotated_client_secret_heals_within_the_call(self, tmp_path: Path) -> None:
        instance, old = Instance(), OAuth("client-id", f"{PASSWORD}-old")
        kept = Kept(CLIENT)
        with lined(instance, old, kept, tmp_path) as line:
            record = through(line)
            through(line)

        assert record["number"] == "INC0010001"
        assert (len(instance.asked), kept.reads) == (2, 1)

    def test_while_the_token_lives_a_rotated_secret_is_not_asked_for(self, tmp_path: Path) -> None:
        instance, kept = Instance(), Kept(CLIENT)
        with lined(instance, CLIENT, kept, tmp_path) as line:
            for _ in range(5):
                through(line)

        assert (len(instance.asked), kept.reads) == (1, 0)

    def test_a_credential_may_change_its_kind(self, tmp_path: Path) -> None:
        instance, kept = Instance(), Kept(CLIENT)
        with lined(instance, ApiKey(f"{PASSWORD}-key"), kept, tmp_path) as line:
            through(line)

        assert [
            ("x-sn-apikey" in call.headers, "authorization" in call.headers)
            for call in instance.calls
        ] == [
            (True, False),
            (False, True),
        ]

    @pytest.mark.parametrize("readable", [True, False])
    def test_an_api_key_that_is_still_the_same_is_not_tried_again(
        self, tmp_path: Path, *, readable: bool
    ) -> None:
        instance, key = Instance(), ApiKey(f"{PASSWORD}-key")
        kept = Kept(key)
        if not readable:
            kept.credential = None
        with lined(instance, key, kept, tmp_path) as line:
            found = refused(line)
            held = refused(line)

        assert "SERVICENOW_API_KEY" in found.hint
        assert "SERVICENOW_API_KEY" in held.hint
        assert (len(instance.calls), kept.reads) == (1, 1)

    def test_of_a_crowd_that_is_refused_one_reads_the_secret_again(self) -> None:
        reading = threading.Event()

        def slowly() -> Credential:
            reading.set()
            time.sleep(0.3)
            return kept()

        kept = Kept(CLIENT)
        credentials = CredentialProvider(ApiKey("old"), slowly, URL)
        with ThreadPoolExecutor(20) as pool:
            first = pool.submit(credentials.refresh)
            reading.wait(10)
            others = [pool.submit(credentials.refresh) for _ in range(19)]

            assert first.result()
            assert all(other.result() for other in others)
        assert kept.reads == 1

    def test_a_hibernating_token_endpoint_holds_calls_as_a_hibernating_instance_does(
        self, tmp_path: Path
    ) -> None:
        instance = Instance()
        instance.endpoint = always(http(200, HIBERNATING, "text/html"))
        with lined(instance, CLIENT, Kept(CLIENT), tmp_path) as line:
            first = refused(line)
            time.sleep(PAUSE_SECONDS)
            second = refused(line)

        assert (first.reason, second.reason) == (Reason.HIBERNATING, Reason.HIBERNATING)
        assert len(instance.asked) == 1
