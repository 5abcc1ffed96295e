"""How one logs in, what one may do then, and how often."""

import base64
import hashlib
import hmac
import json
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import requests

from sandbox.oauth import JWT_BEARER
from sandbox.servicenow import ServiceNow
from tests.sandbox.client import HEX, Api, Time, error

UNAUTHENTICATED = (401, "User is not authenticated", "Required to provide Auth information")
ACL = "ACL Exception {} Failed due to security constraints"


@contextmanager
def running(clock: Time, **options: Any) -> Iterator[Api]:
    """A client of an instance that an administrator has set up in another way."""
    with ServiceNow(clock=clock, **options) as instance:
        api = Api(instance)
        with api.session:
            yield api


def token(instance: ServiceNow, grant: str, **more: str) -> requests.Response:
    client = {"client_id": instance.oauth.client_id, "client_secret": instance.oauth.client_secret}
    form = {"grant_type": grant, **client, **more}
    return requests.post(f"{instance.url}/oauth_token.do", data=form, timeout=5)


def by_password(instance: ServiceNow, password: str | None = None) -> requests.Response:
    return token(
        instance, "password", username=instance.username, password=password or instance.password
    )


def with_token(instance: ServiceNow, bearer: str) -> requests.Response:
    headers = {"Authorization": f"Bearer {bearer}", "Accept": "application/json"}
    return requests.get(f"{instance.url}/api/now/table/incident", headers=headers, timeout=5)


def jwt(instance: ServiceNow, now: float, *, secret: str | None = None, **claims: object) -> str:
    told = {
        "iss": instance.oauth.client_id,
        "sub": instance.username,
        "aud": "x",
        "iat": now,
        "exp": now + 60,
    }
    parts = [{"alg": "HS256", "typ": "JWT"}, told | claims]
    signed = ".".join(
        base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode() for part in parts
    )
    key = (secret or instance.oauth.client_secret).encode()
    mac = hmac.digest(key, signed.encode(), hashlib.sha256)
    return f"{signed}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def denied(answer: requests.Response) -> bool:
    told = {"error_description": "access_denied", "error": "server_error"}
    return answer.status_code == 401 and answer.json() == told


class TestTokens:
    def test_a_password_buys_a_token_for_half_an_hour(
        self, instance: ServiceNow, clock: Time
    ) -> None:
        told = by_password(instance).json()

        assert {
            "scope": "useraccount",
            "token_type": "Bearer",
            "expires_in": 1799,
        }.items() <= told.items()
        assert with_token(instance, told["access_token"]).status_code == 200
        clock.now += 1800
        assert error(with_token(instance, told["access_token"])) == UNAUTHENTICATED

    def test_a_repeat_gets_the_same_token_and_what_is_left(
        self, instance: ServiceNow, clock: Time
    ) -> None:
        first = by_password(instance).json()
        clock.now += 1000
        second = by_password(instance).json()
        clock.now += 800
        third = by_password(instance).json()

        assert (second["access_token"], second["expires_in"]) == (first["access_token"], 799)
        assert (third["access_token"] != first["access_token"], third["expires_in"]) == (True, 1799)

    def test_a_refresh_token_is_good_for_a_hundred_days(
        self, instance: ServiceNow, clock: Time
    ) -> None:
        first = by_password(instance).json()
        clock.now += 8_639_999
        second = token(instance, "refresh_token", refresh_token=first["refresh_token"])
        clock.now += 1
        third = token(instance, "refresh_token", refresh_token=first["refresh_token"])

        assert with_token(instance, first["access_token"]).status_code == 401
        assert second.json()["access_token"] != first["access_token"]
        assert denied(third)
        assert denied(token(instance, "refresh_token", refresh_token="x"))

    def test_a_client_s_credentials_are_enough_and_give_no_refresh_token(
        self, instance: ServiceNow
    ) -> None:
        told = token(instance, "client_credentials").json()

        assert "refresh_token" not in told
        assert with_token(instance, told["access_token"]).status_code == 200

    def test_a_signed_assertion_is_enough(self, instance: ServiceNow, clock: Time) -> None:
        answer = token(instance, JWT_BEARER, assertion=jwt(instance, clock.now))

        assert with_token(instance, answer.json()["access_token"]).status_code == 200

    @pytest.mark.parametrize(
        "wrong",
        [
            {"sub": "mallory"},
            {"iss": "x"},
            {"exp": 1},
            {"aud": ""},
            {"exp": None},
            {"secret": "x"},
            {"iat": 9e12},
        ],
    )
    def test_an_assertion_that_is_wrong_is_not(
        self, instance: ServiceNow, clock: Time, wrong: dict[str, Any]
    ) -> None:
        assert denied(token(instance, JWT_BEARER, assertion=jwt(instance, clock.now, **wrong)))
        assert denied(token(instance, JWT_BEARER, assertion="x"))

    def test_the_client_may_say_who_it_is_in_the_header(self, instance: ServiceNow) -> None:
        answer = requests.post(
            f"{instance.url}/oauth_token.do",
            data={"grant_type": "client_credentials"},
            auth=(instance.oauth.client_id, instance.oauth.client_secret),
            timeout=5,
        )

        assert answer.status_code == 200

    @pytest.mark.parametrize(
        "form",
        [
            {"client_secret": "wrong"},
            {"client_id": "wrong"},
            {"grant_type": "authorization_code"},
            {"password": "wrong"},
            {"username": "nobody"},
        ],
    )
    def test_every_refusal_reads_the_same(self, instance: ServiceNow, form: dict[str, str]) -> None:
        right = {
            "username": instance.username,
            "password": instance.password,
            "grant_type": "password",
        }
        client = {
            "client_id": instance.oauth.client_id,
            "client_secret": instance.oauth.client_secret,
        }

        answer = requests.post(
            f"{instance.url}/oauth_token.do", data=right | client | form, timeout=5
        )

        assert denied(answer)

    def test_json_is_no_form(self, instance: ServiceNow) -> None:
        client = {
            "client_id": instance.oauth.client_id,
            "client_secret": instance.oauth.client_secret,
        }
        sent = {"grant_type": "client_credentials", **client}

        assert denied(requests.post(f"{instance.url}/oauth_token.do", json=sent, timeout=5))
        assert denied(requests.get(f"{instance.url}/oauth_token.do", params=sent, timeout=5))

    def test_a_grant_can_be_switched_off(self, clock: Time) -> None:
        with running(clock, oauth_grants={"password"}) as api:
            assert denied(token(api.instance, "client_credentials"))
            assert by_password(api.instance).status_code == 200

    def test_requests_for_a_token_are_counted_and_are_no_calls(
        self, instance: ServiceNow, clock: Time
    ) -> None:
        by_password(instance)
        token(instance, "client_credentials", client_secret="wrong")

        seen = [(asked.grant, asked.status, asked.at) for asked in instance.token_requests]
        assert seen == [("password", 200, clock.now), ("client_credentials", 401, clock.now)]
        assert instance.calls == []
        shown = requests.get(f"{instance.url}/sandbox/tokens", timeout=5).json()
        assert shown[0] == {"grant": "password", "status": 200, "at": clock.now}

    def test_wrong_passwords_for_tokens_lock_the_account_too(
        self, api: Api, instance: ServiceNow
    ) -> None:
        for _ in range(5):
            assert denied(by_password(instance, "wrong"))

        assert error(api.call("GET", "table/incident")) == UNAUTHENTICATED
        assert denied(by_password(instance))
        assert len(instance.refused_logins) == 7

    def test_a_token_outlives_a_lock(self, instance: ServiceNow) -> None:
        bearer = by_password(instance).json()["access_token"]
        for _ in range(5):
            by_password(instance, "wrong")

        assert with_token(instance, bearer).status_code == 200

    def test_a_token_can_expire_early_and_stays_so(self, instance: ServiceNow) -> None:
        told = by_password(instance).json()
        instance.arm("token_expired_401")

        statuses = [with_token(instance, told["access_token"]).status_code for _ in range(2)]
        fresh = token(instance, "refresh_token", refresh_token=told["refresh_token"]).json()[
            "access_token"
        ]

        assert statuses == [401, 401]
        assert with_token(instance, fresh).status_code == 200
        assert instance.armed() == []

    def test_an_expired_token_waits_for_a_token(self, api: Api, instance: ServiceNow) -> None:
        instance.arm("token_expired_401")
        instance.arm("error_500")

        assert api.call("GET", "table/incident").status_code == 500
        assert [fault.name for fault in instance.armed()] == ["token_expired_401"]

    def test_what_stands_at_the_door_stands_there_for_tokens_too(
        self, instance: ServiceNow
    ) -> None:
        instance.arm("adc_502")

        assert by_password(instance).status_code == 502
        assert instance.token_requests == []


class TestOtherLogins:
    def test_an_api_key_is_a_login(self, api: Api, instance: ServiceNow) -> None:
        api.session.auth = None
        right, wrong = ({"x-sn-apikey": key} for key in (instance.api_key, "x"))

        assert api.call("GET", "table/incident", headers=right).status_code == 200
        assert error(api.call("GET", "table/incident", headers=wrong)) == UNAUTHENTICATED
        assert "x-sn-apikey" not in instance.calls[0].headers

    def test_a_second_factor_can_be_wanted(self, api: Api, instance: ServiceNow) -> None:
        instance.arm("mfa_401")

        answer = api.call("GET", "table/incident")

        assert error(answer) == UNAUTHENTICATED
        assert answer.headers["X-MFA_TOKEN"] == "invalid"
        assert instance.refused_logins == []
        assert "X-MFA_TOKEN" not in api.call("GET", "table/incident").headers

    def test_basic_can_be_forbidden_and_reads_like_a_wrong_password(self, clock: Time) -> None:
        with running(clock, basic_auth_allowed=False) as api:
            for _ in range(6):
                assert error(api.call("GET", "table/incident")) == UNAUTHENTICATED
            bearer = by_password(api.instance).json()["access_token"]

            assert with_token(api.instance, bearer).status_code == 200
            assert api.instance.refused_logins == []


class TestRights:
    def test_the_api_can_be_closed(self, clock: Time) -> None:
        with running(clock, api_enabled=False) as api:
            told = (403, "User Not Authorized", "Failed API level ACL Validation")
            paths = ("table/incident", "table/nothing", "attachment", "tables")
            assert [error(api.call("GET", path)) for path in paths] == [told] * 4

    def test_only_some_tables_may_be_inserted_into(self, clock: Time) -> None:
        with running(clock, may_create={"incident"}) as api:
            assert api.call("POST", "table/incident", {}).status_code == 201
            refused = error(api.call("POST", "table/change_request", {}))
            by_its_own_api = api.ask("POST", "/api/sn_chg_rest/change/normal", {})

            assert refused == (403, "Operation Failed", ACL.format("Insert"))
            assert by_its_own_api.status_code == 403
            assert api.instance.rows("change_request") == []

    def test_only_some_tables_may_be_changed(self, clock: Time) -> None:
        with running(clock, may_write=()) as api:
            api.make(sys_id=HEX)

            assert error(api.patch(HEX, state=2)) == (403, "Operation Failed", ACL.format("Update"))
            assert error(api.call("DELETE", f"table/incident/{HEX}"))[2] == ACL.format("Delete")
            assert api.instance.rows("incident")[0]["sys_mod_count"] == "0"

    def test_only_some_tables_may_be_read(self, clock: Time) -> None:
        with running(clock, may_read={"incident"}) as api:
            user_id = api.instance.rows("sys_user")[0]["sys_id"]

            assert api.call("GET", "table/incident").status_code == 200
            assert error(api.call("GET", "table/sys_user")) == (
                403,
                "Insufficient rights to query records",
                None,
            )
            assert api.call("GET", f"table/sys_user/{user_id}").status_code == 404


class TestLimits:
    def test_a_rate_limit_is_announced_on_every_answer_and_ends_with_the_hour(
        self, clock: Time
    ) -> None:
        clock.now = 1_790_002_800.0
        with running(clock, rate_limit_per_hour=2) as api:
            answers = [api.call("GET", f"table/incident/{HEX}") for _ in range(3)]
            clock.now += 3600
            answers.append(api.call("GET", "table/incident"))

        assert [answer.status_code for answer in answers] == [404, 404, 429, 200]
        assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"2"}
        assert len({answer.headers["X-RateLimit-Rule"] for answer in answers}) == 1
        resets = [int(answer.headers["X-RateLimit-Reset"]) for answer in answers]
        assert resets == [1_790_006_400] * 3 + [1_790_010_000]
        assert [answer.headers.get("Retry-After") for answer in answers] == [
            None,
            None,
            "3600",
            None,
        ]
        words = "Rate limit of 2 requests per hour for Table API exceeded"
        assert error(answers[2]) == (429, "Rate limit exceeded", words)

    def test_no_rule_no_headers(self, api: Api) -> None:
        assert not [
            name
            for name in api.call("GET", "table/incident").headers
            if name.startswith("X-RateLimit")
        ]

    def test_more_than_the_semaphores_at_once_are_refused_without_a_word(self, clock: Time) -> None:
        with running(clock, semaphores=2) as api:
            instance = api.instance
            instance.arm("slow", times=2, seconds=1)
            statuses: list[int] = []

            def ask() -> None:
                auth = (instance.username, instance.password)
                answer = requests.get(
                    f"{instance.url}/api/now/table/incident", auth=auth, timeout=60
                )
                statuses.append(answer.status_code)

            waiting = [threading.Thread(target=ask) for _ in range(2)]
            for thread in waiting:
                thread.start()
            while instance.armed():
                time.sleep(0.01)
            refused = api.call("GET", "table/incident")
            for thread in waiting:
                thread.join()

            assert refused.status_code == 429
            assert not {"Retry-After", "X-RateLimit-Limit"} & set(refused.headers)
            assert statuses == [200, 200]
            assert api.call("GET", "table/incident").status_code == 200
