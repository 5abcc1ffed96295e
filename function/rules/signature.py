"""How a call is signed, so that its receiver knows who made it. Pure: the time is given.

standard: Standard Webhooks (https://www.standardwebhooks.com), by its own library, which is loaded
when the first rule is signed so. aws: the generic webhook of AWS DevOps Agent
(https://docs.aws.amazon.com/devopsagent/latest/userguide/configuring-capabilities-for-aws-devops-agent-invoking-devops-agent-through-webhook.html):
an HMAC-SHA256 over the timestamp, a colon and the body, in base64; its secret is used as it is
written.
"""

import base64
import binascii
import hashlib
import hmac
import re
from datetime import UTC, datetime
from typing import Final

from function.rules.schema import AWS, STANDARD

# By which a receiver knows a call that comes again. It is part of what `standard` signs.
WEBHOOK_ID: Final = "webhook-id"
SIGNATURE_HEADERS: Final = (
    WEBHOOK_ID,
    "webhook-timestamp",
    "webhook-signature",
    "x-amzn-event-timestamp",
    "x-amzn-event-signature",
)
# Standard Webhooks asks for 24 to 64 bytes. Shorter ones can be guessed; longer ones work.
_KEY_BYTES_MIN: Final = 24
_PREFIX: Final = "whsec_"
_SEPARATORS: Final = re.compile(r"[\s,]+")


def find_secret_fault(sign: str, secret: str) -> str:
    """What is wrong with *secret*, to be put behind its name; "" for nothing. It is not quoted."""
    if not secret.strip():
        return "is empty; set it to the secret that the receiver has"
    if sign == AWS and _SEPARATORS.search(secret.strip()):
        return "must be one secret, without blanks and commas: an aws signature is one"
    if sign == STANDARD and not all(map(_is_key, _split_secrets(secret))):
        return (
            "must be a secret of Standard Webhooks, whsec_ and the base64 of 24 bytes or more; or "
            "several, the newest first, separated by blanks or commas"
        )
    return ""


def sign_call(sign: str, secret: str, *, webhook_id: str, body: bytes, at: float) -> dict[str, str]:
    """The headers that sign *body*, in UTF-8, at the time *at* (UNIX seconds); none unsigned.

    *secret* has no fault. With several, the receiver may have any of them.
    """
    if sign == STANDARD:
        return _sign_standard(secret, webhook_id, body, at)
    return _sign_aws(secret.strip(), body, at) if sign == AWS else {}


def _sign_standard(secret: str, webhook_id: str, body: bytes, at: float) -> dict[str, str]:
    from standardwebhooks import Webhook  # noqa: PLC0415  # for those who sign so

    moment, content = datetime.fromtimestamp(int(at), UTC), body.decode()
    signers = map(Webhook, _split_secrets(secret))
    signatures = [signer.sign(webhook_id, moment, content) for signer in signers]
    return {"webhook-timestamp": str(int(at)), "webhook-signature": " ".join(signatures)}


def _sign_aws(secret: str, body: bytes, at: float) -> dict[str, str]:
    moment = datetime.fromtimestamp(at, UTC)
    timestamp = f"{moment:%Y-%m-%dT%H:%M:%S}.{moment.microsecond // 1000:03}Z"
    mac = hmac.new(secret.encode(), timestamp.encode() + b":" + body, hashlib.sha256).digest()
    return {
        "x-amzn-event-timestamp": timestamp,
        "x-amzn-event-signature": base64.b64encode(mac).decode(),
    }


def _split_secrets(secret: str) -> list[str]:
    return [each for each in _SEPARATORS.split(secret) if each]


def _is_key(secret: str) -> bool:
    """Whether *secret* is one as the library reads it, which would drop what is not base64."""
    written = secret.removeprefix(_PREFIX)
    try:
        key = base64.b64decode(written + "=" * (-len(written) % 4), validate=True)
    except (binascii.Error, ValueError):
        return False
    return len(key) >= _KEY_BYTES_MIN
