"""What a business rule of ServiceNow posts: that a ticket changed, not what. Pure.

It is signed, so that nobody else can make the function look; a copy that is sent again brings a
look that finds nothing. `python -m function setup business-rule` prints the rule.
"""

import base64
import hashlib
import hmac
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

from function.sources.hasura import InvalidRequest, verify_secret

# The body has some 120. A table's name is the only part of it that may be long.
NOTIFICATION_BYTES_MAX: Final = 4096
# How far the sender's clock may be from ours, and how long what is signed may wait in its queue.
SIGNATURE_AGE_SECONDS_MAX: Final = 300
# A record that is written every second reaches it in thirty years.
MOD_COUNT_MAX: Final = 10**9

_VERSION: Final = 1
# UNIX seconds have ten digits until the year 2286.
_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
_TABLE: Final = re.compile(r"[a-z][a-z0-9_]{0,79}", re.ASCII)
_SYS_ID: Final = re.compile(r"[0-9a-fA-F]{32}", re.ASCII)
_HEX: Final = re.compile(r"[0-9a-fA-F]{64}", re.ASCII)

_WHAT_TO_SEND: Final = (
    'Send what the business rule sends: {"version": 1, "table": "incident", "sys_id": 32 '
    'hexadecimal digits, "mod_count": a whole number}. `python -m function setup business-rule` '
    "prints its script."
)


@dataclass(frozen=True, slots=True)
class TicketNotification:
    """A record of ServiceNow that changed. *mod_count* is how often it was written by then, as the
    sender counts: its `sys_mod_count`. *sys_id* is in lower case."""

    table: str
    sys_id: str
    mod_count: int


def verify_signature(
    timestamp: str | None,
    signature: str | None,
    body: bytes | bytearray,
    secrets: Sequence[str],
    *,
    now: float,
) -> bool:
    """Say whether *signature* is that of *timestamp*, a dot and *body* under one of *secrets*, and
    *timestamp* within five minutes of *now*, both in UNIX seconds.

    *signature* is ``v1=`` and an HMAC-SHA256: in base64, as ServiceNow's ``generateMac`` gives it,
    or in hexadecimal digits. The key is the secret's bytes: ``generateMac`` wants its key in
    base64, decodes it, and uses what it then has. Without secrets nobody is let in.
    """
    if timestamp is None or signature is None or not _is_recent(timestamp, now):
        return False
    given = _read_signature(signature)
    if given is None:
        return False
    signed = timestamp.encode("ascii") + b"." + body
    return verify_secret(given, [_sign(secret, signed) for secret in secrets if secret])


def parse_notification(body: bytes | bytearray) -> TicketNotification:
    """Turn *body* into a TicketNotification, or raise InvalidRequest, whatever the bytes are. Keys
    that nobody knows are ignored."""
    if len(body) > NOTIFICATION_BYTES_MAX:
        raise _refused(f"The body is larger than {NOTIFICATION_BYTES_MAX} bytes.")
    fields = _read_fields(body)
    version, mod_count = fields.get("version"), fields.get("mod_count")
    if type(version) is not int or version != _VERSION:
        raise _refused(f"`version` must be {_VERSION}.")
    if type(mod_count) is not int or not 0 <= mod_count <= MOD_COUNT_MAX:
        raise _refused(f"`mod_count` must be a whole number from 0 to {MOD_COUNT_MAX}.")
    return TicketNotification(
        table=_read_text(fields, "table", _TABLE, "the name of a table in lower case"),
        sys_id=_read_text(fields, "sys_id", _SYS_ID, "32 hexadecimal digits").lower(),
        mod_count=mod_count,
    )


def _is_recent(timestamp: str, now: float) -> bool:
    found = _TIMESTAMP.fullmatch(timestamp)
    return found is not None and abs(int(found[0]) - now) <= SIGNATURE_AGE_SECONDS_MAX


def _sign(secret: str, signed: bytes) -> str:
    key = secret.encode("utf-8", "surrogatepass")
    return hmac.new(key, signed, hashlib.sha256).hexdigest()


def _read_signature(signature: str) -> str | None:
    """The digest in hexadecimal digits; None where *signature* holds none."""
    version, _, written = signature.strip().partition("=")
    if version != "v1":
        return None
    if _HEX.fullmatch(written):
        return written.lower()
    try:
        digest = base64.b64decode(written, validate=True)
    except ValueError:  # binascii's is one, and so is that of a character beyond ASCII
        return None
    return digest.hex() if len(digest) == hashlib.sha256().digest_size else None


def _read_fields(body: bytes | bytearray) -> dict[str, object]:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):  # neither JSON nor UTF-8, a number too long, too deep
        raise _refused("The body is not JSON.") from None
    if not isinstance(value, dict):
        raise _refused("The body is JSON, but not an object.")
    return value


def _read_text(fields: dict[str, object], name: str, form: re.Pattern[str], what: str) -> str:
    value = fields.get(name)
    if not isinstance(value, str) or not form.fullmatch(value):
        raise _refused(f"`{name}` must be {what}.")
    return value


def _refused(fault: str) -> InvalidRequest:
    return InvalidRequest(f"{fault} {_WHAT_TO_SEND}")
