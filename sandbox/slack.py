"""Slack in miniature: people type slash commands, which are signed and posted, and what is answered
to their `response_url` is kept and shown.

    with Slack() as slack:
        command = slack.type("http://127.0.0.1:8080/slack", "/ops-status INC0010001")

Written from Slack's documents (docs.slack.dev: verifying requests, slash commands, handling user
interaction); no Slack was reached. What of an answer is documented is kept to: 30 minutes, five
uses, `ephemeral` unless `in_channel` is said, three escaped characters.

Not certain: the words of a refused answer (`used_url`, `expired_url`), and that both are 404.
"""

import hashlib
import hmac
import json
import re
import secrets
import socket
import struct
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from http.client import HTTPException
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qsl, urlencode, urlsplit

import jinja2

from sandbox.loopback import DIRECT, Loopback

LIVES_SECONDS: Final = 30 * 60.0
USES_MAX: Final = 5
# Slack shows an error to who typed a command that is not answered by then.
ACK_SECONDS_MAX: Final = 3.0
TEAM: Final = "T0SANDBOX"
USER: Final = ("U0ADA0001", "ada")
CHANNEL: Final = ("C0OPS0001", "ops")
# What an answer meets. *taken* ones arrive, and their sender does not hear of it; a *late* one
# arrives after LATE_SECONDS.
FAULTS: Final = (
    *("not_found_404", "gone_410", "error_500", "rate_limit_429", "redirect_302"),
    *("hang", "reset", "late", "taken_then_500", "taken_then_reset"),
)
LATE_SECONDS: Final = 1.0
_HANG_SECONDS: Final = 30.0
_BODY_BYTES_MAX: Final = 1024 * 1024
# A client that says nothing for so long is hung up on.
_IDLE_SECONDS: Final = 60.0
_REFRESH_SECONDS: Final = 2
_COMMAND: Final = re.compile(r"(/\S{1,32})(?:\s+(.*))?", re.DOTALL)


@dataclass(frozen=True, slots=True)
class SlackAnswer:
    """An answer that was taken. *text* is as it was sent; *after_seconds* the command was typed."""

    text: str
    in_channel: bool
    after_seconds: float

    @property
    def shown(self) -> str:
        """As people read it."""
        return self.text.replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")

    @property
    def mentions(self) -> list[str]:
        """Whom or what it would ping or link: what stands between bare angle brackets."""
        return re.findall(r"<([^<>]*)>", self.text)


@dataclass(slots=True, eq=False)
class TypedCommand:
    """A command that somebody typed, and what came back. *status* 0: no answer came in time.
    *shown* is what the person saw at once."""

    text: str
    user: str
    body: bytes
    headers: dict[str, str]
    response_url: str
    typed_at: float
    status: int = 0
    shown: str = ""
    ack_seconds: float = 0.0
    uses: int = 0
    answers: list[SlackAnswer] = field(default_factory=list)
    # The status that each answer got, those that were not taken too; 0 for none.
    tries: list[int] = field(default_factory=list)


class Slack:
    """Slack, from enter to exit. *clock* tells UNIX seconds, by which an answer's address lives;
    *function_url* is where the page's commands go. *port* 0 takes a free one; an OSError with one
    sentence says that it is taken."""

    def __init__(
        self,
        *,
        port: int = 0,
        signing_secret: str = "",
        clock: Callable[[], float] = time.time,
        function_url: str = "",
    ) -> None:
        self.signing_secret = signing_secret or secrets.token_hex(16)
        self.function_url = function_url
        self.commands: list[TypedCommand] = []
        self.clock = clock
        self._faults: list[tuple[str, int | None]] = []
        self._lock = threading.Lock()
        self._arrived = threading.Condition(self._lock)
        self._stopped = threading.Event()
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True
        )
        handler = type("Handler", (_Handler,), {"slack": self})
        self._server = Loopback("the sandbox's Slack", port, handler)

    def __enter__(self) -> Self:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.stop()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    # Commands

    def prepare(self, text: str, *, response_url: str = "", **fields: str) -> TypedCommand:
        """The command *text* as Slack would send it, signed and not sent. *fields* are the form's,
        over usual ones."""
        found = _COMMAND.fullmatch(text.strip())
        if found is None:
            raise ValueError("a command begins with a slash")
        typed_at = self.clock()
        response_url = response_url or (
            f"{self.url}/commands/{TEAM}/{secrets.randbelow(10**12)}/{secrets.token_hex(12)}"
        )
        form = {
            "token": secrets.token_hex(12),
            "team_id": TEAM,
            "team_domain": "sandbox",
            "channel_id": CHANNEL[0],
            "channel_name": CHANNEL[1],
            "user_id": USER[0],
            "user_name": USER[1],
            "command": found[1],
            "text": found[2] or "",
            "api_app_id": "A0SANDBOX",
            "is_enterprise_install": "false",
            "response_url": response_url,
            "trigger_id": secrets.token_hex(16),
            **fields,
        }
        body = urlencode(form).encode()
        # The function compares it with its host's own clock.
        headers = self.sign(body, at=time.time())
        return TypedCommand(text, form["user_name"], body, headers, response_url, typed_at)

    def sign(self, body: bytes, *, at: float) -> dict[str, str]:
        """The headers that Slack sends with *body*."""
        stamp = str(int(at))
        signed = f"v0:{stamp}:".encode() + body
        mac = hmac.new(self.signing_secret.encode(), signed, hashlib.sha256).hexdigest()
        return {
            "Content-Type": "application/x-www-form-urlencoded",
            "User-Agent": "Slackbot 1.0 (+https://api.slack.com/robots)",
            "X-Slack-Request-Timestamp": stamp,
            "X-Slack-Signature": f"v0={mac}",
        }

    def type(self, function_url: str, text: str, **fields: str) -> TypedCommand:
        """Type the command *text*: it is posted to *function_url* once, as Slack does."""
        command = self.prepare(text, **fields)
        self.send(function_url, command)
        return command

    def send(self, function_url: str, command: TypedCommand) -> None:
        """Post *command*, and keep what is answered at once."""
        with self._lock:
            self.commands.append(command)
        began = time.monotonic()
        status, shown = self.send_copy(function_url, command)
        command.ack_seconds = time.monotonic() - began
        command.status, command.shown = status, shown

    def send_copy(self, function_url: str, command: TypedCommand) -> tuple[int, str]:
        """Post *command* once more, byte for byte; the status and the text that is answered at
        once."""
        request = urllib.request.Request(  # noqa: S310  # the url is the test's
            function_url, command.body, command.headers, method="POST"
        )
        status, answer = _post(request)
        return status, _read_text(answer) if status == 200 else ""

    def wait(self, command: TypedCommand, answers: int = 1, *, seconds: float = 20.0) -> list[str]:
        """What the person has read in answer to *command*, as soon as there are *answers*, or
        *seconds* have passed."""
        with self._arrived:
            self._arrived.wait_for(lambda: len(command.answers) >= answers, seconds)
            return [answer.shown for answer in command.answers]

    # Faults

    def arm(self, fault: str, times: int | None = 1) -> None:
        """Have the next *times* answers meet *fault*; all where None."""
        if fault not in FAULTS:
            raise ValueError(f"there is no fault {fault}")
        with self._lock:
            self._faults.append((fault, times))

    def disarm(self) -> None:
        with self._lock:
            self._faults.clear()

    @property
    def armed(self) -> Sequence[tuple[str, int | None]]:
        with self._lock:
            return tuple(self._faults)

    def _take_fault(self) -> str:
        if not self._faults:
            return ""
        fault, times = self._faults[0]
        if times is None:
            return fault
        self._faults[0] = (fault, times - 1)
        if times <= 1:
            self._faults.pop(0)
        return fault

    # Answers

    def take_answer(self, path: str, body: bytes) -> tuple[int, bytes, str]:
        """What an answer posted to *path* gets: status, words, and the fault that it meets."""
        with self._lock:
            fault = self._take_fault()
        if fault == "late":
            self._stopped.wait(LATE_SECONDS)
        with self._arrived:
            url = f"{self.url}{path}"
            found = next((one for one in self.commands if one.response_url == url), None)
            status, words = _REFUSED.get(fault, (0, b""))
            if not status and fault not in ("hang", "reset"):
                status, words = self._keep(found, body)
                if status == 200 and fault == "taken_then_500":
                    status, words = 500, b"server_error"
            if found is not None:
                found.tries.append(0 if fault in ("hang", "reset", "taken_then_reset") else status)
            self._arrived.notify_all()
            return status, words, fault

    def _keep(self, command: TypedCommand | None, body: bytes) -> tuple[int, bytes]:
        if command is None:
            return 404, b"no_service"
        age_seconds = self.clock() - command.typed_at
        if age_seconds > LIVES_SECONDS:
            return 404, b"expired_url"
        if command.uses >= USES_MAX:
            return 404, b"used_url"
        try:
            said = json.loads(body)
            text, kind = said["text"], said.get("response_type", "ephemeral")
        except (ValueError, TypeError, LookupError):
            return 400, b"invalid_payload"
        if not isinstance(text, str) or not text:
            return 400, b"no_text"
        command.uses += 1
        command.answers.append(SlackAnswer(text, kind == "in_channel", age_seconds))
        return 200, b"ok"

    def hang(self) -> None:
        self._stopped.wait(_HANG_SECONDS)

    # The page

    def write_page(self, said: str = "") -> bytes:
        with self._lock:
            commands = self.commands[::-1][:50]
            waiting = any(
                one.status == 200 and not one.answers and self.clock() - one.typed_at < 60
                for one in commands
            )
        page = self._templates.get_template("slack.html").render(
            commands=commands,
            armed=self.armed,
            faults=FAULTS,
            said=said,
            waiting=waiting,
            refresh_seconds=_REFRESH_SECONDS,
            channel=CHANNEL[1],
            user=USER[1],
        )
        return page.encode()

    def play(self, form: dict[str, str]) -> str:
        """What a person does on the page; what there is to say about it."""
        try:
            match form.get("do"):
                case "arm":
                    times = form.get("times", "")
                    self.arm(form.get("name", ""), int(times) if times else None)
                case "disarm":
                    self.disarm()
                case _:
                    self.type(self.function_url, form.get("text", ""))
        except ValueError as wrong:
            return str(wrong)
        return ""


_REFUSED: Final = {
    "not_found_404": (404, b"no_service"),
    "gone_410": (410, b"channel_is_archived"),
    "error_500": (500, b"server_error"),
    "rate_limit_429": (429, b"rate_limited"),
    "redirect_302": (302, b""),
}


def _post(request: urllib.request.Request) -> tuple[int, bytes]:
    try:
        with DIRECT.open(request, timeout=ACK_SECONDS_MAX) as answer:
            return answer.status, answer.read(_BODY_BYTES_MAX)
    except urllib.error.HTTPError as refused:
        with refused:
            return refused.code, refused.read(_BODY_BYTES_MAX)
    except (OSError, HTTPException):
        return 0, b""


def _read_text(answer: bytes) -> str:
    try:
        said: Any = json.loads(answer)
    except ValueError:
        return answer.decode(errors="replace")
    text = said.get("text", "") if isinstance(said, dict) else ""
    return SlackAnswer(str(text), in_channel=False, after_seconds=0.0).shown


class _Handler(BaseHTTPRequestHandler):
    slack: Slack
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        if parts.path != "/":
            self._answer(404, b"there is nothing here")
            return
        said = dict(parse_qsl(parts.query)).get("said", "")
        self._answer(200, self.slack.write_page(said), kind="text/html;charset=utf-8")

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(min(length, _BODY_BYTES_MAX))
        if urlsplit(self.path).path == "/":
            self._play(body)
            return
        status, words, fault = self.slack.take_answer(self.path, body)
        if fault == "hang":
            self.slack.hang()
        if fault in ("hang", "reset", "taken_then_reset"):
            self._reset()
            return
        headers = {"Location": f"{self.slack.url}/"} if status == 302 else {}
        headers |= {"Retry-After": "1"} if status == 429 else {}
        self._answer(status, words, headers=headers)

    def _play(self, body: bytes) -> None:
        origin = self.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != self.headers.get("Host"):
            self._answer(403, b"the form is of another site")
            return
        said = self.slack.play(dict(parse_qsl(body.decode(errors="replace"))))
        back = f"/?{urlencode({'said': said})}" if said else "/"
        self._answer(303, b"", headers={"Location": back})

    def _reset(self) -> None:
        """Hang up as a host that has crashed does."""
        with suppress(OSError):
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        with suppress(OSError):
            self.connection.close()

    def _answer(
        self,
        status: int,
        body: bytes,
        *,
        kind: str = "text/html",
        headers: dict[str, str] | None = None,
    ) -> None:
        with suppress(OSError):  # the client went away
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Cache-Control", "no-store")
            for name, value in (headers or {}).items():
                self.send_header(name, value)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing: what matters is kept."""
