"""How posts are signed, as their receivers verify it."""

import base64
import hashlib
import hmac
import re
import time
from datetime import UTC, datetime

import pytest
from standardwebhooks import Webhook, WebhookVerificationError

from function.rules.signature import find_secret_fault, sign_call

KEY = b"a key of 24 bytes or so!"
SECRET = "whsec_" + base64.b64encode(KEY).decode()
OTHER = base64.b64encode(b"another one, of 25 bytes!").decode()
BODY = 'a=&+%"b" 🦀 שלום مرحبا\n'.encode()


def standard(secret: str = SECRET, *, at: float | None = None) -> dict[str, str]:
    at = time.time() if at is None else at
    signed = sign_call("standard", secret, webhook_id="id1", body=BODY, at=at)
    return {"webhook-id": "id1", **signed}


def test_the_public_library_verifies_a_standard_signature() -> None:
    Webhook(SECRET).verify(BODY, standard(), json_parse=False)

    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY + b" ", standard(), json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(OTHER).verify(BODY, standard(), json_parse=False)
    with pytest.raises(WebhookVerificationError):
        Webhook(SECRET).verify(BODY, standard() | {"webhook-id": "id2"}, json_parse=False)


@pytest.mark.parametrize("between", [" ", ",", ", ", "\n"])
def test_while_a_secret_is_replaced_a_receiver_may_have_either(between: str) -> None:
    headers = standard(f"{SECRET}{between}{OTHER}")

    assert len(headers["webhook-signature"].split(" ")) == 2
    for secret in (SECRET, OTHER):
        Webhook(secret).verify(BODY, headers, json_parse=False)


def test_the_timestamp_is_the_second_that_was_signed() -> None:
    assert standard(at=1_700_000_000.9)["webhook-timestamp"] == "1700000000"


def test_an_aws_signature_is_the_hmac_of_the_timestamp_a_colon_and_the_body() -> None:
    at = datetime(2026, 3, 4, 5, 6, 7, 89_999, tzinfo=UTC).timestamp()
    headers = sign_call("aws", " s3cret/+= ", webhook_id="id1", body=BODY, at=at)
    timestamp = headers["x-amzn-event-timestamp"]
    expected = hmac.digest(b"s3cret/+=", timestamp.encode() + b":" + BODY, hashlib.sha256)

    assert timestamp == "2026-03-04T05:06:07.089Z"
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", timestamp)
    assert base64.b64decode(headers["x-amzn-event-signature"], validate=True) == expected
    assert headers.keys() == {"x-amzn-event-timestamp", "x-amzn-event-signature"}


def test_what_is_not_signed_has_no_headers() -> None:
    assert sign_call("", "", webhook_id="id1", body=BODY, at=0.0) == {}


@pytest.mark.parametrize(
    ("sign", "secret", "fault"),
    [
        ("standard", SECRET, ""),
        ("standard", SECRET.rstrip("="), ""),
        ("standard", f"{SECRET} {OTHER}", ""),
        ("standard", "", "is empty"),
        ("standard", " ", "is empty"),
        ("standard", "whsec_", "must be a secret of Standard Webhooks"),
        ("standard", "not base64!", "must be a secret of Standard Webhooks"),
        ("standard", base64.b64encode(b"short").decode(), "must be a secret of Standard Webhooks"),
        ("standard", f"{SECRET} nope", "must be a secret of Standard Webhooks"),
        ("aws", "anything-goes/+=", ""),
        ("aws", "", "is empty"),
        ("aws", "one two", "must be one secret"),
        ("aws", "one,two", "must be one secret"),
    ],
)
def test_a_secret_that_cannot_be_signed_with_is_told(sign: str, secret: str, fault: str) -> None:
    found = find_secret_fault(sign, secret)

    assert found.startswith(fault)
    assert bool(found) == bool(fault)
