"""Pages on which a person plays ServiceNow: the incidents, one with its journal, a new one, and the
faults.

Forms answer 303 back to their page; what the platform refuses is said there.
"""

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import jinja2

from sandbox.faults import FAULTS, LOGIN_FAULTS, Fault, Faults
from sandbox.rest import HTML, Answer, Request, html_page
from sandbox.schema import SCHEMA, Record, Refused, defaults
from sandbox.tables import ADMIN, CANCELED, CLOSED, RESOLVED, Tables

_REFRESH_SECONDS: Final = 3
_ROWS_MAX: Final = 200
# A page that asks for more than itself would not be a small page.
_HEADERS: Final = (HTML, ("Cache-Control", "no-store"))
_ENDED: Final = frozenset({RESOLVED, CLOSED, CANCELED})
# What a person changes by a form, and what it is called there.
_CHANGEABLE: Final = {
    "short_description": "Short description",
    "state": "State",
    "hold_reason": "On hold reason",
    "impact": "Impact",
    "urgency": "Urgency",
    "assignment_group": "Assignment group",
    "assigned_to": "Assigned to",
}
# What a person says of a new incident.
_GIVEN: Final = {
    "short_description": "Short description",
    "description": "Description",
    "impact": "Impact",
    "urgency": "Urgency",
    "assignment_group": "Assignment group",
}
_NEW: Final = "/incidents/new"
_FORMS: Final = ("/resolve", "/comment", "/change")


class Pages:
    def __init__(self, tables: Tables, faults: Faults) -> None:
        self._tables = tables
        self._faults = faults
        self._templates = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True
        )

    def answer(self, request: Request) -> Answer:
        match request.method, request.path:
            case "GET" | "HEAD", "/":
                return _sent_to("/incidents", status=302)
            case "GET" | "HEAD", "/incidents":
                return self._incidents()
            case "GET" | "HEAD", "/faults":
                names = sorted(FAULTS | LOGIN_FAULTS)
                return self._html(
                    "faults.html", names=names, armed=self._faults.armed(), said=_said(request)
                )
            case "POST", "/faults/arm" | "/faults/disarm":
                return self._posted(request, None, "/faults")
            case "GET" | "HEAD", path if path == _NEW:
                return self._html(
                    "new.html",
                    given=self._listed(_GIVEN),
                    usual=defaults("incident"),
                    said=_said(request),
                )
            case "POST", path if path == _NEW:
                return self._posted(request, None, _NEW)
            case "GET" | "HEAD", path if found := self._found(path):
                return self._incident(found, _said(request))
            case "POST", path if path.endswith(_FORMS) and (
                found := self._found(path.rpartition("/")[0])
            ):
                return self._posted(request, found, f"/incidents/{quote(found['number'])}")
            case "GET" | "HEAD", _:
                return Answer(404, html_page("Not found", "There is nothing here."), _HEADERS)
            case _:
                return Answer(405, b"", _HEADERS)

    def _found(self, path: str) -> Record | None:
        called = re.fullmatch(r"/incidents/([A-Za-z0-9]+)", path)
        found = self._tables.select("incident", f"number={called[1]}", limit=1) if called else []
        return found[0] if found else None

    def _incidents(self) -> Answer:
        rows = self._tables.select(
            "incident", "ORDERBYDESCsys_updated_on^ORDERBYDESCnumber", limit=_ROWS_MAX
        )
        shown = [row | self._shown(row, ("state", "priority", "assignment_group")) for row in rows]
        incidents = list(zip(rows, shown, strict=True))
        return self._html("incidents.html", incidents=incidents, armed=self._faults.armed())

    def _incident(self, row: Record, said: str) -> Answer:
        journal = self._tables.select("sys_journal_field", f"element_id={row['sys_id']}")
        return self._html(
            "incident.html",
            row=row,
            shown=self._shown(row, row),
            journal=journal[::-1],
            codes=[code for code, _ in self._choices("close_code")],
            changeable=self._listed(_CHANGEABLE),
            ended=row["state"] in _ENDED,
            said=said,
        )

    def _listed(self, columns: Mapping[str, str]) -> list[tuple[str, str, list[tuple[str, str]]]]:
        """Each of *columns* with its label and its choices."""
        return [(column, label, self._choices(column)) for column, label in columns.items()]

    def _choices(self, column: str) -> list[tuple[str, str]]:
        """The values that a person may choose for *column*, each with its label; none for a text
        that is typed."""
        table = SCHEMA["incident"][column].refers_to
        if table:
            records = self._tables.select(table, "active=true^ORDERBYname")
            return [("", "–"), *((record["sys_id"], record["name"]) for record in records)]
        choices = self._tables.select(
            "sys_choice", f"name=incident^element={column}^ORDERBYsequence"
        )
        # A state is never empty.
        none = [("", "–")] if column == "hold_reason" else []
        return none + [(choice["value"], choice["label"]) for choice in choices]

    def _posted(self, request: Request, row: Record | None, back: str) -> Answer:
        """What a form asks for, of *row* where it is about one; *back* is the form's page."""
        if not _from_here(request):
            return Answer(403, html_page("Forbidden", "The form is of another site."), _HEADERS)
        form = dict(
            parse_qsl((request.body or b"").decode(errors="replace"), keep_blank_values=True)
        )
        action = request.path.rpartition("/")[2]
        try:
            match action:
                case "arm":
                    self._faults.arm(_fault(form))
                case "disarm":
                    self._faults.disarm(form.get("name") or None)
                case "new":
                    fields = {column: form[column] for column in _GIVEN if column in form}
                    made = self._tables.insert("incident", fields, by=ADMIN)
                    return _sent_to(f"/incidents/{quote(made['number'])}")
                case "resolve" if row is not None:
                    fields = {
                        "close_code": form.get("close_code", ""),
                        "close_notes": form.get("close_notes", ""),
                    }
                    self._write(row, fields | {"state": RESOLVED})
                case "change" if row is not None:
                    self._write(row, _changed(form))
                case "comment" if row is not None:
                    kind = "work_notes" if form.get("kind") == "work_notes" else "comments"
                    self._write(row, {kind: form.get("text", "")})
                case _:
                    return Answer(405, b"", _HEADERS)
        except Refused as refused:
            return _sent_to(f"{back}?{urlencode({'said': refused.detail or refused.message})}")
        except ValueError as wrong:
            return _sent_to(f"{back}?{urlencode({'said': str(wrong)})}")
        return _sent_to(back)

    def _write(self, row: Record, fields: Record) -> None:
        self._tables.update("incident", row["sys_id"], fields, by=ADMIN)

    def _shown(self, row: Record, columns: Iterable[str]) -> Record:
        return {column: self._tables.shown("incident", column, row[column]) for column in columns}

    def _html(self, template: str, **shown: object) -> Answer:
        page = self._templates.get_template(template).render(
            refresh_seconds=_REFRESH_SECONDS, **shown
        )
        return Answer(200, page.encode(), _HEADERS)


def _from_here(request: Request) -> bool:
    """A page elsewhere must not play with the sandbox: browsers say where a form was."""
    origin = request.headers.get("origin")
    return origin is None or urlsplit(origin).netloc == request.headers.get("host")


def _said(request: Request) -> str:
    return request.parameters.get("said", "")


def _fault(form: Record) -> Fault:
    times = form.get("times", "")
    if times and not re.fullmatch(r"[1-9][0-9]{0,5}", times):
        raise ValueError("times is a number from 1, or empty for always")
    return Fault(form.get("name", ""), int(times) if times else None)


def _changed(form: Record) -> Record:
    """What the person changed: a form that was open for a while must not undo what others did."""
    return {
        column: form[column]
        for column in _CHANGEABLE
        if column in form and form[column] != form.get(f"was_{column}")
    }


def _sent_to(path: str, *, status: int = 303) -> Answer:
    return Answer(status, b"", (("Location", path), *_HEADERS))
