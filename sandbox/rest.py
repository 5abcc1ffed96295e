"""A request to the instance, what it is aimed at, and how the platform words its answers."""

import json
import re
import uuid
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, quote, unquote, urlencode

from sandbox.schema import Kind, Record, Refused, missing
from sandbox.tables import JOURNAL_LISTS, SCHEMA, Tables
from sandbox.xmlformat import read_xml, write_xml

# KB0747638.
BODY_BYTES_MAX: Final = 10_485_760
# The platform's own default for sysparm_limit.
_LIMIT_DEFAULT: Final = 10_000

JSON: Final = ("Content-Type", "application/json;charset=UTF-8")
_XML: Final = ("Content-Type", "application/xml;charset=UTF-8")
HTML: Final = ("Content-Type", "text/html;charset=UTF-8")
# A real instance sends them all; sending them back ties a client to one node and one transaction at
# a time.
_COOKIES: Final = (
    ("JSESSIONID", "/; HttpOnly"),
    ("glide_user_route", "/; HttpOnly"),
    ("glide_user", "/; HttpOnly"),
    ("glide_user_session", "/; HttpOnly"),
    ("glide_session_store", "/; HttpOnly"),
    ("BIGipServerpool_sandbox", "/"),
)


@dataclass(frozen=True, slots=True)
class Request:
    """A request, read whole. *headers* have lower-case names; *body* is None where it was too
    large."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes | None
    length: int
    peer: str

    @property
    def parameters(self) -> dict[str, str]:
        return dict(parse_qsl(self.query, keep_blank_values=True))

    @property
    def meant(self) -> str:
        """The method that is meant."""
        override = self.headers.get("x-http-method-override", "").upper()
        return override if override and self.method == "POST" else self.method

    @property
    def content_type(self) -> str:
        """Of the body, without its parameters; empty where nothing was said."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def wants_xml(self) -> bool:
        """If the answer is to be XML: where it is preferred to JSON, which is the default."""
        accepted = self.headers.get("accept", "")
        return _quality(accepted, _XML_TYPES) > _quality(accepted, _JSON_TYPES)

    @property
    def sent(self) -> dict[str, Any]:
        """The object in the body; of several, the first; without a body, an empty one. Raises
        Refused (400)."""
        try:
            body = self.body or b"{}"
            sent = (
                read_xml(body)
                if self.body and self.content_type in _XML_TYPES
                else json.loads(body)
            )
        except (ValueError, RecursionError) as wrong:
            raise Refused(400, "Exception while reading request", "The body is no JSON") from wrong
        if isinstance(sent, list) and sent:
            sent = sent[0]
        if not isinstance(sent, dict):
            raise Refused(400, "Exception while reading request", "The body is no JSON object")
        return sent


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class Target:
    """What a path leads to: an *api*, and of it a table and a record where they are named. *rest*
    is what follows."""

    api: str
    version: str = ""
    table: str = ""
    sys_id: str = ""
    rest: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Rights:
    """The tables that a user may read, insert into, change, and delete from; None is all of them.

    To delete, one may write too. Of the tables in *own* the user sees only the records that name
    *user_id* in one of the columns. *follows_record*: files are read and written by who may read
    and write the records that they are of, and of table task the user sees what may be read in the
    record's own table.
    """

    may_read: Collection[str] | None = None
    may_create: Collection[str] | None = None
    may_write: Collection[str] | None = None
    may_delete: Collection[str] | None = None
    own: Mapping[str, Collection[str]] = field(default_factory=dict)
    user_id: str = ""
    follows_record: bool = False

    def check(self, method: str, table: str, *, single: bool, whole: bool = False) -> None:
        """Raise Refused where an ACL forbids *method* on *table*: a *single* record that is hidden
        is not there.

        *whole*: every record is needed, not those of the user alone.
        """
        verb = {"GET": "", "HEAD": "", "POST": "Insert", "DELETE": "Delete"}.get(method, "Update")
        known = self.may_read is None or table in self.may_read
        if self._allows(verb, table) and (known or not whole):
            return
        if verb:
            raise Refused(
                403, "Operation Failed", f"ACL Exception {verb} Failed due to security constraints"
            )
        if single:
            raise missing()
        raise Refused(403, "Insufficient rights to query records")

    def check_file(self, method: str, table: str, *, single: bool) -> None:
        """The same for a file that is attached to a record of *table*."""
        if not self.follows_record:
            self.check(method, "sys_attachment", single=single)
        elif method in {"GET", "HEAD"}:
            self.check(method, table, single=single)
        elif not self._allows("Update", table):
            self.check(method, "", single=single)  # nobody may write to no table

    def sees(self, table: str, row: Record) -> bool:
        """If the user may read this one record of a table of which some may be read."""
        if table == "task" and self.follows_record:
            kept = row["sys_class_name"]
            # Of the own incidents the columns that name the user are not all in table task.
            return self._allows("", kept) and kept not in self.own
        if table == "sys_attachment" and self.follows_record:
            return self._allows("", row["table_name"]) and row["table_name"] not in self.own
        return table not in self.own or any(
            row[column] == self.user_id for column in self.own[table]
        )

    def _allows(self, verb: str, table: str) -> bool:
        if verb == "" and (
            table in self.own or (table in {"sys_attachment", "task"} and self.follows_record)
        ):
            return True
        sets = {
            "": [self.may_read],
            "Insert": [self.may_create],
            "Delete": [self.may_write, self.may_delete],
        }
        return all(
            allowed is None or table in allowed for allowed in sets.get(verb, [self.may_write])
        )


@dataclass(frozen=True, slots=True)
class Site:
    """What every API works on: the records, the address, who is logged in and what that user may
    do.

    *version* is the one that the request named, if any: the addresses in its answer name it too. In
    recorded answers ``/api/now/v2/table`` is answered with links and a Location of v2, an
    attachment sent to ``/api/now`` with none, and PySNC's tests compare the Location for one sent
    to v1 with its own address.
    """

    tables: Tables
    url: str
    user: str
    rights: Rights
    version: str = ""

    @property
    def api_url(self) -> str:
        return f"{self.url}/api/now{'/' if self.version else ''}{self.version}"


# --- addresses
# --------------------------------------------------------------------------------------------------

_TABLE_PATH = re.compile(r"/api/now/(?:(v1|v2)/)?table/([^/]+)(?:/([^/]+))?/?")
_ATTACHMENT_PATH = re.compile(r"/api/now/(?:(v1|v2)/)?attachment(?:/([^/]+))?(/file)?/?")
_CHANGE_PATH = re.compile(r"/api/sn_chg_rest/(?:(v1)/)?change((?:/[^/]+)*)/?")
_STATS_PATH = re.compile(r"/api/now/(?:(v1|v2)/)?stats/([^/]+)/?")
_OTHER_PATH = re.compile(r"/api/now/(?:(v1|v2)/)?(batch|tinyurl)/?")


def target(path: str) -> Target | None:
    """What *path* leads to; None where there is nothing."""
    if found := _TABLE_PATH.fullmatch(path):
        return Target("table", found[1] or "", unquote(found[2]), unquote(found[3] or ""))
    if found := _ATTACHMENT_PATH.fullmatch(path):
        rest = ("file",) if found[3] else ()
        return Target("attachment", found[1] or "", "sys_attachment", unquote(found[2] or ""), rest)
    if found := _CHANGE_PATH.fullmatch(path):
        parts = tuple(unquote(part) for part in found[2].split("/") if part)
        return Target("change", found[1] or "", "change_request", rest=parts)
    if found := _STATS_PATH.fullmatch(path):
        return Target("stats", found[1] or "", unquote(found[2]))
    if found := _OTHER_PATH.fullmatch(path):
        return Target(found[2], found[1] or "")
    return None


_JSON_TYPES: Final = ("application/json",)
_XML_TYPES: Final = ("application/xml", "text/xml")


def check_headers(request: Request, called: Target) -> None:
    """Raise Refused where the platform would not read the request, or could not answer it: 400, 406
    or 415.

    What is not said is JSON: "Default: application/json" for both headers, on the pages of the
    Table, Attachment and Aggregate API. ServiceNow's page about all of them has it otherwise (400),
    and its own asynchronous Python client says neither.
    """
    accepted, batch = request.headers.get("accept", ""), called.api == "batch"
    # A file comes as what it is; a batch is JSON alone (batch-api.html), and its items are asked
    # one by one.
    answers = _JSON_TYPES if batch else _JSON_TYPES + _XML_TYPES
    if called.rest != ("file",) and not _quality(accepted, answers):
        raise Refused(406, "Not Acceptable", f"Accept must allow {' or '.join(answers[:2])}")
    if request.body is None:
        words = f"content-length = {request.length} bytes. Max allowed: {BODY_BYTES_MAX} bytes."
        raise Refused(400, f"Rejected large REST payload with {words}")
    bodies = ("", *answers)
    if (
        called.api != "attachment"
        and request.meant in {"POST", "PUT", "PATCH"}
        and request.content_type not in bodies
    ):
        raise Refused(
            415, "Unsupported Media Type", f"Content-Type must be {' or '.join(answers[:2])}"
        )


def _quality(accepted: str, kinds: Collection[str]) -> float:
    """How much *accepted* wants one of the *kinds*, from 0 to 1; JSON where nothing was said."""
    if not accepted.strip():
        return float("application/json" in kinds)
    said: dict[str, float] = {}
    for one in accepted.lower().split(","):
        kind, *parameters = (part.strip() for part in one.split(";"))
        weights = [part.removeprefix("q=") for part in parameters if part.startswith("q=")]
        said[kind] = (
            float(weights[0])
            if weights and re.fullmatch(r"[01](\.[0-9]{0,3})?", weights[0])
            else 1.0
        )

    def weight(kind: str) -> float:
        # The most particular range counts (RFC 9110, 12.5.1).
        ranges = (kind, f"{kind.partition('/')[0]}/*", "*/*")
        return next((said[asked] for asked in ranges if asked in said), 0.0)

    return max(weight(kind) for kind in kinds)


def no_such_method(request: Request) -> Refused:
    return Refused(405, "Method not allowed", f"{request.meant} is not supported by {request.path}")


# --- answers
# --------------------------------------------------------------------------------------------------


def headers() -> tuple[tuple[str, str], ...]:
    """What every real answer carries."""
    cookies = [
        ("Set-Cookie", f"{name}={uuid.uuid4().hex.upper()}; Path={rest}") for name, rest in _COOKIES
    ]
    return (
        JSON,
        ("X-Is-Logged-In", "true"),
        ("X-Transaction-ID", uuid.uuid4().hex[:12]),
        ("Cache-Control", "no-cache,no-store,must-revalidate,max-age=-1"),
        ("Pragma", "no-store,no-cache"),
        ("Expires", "0"),
        *cookies,
    )


def answered(status: int, content: object, *more: tuple[str, str]) -> Answer:
    return Answer(status, json.dumps(content).encode(), (*headers(), *more))


def represented(answer: Answer, request: Request) -> Answer:
    """*answer* in the format that *request* asks for; what is no JSON, a page or a file, stays as
    it is."""
    if not request.wants_xml or JSON not in answer.headers or not answer.body:
        return answer
    try:
        content = json.loads(answer.body)
    except ValueError:  # it was cut off
        return answer
    others = tuple(header for header in answer.headers if header != JSON)
    return Answer(answer.status, write_xml(content), (_XML, *others))


def failed(refused: Refused) -> Answer:
    envelope = {
        "error": {"message": refused.message, "detail": refused.detail},
        "status": "failure",
    }
    if refused.status == 401:
        return answered(401, envelope, ("WWW-Authenticate", 'BASIC realm="Service-now"'))
    return answered(refused.status, envelope)


def plainly(status: int, content: object) -> Answer:
    """For those who control the sandbox, not for ServiceNow's clients."""
    return Answer(status, json.dumps(content).encode(), (JSON,))


def html_page(title: str, content: str) -> bytes:
    return (
        f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{content}</body></html>"
    ).encode()


# --- lists
# --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Page:
    """The rows that a list was asked for, and what its headers say about the others."""

    rows: list[Record]
    headers: tuple[tuple[str, str], ...]


def page(site: Site, request: Request, table: str, *, also: str = "") -> Page:
    """The records of *table* that *request* asks for, by ``sysparm_query`` or by plain pairs, and
    *also*."""
    asked = request.parameters
    query, pairs = conditions(request, also=also)
    limit = number(asked.get("sysparm_limit"), _LIMIT_DEFAULT)
    offset = number(asked.get("sysparm_offset"), 0)
    rows = site.tables.select(table, query, pairs=pairs, limit=limit, offset=offset, by=site.user)
    # ACLs come after the limit, and the count is of all: a short page is not the last one.
    rows = [row for row in rows if site.rights.sees(table, row)]
    uncounted = asked.get("sysparm_no_count") == "true"
    total = len(rows) if uncounted else site.tables.count(table, query, pairs=pairs, by=site.user)
    more = [("X-Total-Count", str(total))]
    if asked.get("sysparm_suppress_pagination_header") != "true":
        more.append(
            (
                "Link",
                _links(f"{site.url}{request.path}", asked, limit=limit, offset=offset, total=total),
            )
        )
    return Page(rows, tuple(more))


def conditions(request: Request, *, also: str = "") -> tuple[str, dict[str, str]]:
    """The encoded query of *request*, and its plain pairs of columns and values: they exclude each
    other."""
    asked = request.parameters
    pairs = {name: value for name, value in asked.items() if not name.startswith("sysparm_")}
    query = "^".join(filter(None, [also, asked.get("sysparm_query", "")]))
    return query, {} if "sysparm_query" in asked else pairs


def number(written: str | None, default: int) -> int:
    return int(written) if written and re.fullmatch(r"[0-9]{1,9}", written) else default


def _links(address: str, asked: Mapping[str, str], *, limit: int, offset: int, total: int) -> str:
    step = max(limit, 1)
    starts = {
        "first": 0,
        "prev": max(offset - step, 0),
        "next": offset + step,
        "last": max(total - 1, 0) // step * step,
    }
    reached = {"prev": offset > 0, "next": offset + step < total}
    links = []
    for relation, start in starts.items():
        if reached.get(relation, True):
            query = urlencode({**asked, "sysparm_offset": str(start)}, quote_via=quote)
            links.append(f'<{address}?{query}>;rel="{relation}"')
    return ",".join(links)


# --- records, as they are shown
# ------------------------------------------------------------------------------------


# A password is shown as stars, whatever it is (PySNC's tests ask for the administrator's); its
# value is not told here.
_SECRET: Final = frozenset({"user_password"})


class Presenter:
    """Shows records as the parameters of one request ask for it. What it has looked up, it
    remembers."""

    def __init__(self, site: Site, asked: Mapping[str, str]) -> None:
        self._site = site
        self._display = asked.get("sysparm_display_value", "false")
        self._linked = asked.get("sysparm_exclude_reference_link") != "true"
        self._fields = [
            name.strip() for name in asked.get("sysparm_fields", "").split(",") if name.strip()
        ]
        self._seen: dict[tuple[str, str, str], str] = {}

    def record(self, table: str, row: Record) -> dict[str, object]:
        if not self._fields:
            return {name: self._value(table, name, row) for name in row}
        shown = {}
        for path in self._fields:
            # A dotted path comes back under itself; what leads nowhere is left out.
            walked = self._site.tables.walked(table, row, path)
            if walked is not None:
                shown[path] = self._value(*walked)
        return shown

    def shown(self, table: str, name: str, row: Record | None) -> str:
        """The display value of a column of *row*, which a path that ends half-way has none of."""
        if row is None:
            return ""
        if name in _SECRET:
            return "********"
        if SCHEMA[table][name].kind is Kind.JOURNAL or name in JOURNAL_LISTS:
            return self._site.tables.journal(table, row["sys_id"], name, by=self._site.user)
        if table == "task":  # the labels of its states are those of the table where the record is
            table = row["sys_class_name"]
        value = row[name]
        key = (table, name, value)
        if key not in self._seen:
            self._seen[key] = self._site.tables.shown(table, name, value, by=self._site.user)
        return self._seen[key]

    def shown_value(self, table: str, path: str, value: str) -> str:
        """The display value of *value* in the column that a dotted *path* leads to."""
        *steps, name = path.split(".")
        for step in steps:
            table = SCHEMA[table][step].refers_to
        return self._site.tables.shown(table, name, value, by=self._site.user)

    def _value(self, table: str, name: str, row: Record | None) -> object:
        """One value as ``sysparm_display_value`` and ``sysparm_exclude_reference_link``
        ask for it."""
        column = SCHEMA[table][name]
        value = row[name] if row and name not in _SECRET else ""
        reference = column.kind is Kind.REFERENCE and bool(value)
        link = f"{self._site.api_url}/table/{column.refers_to}/{value}"
        linked = {"link": link} if reference and self._linked else {}
        match self._display:
            case "all":
                return {"display_value": self.shown(table, name, row), "value": value} | linked
            case "true":
                shown = self.shown(table, name, row)
                return {"display_value": shown} | linked if linked else shown
            case _:
                return linked | {"value": value} if linked else value
