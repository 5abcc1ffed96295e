"""What Slack posts, verified and parsed; whatever the bytes are."""

import hashlib
import hmac
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st
from slack_sdk.signature import SignatureVerifier

from function.sources.hasura import InvalidRequest
from function.sources.slack import (
    KeptCommand,
    command_id,
    is_reply_url,
    is_ssl_check,
    parse_command,
    read_command,
    to_event,
    verify_signature,
    write_command,
)

SECRET = "8f742231b10e8888abcd99yyyzzz85a5"
NOW = 1_531_420_618
URL = "https://hooks.slack.com/commands/T1/2/3"
FORM = {
    "token": "planted-token",
    "team_id": "T0001",
    "team_domain": "example",
    "channel_id": "C2147483705",
    "channel_name": "test",
    "user_id": "U2147483697",
    "user_name": "Steve",
    "command": "/ops-resolve",
    "text": "INC0012345 done",
    "response_url": URL,
    "trigger_id": "planted-trigger",
}
BODY = urlencode(FORM).encode()


def signature(body: bytes = BODY, *, at: object = NOW, secret: str = SECRET) -> str:
    mac = hmac.new(secret.encode(), f"v0:{at}:".encode() + body, hashlib.sha256)
    return f"v0={mac.hexdigest()}"


def verified(
    timestamp: str | None = str(NOW),
    given: str | None = None,
    *,
    body: bytes = BODY,
    secrets: tuple[str, ...] = (SECRET,),
    now: float = NOW,
) -> bool:
    return verify_signature(timestamp, given or signature(body), body, secrets, now=now)


def test_a_signature_of_slacks_is_let_in_under_any_of_the_secrets() -> None:
    assert verified()
    assert verified(secrets=("another-secret", SECRET))


def test_an_independent_signature_is_the_one_that_slacks_own_library_makes() -> None:
    assert SignatureVerifier(SECRET).generate_signature(timestamp=str(NOW), body=BODY) == (
        signature()
    )


@pytest.mark.parametrize(
    "refused",
    [
        verified(secrets=()),
        verified(secrets=("another-secret",)),
        verified(body=BODY + b"&x=1", given=signature()),
        verified(timestamp=None),
        verify_signature(str(NOW), None, BODY, (SECRET,), now=NOW),
        verified(given="v0="),
        verified(given=signature().upper()),
        verified(given="v0=\udcff"),
        verified(given=signature().removeprefix("v0=")),
        verified(body=b"\xff\xfe", given=signature(b"\xff\xfe")),
    ],
)
def test_nothing_else_is(refused: bool) -> None:
    assert not refused


@pytest.mark.parametrize("seconds", [-301, 301, -360, 360, 10**6])
def test_a_timestamp_over_five_minutes_off_is_refused_either_way(seconds: int) -> None:
    assert not verified(now=NOW + seconds)


@pytest.mark.parametrize("seconds", [-299, 0, 299])
def test_one_within_five_minutes_is_let_in(seconds: int) -> None:
    assert verified(now=NOW + seconds)


@pytest.mark.parametrize("stamp", ["", "soon", "-1", "1e9", "١٢٣", "1531420618.5", " 1531420618"])
def test_a_timestamp_that_is_no_number_is_refused(stamp: str) -> None:
    assert not verified(timestamp=stamp, given=signature(at=stamp))


@given(st.text(max_size=30), st.text(max_size=80), st.binary(max_size=80))
def test_whatever_the_headers_and_the_body_are_nobody_is_let_in_by_them(
    stamp: str, mac: str, body: bytes
) -> None:
    assert not verify_signature(stamp, mac, body, (SECRET,), now=NOW)


def test_a_command_is_read_without_slacks_secrets() -> None:
    command = parse_command(BODY)

    assert (command.name, command.fields["text"]) == ("ops-resolve", "INC0012345 done")
    assert (command.team_id, command.user_id, command.channel_id) == (
        "T0001",
        "U2147483697",
        "C2147483705",
    )
    assert "planted" not in str(command.fields)


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_or_refused(body: bytes) -> None:
    try:
        read = parse_command(body)
    except InvalidRequest:
        return
    assert read.name


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("command", "ops", "`command`"),
        ("command", "/Ops Resolve", "`command`"),
        ("command", f"/{'a' * 33}", "`command`"),
        ("team_id", "", "`team_id`"),
        ("user_id", "ada", "`user_id`"),
        ("response_url", "", "`response_url`"),
        ("response_url", "https://example.com/commands/1", "`response_url`"),
    ],
)
def test_what_is_signed_and_no_command_is_refused_by_name(name: str, value: str, said: str) -> None:
    with pytest.raises(InvalidRequest, match=said):
        parse_command(urlencode(FORM | {name: value}).encode())


def test_more_fields_than_slack_sends_are_refused() -> None:
    with pytest.raises(InvalidRequest, match="not the form"):
        parse_command(b"&".join([BODY, *(b"a=%d" % number for number in range(40))]))


@pytest.mark.parametrize(
    "url",
    [
        URL,
        "https://hooks.slack.com:443/commands/T1/2/3",
        "https://hooks.slack-gov.com/commands/T1/2/3?x=1",
    ],
)
def test_slacks_own_addresses_are_answered_to(url: str) -> None:
    assert is_reply_url(url)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "http://hooks.slack.com/commands/1",
        "https://hooks.slack.com.example.com/commands/1",
        "https://hooks.slack.com@example.com/commands/1",
        "https://user@hooks.slack.com/commands/1",
        "https://example.com/hooks.slack.com",
        "https://hooks.slack.com:8443/commands/1",
        "https://HOOKS.slack.com.evil/commands/1",
        "https://hooks.slack.com",
        "https://hooks.slack.com/a b",
        "https://hooks.slack.com/\n",
        "https://[::1/commands",
        "https://hooks.slack.com:x/commands",
        "http://127.0.0.1:8093/commands/1",
        "file:///etc/passwd",
        "https://hooks.slack.com/" + "a" * 1000,
    ],
)
def test_no_other_address_is(url: str) -> None:
    assert not is_reply_url(url)


def test_the_sandboxs_is_where_it_is_named_and_nowhere_else() -> None:
    sandbox = "http://127.0.0.1:8093"

    assert is_reply_url(f"{sandbox}/commands/1", sandbox_url=sandbox)
    assert not is_reply_url("http://127.0.0.1:80931/commands/1", sandbox_url=sandbox)
    assert not is_reply_url("http://127.0.0.1:8093@example.com/1", sandbox_url=sandbox)


def test_what_the_inbox_keeps_is_read_again() -> None:
    kept = KeptCommand(parse_command(BODY), interim=True)

    assert read_command(write_command(kept)) == kept


def test_an_event_keeps_nothing_of_where_it_is_answered() -> None:
    event = to_event(parse_command(BODY), "slack/1", received=NOW)

    assert (event.source, event.reply_url) == ("slack/ops-resolve", URL)
    assert event.expires_at == NOW + 25 * 60
    assert URL not in event.body + event.content + repr(event)
    assert URL not in str(event.new)


def test_a_copy_is_known_by_its_signature() -> None:
    assert command_id(signature()) == command_id(signature())
    assert command_id(signature()) != command_id(signature(at=NOW + 1))


def test_the_check_that_slack_makes_is_known() -> None:
    assert is_ssl_check(b"token=x&ssl_check=1")
    assert not is_ssl_check(BODY)
    assert not is_ssl_check(urlencode(FORM | {"text": "ssl_check=1"}).encode())
