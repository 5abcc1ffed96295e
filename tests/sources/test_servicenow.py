"""ServiceNow's notifications: who may send them, what is read from them, what is refused and in
which words."""

import base64
import hashlib
import hmac
import json
import math
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from function.sources.hasura import InvalidRequest
from function.sources.servicenow import (
    MOD_COUNT_MAX,
    NOTIFICATION_BYTES_MAX,
    TicketNotification,
    parse_notification,
    verify_signature,
)

SYS_ID = "0123456789abcdef0123456789abcdef"
NOTIFICATION = {"version": 1, "table": "incident", "sys_id": SYS_ID, "mod_count": 3}
BODY = json.dumps(NOTIFICATION).encode()
NOW = 1_790_000_000.0
STAMP = "1790000000"
SECRETS = ["the first secret", "the second secret"]
# What arrives in a header: WSGI gives its bytes as Latin-1, but other callers give any text.
HEADERS = st.none() | st.text() | st.text(st.characters(max_codepoint=255))


def digest(secret: str, stamp: str = STAMP, body: bytes = BODY) -> bytes:
    return hmac.digest(secret.encode(), stamp.encode() + b"." + body, hashlib.sha256)


def in_base64(secret: str, stamp: str = STAMP, body: bytes = BODY) -> str:
    return f"v1={base64.b64encode(digest(secret, stamp, body)).decode()}"


def is_let_in(signature: str | None, stamp: str | None = STAMP, *, now: float = NOW) -> bool:
    return verify_signature(stamp, signature, BODY, SECRETS, now=now)


def refusal(body: bytes) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_notification(body)
    return caught.value.message


class TestWhoMaySend:
    @pytest.mark.parametrize("secret", SECRETS)
    def test_either_of_two_secrets_is_accepted_while_rotating(self, secret: str) -> None:
        assert is_let_in(in_base64(secret))

    def test_a_signature_may_be_in_base64_or_in_hexadecimal_digits(self) -> None:
        digits = digest(SECRETS[0]).hex()

        assert is_let_in(in_base64(SECRETS[0]))
        assert is_let_in(f"v1={digits}")
        assert is_let_in(f"v1={digits.upper()}")

    def test_the_signature_is_the_one_that_openssl_makes(self) -> None:
        # printf '1.{}' | openssl dgst -sha256 -hmac key -binary | base64
        signature = "v1=G6a4FxGG78YT6LzAy9qydI8kmE18WoT6omN6+g5A0iQ="

        assert verify_signature("1", signature, b"{}", ["key"], now=1)

    def test_a_secret_beyond_ascii_signs_with_its_bytes(self) -> None:
        assert verify_signature(STAMP, in_base64("pässwörd"), BODY, ["pässwörd"], now=NOW)

    @pytest.mark.parametrize(
        "signature",
        [
            None,
            "",
            "v1",
            "v1=",
            in_base64("another secret"),
            in_base64(SECRETS[0], body=BODY + b" "),
            in_base64(SECRETS[0], stamp="1790000001"),
            in_base64(SECRETS[0]).removeprefix("v1="),
            in_base64(SECRETS[0]).replace("v1", "v0"),
            in_base64(SECRETS[0])[:-5],
            f"v1={digest(SECRETS[0]).hex()[:-2]}",
            f"v1={digest(SECRETS[0]).hex()}00",
            "v1=é" + in_base64(SECRETS[0])[4:],
            f"v1={'A' * 100_000}",
        ],
    )
    def test_anything_else_is_refused(self, signature: str | None) -> None:
        assert not is_let_in(signature)

    @pytest.mark.parametrize("seconds", [-300, -299, 0, 299, 300])
    def test_a_timestamp_may_be_five_minutes_off_either_way(self, seconds: int) -> None:
        assert is_let_in(in_base64(SECRETS[0]), now=NOW + seconds)

    @pytest.mark.parametrize("seconds", [-301, 301, 86_400, -math.inf, math.inf, math.nan])
    def test_one_that_is_further_off_is_refused(self, seconds: float) -> None:
        assert not is_let_in(in_base64(SECRETS[0]), now=NOW + seconds)

    @pytest.mark.parametrize(
        "stamp",
        [
            *(None, "", "-1790000000", "+1790000000", "1790000000.0", "1.79e9", "nan", "inf"),
            *(" 1790000000", "1790000000\n", "1_790_000_000", "0x6ab13b80", "１７９０００００００"),
            *("²", "9" * 13, "9" * 100_000),
        ],
    )
    def test_a_timestamp_that_is_none_is_refused(self, stamp: str | None) -> None:
        signature = in_base64(SECRETS[0], stamp or "")

        assert not is_let_in(signature, stamp)

    @pytest.mark.parametrize("secrets", [[], [""], ["", ""]])
    def test_without_a_secret_nobody_is_let_in(self, secrets: list[str]) -> None:
        assert not verify_signature(STAMP, in_base64(""), BODY, secrets, now=NOW)

    @given(stamp=HEADERS, signature=HEADERS, body=st.binary())
    @example(stamp="\udcff", signature="v1=\udcff", body=b"")
    @example(stamp=STAMP, signature="v1=ä=", body=b"")
    @example(stamp=STAMP, signature="v1=====", body=b"")
    def test_no_header_lets_anybody_in_or_makes_the_comparison_fail(
        self, stamp: str | None, signature: str | None, body: bytes
    ) -> None:
        assert not verify_signature(stamp, signature, body, SECRETS, now=NOW)

    @given(secret=st.text(min_size=1).filter(str.isprintable), body=st.binary())
    def test_whatever_is_signed_with_the_secret_is_let_in(self, secret: str, body: bytes) -> None:
        signature = in_base64(secret, body=body)

        assert verify_signature(STAMP, signature, body, ["another", secret], now=NOW)


class TestWhatIsRead:
    def test_a_notification_names_a_ticket_and_how_often_it_was_written(self) -> None:
        assert parse_notification(BODY) == TicketNotification("incident", SYS_ID, 3)

    def test_a_sys_id_is_read_in_lower_case(self) -> None:
        body = json.dumps(NOTIFICATION | {"sys_id": SYS_ID.upper()}).encode()

        assert parse_notification(body).sys_id == SYS_ID

    @pytest.mark.parametrize("count", [0, 1, MOD_COUNT_MAX])
    def test_a_count_is_a_whole_number(self, count: int) -> None:
        body = json.dumps(NOTIFICATION | {"mod_count": count}).encode()

        assert parse_notification(body).mod_count == count

    def test_keys_that_nobody_knows_are_ignored(self) -> None:
        body = json.dumps(NOTIFICATION | {"number": "INC1", "changed": {"state": [1, 2]}}).encode()

        assert parse_notification(body) == TicketNotification("incident", SYS_ID, 3)

    @pytest.mark.parametrize(
        ("wrong", "named"),
        [
            ({"version": 2}, "version"),
            ({"version": True}, "version"),
            ({"version": 1.0}, "version"),
            ({"version": "1"}, "version"),
            ({"version": None}, "version"),
            ({"table": ""}, "table"),
            ({"table": "Incident"}, "table"),
            ({"table": "9lives"}, "table"),
            ({"table": "a" * 81}, "table"),
            ({"table": "incident\n"}, "table"),
            ({"table": "incident^active=true"}, "table"),
            ({"table": "../sys_user"}, "table"),
            ({"table": "störung"}, "table"),
            ({"table": None}, "table"),
            ({"sys_id": SYS_ID[:-1]}, "sys_id"),
            ({"sys_id": SYS_ID + "0"}, "sys_id"),
            ({"sys_id": "g" * 32}, "sys_id"),
            ({"sys_id": "１" * 32}, "sys_id"),
            ({"sys_id": 12}, "sys_id"),
            ({"mod_count": -1}, "mod_count"),
            ({"mod_count": MOD_COUNT_MAX + 1}, "mod_count"),
            ({"mod_count": "3"}, "mod_count"),
            ({"mod_count": 3.0}, "mod_count"),
            ({"mod_count": True}, "mod_count"),
            ({"mod_count": None}, "mod_count"),
        ],
    )
    def test_a_key_that_is_wrong_is_named(self, wrong: dict[str, Any], named: str) -> None:
        message = refusal(json.dumps(NOTIFICATION | wrong).encode())

        assert message.startswith(f"`{named}` must be ")
        assert "setup business-rule" in message

    @pytest.mark.parametrize("name", NOTIFICATION)
    def test_a_key_that_is_missing_is_named(self, name: str) -> None:
        without = {key: value for key, value in NOTIFICATION.items() if key != name}

        assert refusal(json.dumps(without).encode()).startswith(f"`{name}` must be ")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"table=incident",
            b"\xff\xfe",
            BODY[:-1],
            BODY + b"}",
            b"[" * 4000,
            b'{"mod_count":' + b"9" * 4000 + b"}",
        ],
    )
    def test_what_is_no_json_is_refused_and_nothing_of_it_is_quoted(self, body: bytes) -> None:
        message = refusal(body)

        assert message.startswith(("The body is not JSON.", "`version` must be "))
        assert "9999" not in message

    @pytest.mark.parametrize("body", [b"[]", b"1", b"null", b'"x"'])
    def test_what_is_no_object_is_refused(self, body: bytes) -> None:
        assert refusal(body).startswith("The body is JSON, but not an object.")

    def test_a_body_may_have_4096_bytes_and_no_more(self) -> None:
        padded = BODY + b" " * (NOTIFICATION_BYTES_MAX - len(BODY))

        assert parse_notification(padded).mod_count == 3
        assert refusal(padded + b" ").startswith("The body is larger than 4096 bytes.")

    @given(
        body=st.binary()
        | st.recursive(
            st.none() | st.booleans() | st.floats() | st.integers() | st.text(),
            lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
        ).map(lambda value: json.dumps(value).encode())
        | st.fixed_dictionaries(
            {}, optional=dict.fromkeys(NOTIFICATION, st.none() | st.integers() | st.text())
        ).map(lambda value: json.dumps(value).encode())
    )
    def test_whatever_the_bytes_are_they_are_read_or_refused(self, body: bytes) -> None:
        with suppress(InvalidRequest):
            read = parse_notification(body)

            assert read.sys_id == read.sys_id.lower()
