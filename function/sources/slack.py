"""What Slack posts for a slash command: verified, and parsed. Pure.

Sources: https://docs.slack.dev/authentication/verifying-requests-from-slack,
https://docs.slack.dev/interactivity/implementing-slash-commands,
https://docs.slack.dev/interactivity/handling-user-interaction (what `response_url` takes).
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Final
from urllib.parse import parse_qsl, urlsplit

from function.core.event import Event, Op
from function.core.values import Json, canonical, digest
from function.sources.hasura import InvalidRequest

# 4,000 characters of four bytes each, percent-encoded, and what is sent beside them.
COMMAND_BYTES_MAX: Final = 64 * 1024
SSL_CHECK_BYTES_MAX: Final = 1000
# What Slack calls the hosts of its `response_url`: the second is GovSlack's.
REPLY_HOSTS: Final = ("hooks.slack.com", "hooks.slack-gov.com")
# A `response_url` is good for 30 minutes. A command is given up before that, so that its last word
# can still be said, and stays true.
GIVE_UP_SECONDS: Final = 25 * 60.0
# What is not told by then is not told any more.
ANSWERED_SECONDS: Final = 29 * 60.0
SOURCE: Final = "slack"

_TIMESTAMP: Final = re.compile(r"[0-9]{1,12}", re.ASCII)
_COMMAND: Final = re.compile(r"/([a-z0-9_-]{1,32})", re.ASCII)
_ID: Final = re.compile(r"[A-Z0-9]{2,40}", re.ASCII)
_REPLY_URL: Final = re.compile(r"[!-~]{1,1000}", re.ASCII)
_FIELDS_MAX: Final = 40
# What rules may read of a command. Slack's `token` is a secret of old, its `trigger_id` opens
# dialogs, and both are left out.
_SHORT: Final = (
    *("team_domain", "enterprise_id", "channel_id", "channel_name", "user_name", "api_app_id"),
)
_SHORT_CHARACTERS_MAX: Final = 200
# PostgreSQL stores no NUL, and nobody stores half a character.
_UNSTORABLE: Final = re.compile("[\x00\ud800-\udfff]")


@dataclass(frozen=True, slots=True)
class SlackCommand:
    """A slash command that a person typed.

    *name* is the command without its slash. *fields* are what rules read of it, among them
    ``text``, ``user_id`` and ``team_id``. *response_url* is where it is answered: whoever knows it
    can write there in the app's name.
    """

    name: str
    fields: Mapping[str, str]
    response_url: str = field(repr=False)

    @property
    def team_id(self) -> str:
        return self.fields["team_id"]

    @property
    def user_id(self) -> str:
        return self.fields["user_id"]

    @property
    def channel_id(self) -> str:
        return self.fields["channel_id"]


@dataclass(frozen=True, slots=True)
class KeptCommand:
    """A command as the inbox keeps it. *interim*: its person was told that it takes longer.
    *refusal* is what its person is told where it is not done, "" where it may be: from then on it
    is told that, and nothing else. *is_dead*: such a one is a dead letter."""

    command: SlackCommand
    interim: bool = False
    refusal: str = ""
    is_dead: bool = False


def is_ssl_check(body: bytes | bytearray) -> bool:
    """Whether Slack only asks if anybody is there, as it does now and then: a form, or the query of
    a GET, that says so and has no command."""
    fields = bytes(body[:SSL_CHECK_BYTES_MAX]).split(b"&")
    has_command = any(field.startswith(b"command=") for field in fields)
    return len(body) < SSL_CHECK_BYTES_MAX and b"ssl_check=1" in fields and not has_command


def verify_signature(
    timestamp: str | None,
    signature: str | None,
    body: bytes | bytearray,
    secrets: Sequence[str],
    *,
    now: float,
) -> bool:
    """Say whether *signature* is Slack's of *timestamp* and *body* under one of *secrets*, and
    *timestamp* within five minutes of *now*, both in UNIX seconds. Without secrets nobody is let
    in."""
    from slack_sdk.signature import Clock, SignatureVerifier  # noqa: PLC0415  # for those who have Slack

    class FixedClock(Clock):
        def now(self) -> float:
            return now

    # What is no number raises ValueError there, and a signature beyond ASCII a TypeError.
    if timestamp is None or signature is None or not _TIMESTAMP.fullmatch(timestamp):
        return False
    try:
        return any(
            SignatureVerifier(secret, FixedClock()).is_valid(bytes(body), timestamp, signature)
            for secret in secrets
        )
    except Exception:  # noqa: BLE001  # whatever it is, nobody is let in
        return False


def parse_command(body: bytes | bytearray, *, sandbox_url: str = "") -> SlackCommand:
    """Turn the form *body* into a SlackCommand, or raise InvalidRequest, whatever the bytes are.
    *sandbox_url* is where answers may go beside Slack."""
    try:
        pairs = parse_qsl(
            bytes(body).decode("utf-8"),
            keep_blank_values=True,
            errors="strict",
            max_num_fields=_FIELDS_MAX,
        )
    except ValueError:  # too many fields, or bytes that are no text
        raise InvalidRequest("the body is not the form of a slash command") from None
    form = {name: _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value) for name, value in pairs}
    found = _COMMAND.fullmatch(form.get("command", ""))
    if found is None:
        raise InvalidRequest("`command` must be a slash and up to 32 of a-z, 0-9, - and _")
    for name in ("team_id", "user_id"):
        if not _ID.fullmatch(form.get(name, "")):
            raise InvalidRequest(f"`{name}` must be an id of Slack's")
    response_url = form.get("response_url", "")
    if not is_reply_url(response_url, sandbox_url=sandbox_url):
        raise InvalidRequest(
            f"`response_url` must be on https://{' or https://'.join(REPLY_HOSTS)}"
        )
    fields = {
        "command": form["command"],
        "text": form.get("text", ""),
        "team_id": form["team_id"],
        "user_id": form["user_id"],
        **{name: form.get(name, "")[:_SHORT_CHARACTERS_MAX] for name in _SHORT},
    }
    return SlackCommand(found[1], fields, response_url)


def is_reply_url(url: str, *, sandbox_url: str = "") -> bool:
    """Whether *url* may be answered to: one of Slack's own, or one of *sandbox_url*'s."""
    if not _REPLY_URL.fullmatch(url):
        return False
    if sandbox_url and url.startswith(f"{sandbox_url}/"):
        return True
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError:
        return False
    return (
        parts.scheme == "https"
        and parts.netloc.removesuffix(":443") in REPLY_HOSTS
        and port in (None, 443)
        and parts.path.startswith("/")
    )


def command_id(signature: str) -> str:
    """What a command is known by: Slack signs no two alike, and a copy has the same."""
    return f"slack/{digest(signature)}"


def write_command(kept: KeptCommand) -> str:
    """As the inbox keeps it."""
    command = kept.command
    return json.dumps(
        {
            "version": 1,
            "fields": dict(command.fields),
            "response_url": command.response_url,
            "interim": kept.interim,
            "refusal": kept.refusal,
            "dead": kept.is_dead,
        }
    )


def read_command(body: str) -> KeptCommand:
    """Read what write_command wrote."""
    read = json.loads(body)
    fields = {str(name): str(value) for name, value in read["fields"].items()}
    command = SlackCommand(fields["command"].removeprefix("/"), fields, str(read["response_url"]))
    return KeptCommand(
        command,
        bool(read.get("interim")),
        str(read.get("refusal", "")),
        bool(read.get("dead")),
    )


def to_event(command: SlackCommand, identity: str, *, received: float) -> Event:
    """The event that *command* is. *identity* is what it is known by, *received* when it was taken,
    in UNIX seconds by the ledger's clock."""
    source = f"{SOURCE}/{command.name}"
    new: Json = dict(command.fields)
    return Event(
        id=identity,
        source=source,
        op=Op.INSERT,
        old=None,
        new=new,
        content=digest(source, Op.INSERT.value, canonical(new)),
        body=json.dumps({"version": 1, "fields": dict(command.fields)}),
        created_at=datetime.fromtimestamp(received, UTC),
        reply_url=command.response_url,
        expires_at=received + GIVE_UP_SECONDS,
    )
