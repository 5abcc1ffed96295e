"""The receiver's pages: what arrived at its systems, and forms that arm their faults."""

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import parse_qsl, urlencode, urlsplit

import jinja2

from sandbox.receiver_faults import KINDS, SECONDS_DEFAULT, STATUS_DEFAULT
from sandbox.rest import HTML, Answer, Request, html_page

if TYPE_CHECKING:
    from sandbox.receiver import DownstreamSystem, Receiver

_REFRESH_SECONDS: Final = 3
# Newest first, of all systems together and of one.
_RECENT_MAX: Final = 50
_SHOWN_MAX: Final = 100
_BODY_CHARACTERS_MAX: Final = 20_000
_PREVIEW_CHARACTERS: Final = 120
_HEADERS: Final = (HTML, ("Cache-Control", "no-store"))
_JSON: Final = (("Content-Type", "application/json"), ("Cache-Control", "no-store"))
_PATH: Final = re.compile(r"/systems/([a-z0-9_-]{1,32})(\.json|/arm|/disarm|/forget)?", re.ASCII)


class ReceiverPages:
    def __init__(self, receiver: "Receiver") -> None:
        self._receiver = receiver
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True
        )
        self._templates.filters |= {"moment": _moment, "readable": _readable, "preview": _preview}

    def answer(self, request: Request) -> Answer:
        is_read = request.method in {"GET", "HEAD"}
        if request.path == "/" and is_read:
            return self._overview()
        found = _PATH.fullmatch(request.path)
        system = self._receiver.systems.get(found[1]) if found else None
        if found is None or system is None:
            return Answer(404, html_page("Not found", "There is no such system."), _HEADERS)
        match found[2], request.method:
            case None, "GET" | "HEAD":
                return self._system(system, request.parameters.get("said", ""))
            case ".json", "GET" | "HEAD":
                return Answer(200, self._receiver.list_received(system.name), _JSON)
            case "/arm" | "/disarm" | "/forget", "POST":
                return _posted(request, system, found[2])
            case _:
                return Answer(405, b"", _HEADERS)

    def _overview(self) -> Answer:
        systems = list(self._receiver.systems.values())
        recent = [request for system in systems for request in system.received[-_RECENT_MAX:]]
        recent.sort(key=lambda request: request.at, reverse=True)
        return self._html(
            "receivers.html",
            systems=[(system, self._receiver.url_of(system.name)) for system in systems],
            recent=[
                (request, self._receiver[request.system].counts[request.webhook_id])
                for request in recent[:_RECENT_MAX]
            ],
        )

    def _system(self, system: "DownstreamSystem", said: str) -> Answer:
        newest = reversed(system.received[-_SHOWN_MAX:])
        return self._html(
            "receiver.html",
            system=system,
            url=self._receiver.url_of(system.name),
            shown=[(request, system.counts[request.webhook_id]) for request in newest],
            kinds=KINDS,
            status=STATUS_DEFAULT,
            said=said,
        )

    def _html(self, template: str, **shown: object) -> Answer:
        page = self._templates.get_template(template).render(
            refresh_seconds=_REFRESH_SECONDS, **shown
        )
        return Answer(200, page.encode(), _HEADERS)


def _posted(request: Request, system: "DownstreamSystem", action: str) -> Answer:
    """What a form asks for. A page elsewhere must not play with the sandbox: browsers say where a
    form was."""
    origin = request.headers.get("origin")
    if origin is not None and urlsplit(origin).netloc != request.headers.get("host"):
        return Answer(403, html_page("Forbidden", "The form is of another site."), _HEADERS)
    form = dict(parse_qsl((request.body or b"").decode(errors="replace"), keep_blank_values=True))
    back = f"/systems/{system.name}"
    try:
        match action:
            case "/arm":
                _arm(system, form)
            case "/disarm":
                system.disarm(form.get("kind") or None)
            case _:
                system.forget()
    except ValueError as wrong:
        back += f"?{urlencode({'said': str(wrong)})}"
    return Answer(303, b"", (("Location", back), *_HEADERS))


def _arm(system: "DownstreamSystem", form: Mapping[str, str]) -> None:
    times = form.get("times", "")
    if times and not re.fullmatch(r"[0-9]{1,7}", times, re.ASCII):
        raise ValueError("times is a number from 1, or empty for always")
    status = form.get("status") or str(STATUS_DEFAULT)
    if not re.fullmatch(r"[0-9]{3}", status, re.ASCII):
        raise ValueError("a status is a number from 200 to 599")
    seconds = form.get("seconds") or str(SECONDS_DEFAULT)
    if not re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,3})?", seconds, re.ASCII):
        raise ValueError("seconds are more than 0, and 3600 at most")
    system.arm(
        form.get("kind", ""),
        times=int(times) if times else None,
        status=int(status),
        retry_after=form.get("retry_after", ""),
        seconds=float(seconds),
        location=form.get("location", ""),
    )


def _moment(at: float) -> str:
    """UNIX seconds as a time of day in UTC, with milliseconds."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S.%f")[:-3]


def _readable(body: bytes) -> str:
    """A body as people read it: what is no UTF-8 has signs in its place, what is long is cut."""
    text = body[: 4 * _BODY_CHARACTERS_MAX].decode(errors="replace")
    if len(text) <= _BODY_CHARACTERS_MAX:
        return text
    return f"{text[:_BODY_CHARACTERS_MAX]}… ({len(body)} bytes)"


def _preview(body: bytes) -> str:
    """The beginning of a body, on one line."""
    line = " ".join(body[: 8 * _PREVIEW_CHARACTERS].decode(errors="replace").split())
    return line if len(line) <= _PREVIEW_CHARACTERS else f"{line[: _PREVIEW_CHARACTERS - 1]}…"
