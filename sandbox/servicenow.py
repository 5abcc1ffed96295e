"""ServiceNow in miniature: a Table API on a real socket, with the faults that the real one is known for.

    with ServiceNow() as servicenow:
        requests.post(f"{servicenow.url}/api/now/table/incident", json={...}, auth=("svc.hasura", "sandbox"))

What it answers is written from ServiceNow's documentation and from recorded answers; no instance was asked. The records
and the platform's rules are in tables.py; here are HTTP, authentication, faults, and two pages for people to look at.
"""

import argparse
import base64
import binascii
import hmac
import json
import math
import os
import re
import select
import signal
import socket
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import parse_qsl, quote, unquote, urlencode

import jinja2

from sandbox.loopback import Loopback
from sandbox.tables import ADMIN, SCHEMA, Kind, Record, Refused, Tables, missing

# KB0747638.
_BODY_BYTES_MAX: Final = 10_485_760
# What is read of a body that is too large before the connection is given up.
_DISCARD_BYTES_MAX: Final = 64 * 1024 * 1024
# A connection that says nothing for so long is closed.
_IDLE_SECONDS: Final = 60.0
# How often it is looked whether what is committed late has its time.
_LATE_LOOK_SECONDS: Final = 0.02
# Accounts lock after about five failures in fifteen minutes.
_FAILURES_MAX: Final = 5
_FAILURES_WITHIN_SECONDS: Final = 900.0
# The platform's own default for sysparm_limit.
_LIMIT_DEFAULT: Final = 10_000
_REFRESH_SECONDS: Final = 3
_PAGE_ROWS_MAX: Final = 200


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API, as it was answered. *status* 0: it got no answer. *at* is UNIX seconds.

    *method* is what was meant (``X-HTTP-Method-Override`` applied); *headers* are without the credentials.
    """

    method: str
    path: str
    table: str
    sys_id: str
    status: int
    at: float
    body: dict[str, Any] | None
    query: str = ""
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True)
class Request:
    """A request, read whole. *headers* have lower-case names; *body* is None where it was too large."""

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


@dataclass(frozen=True, slots=True)
class Answer:
    status: int
    body: bytes = b""
    headers: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class _Late:
    """What is committed later: *at* is UNIX seconds by the instance's clock, or *by*, on the monotonic one."""

    at: float
    by: float
    commit: Callable[[], None]


# --- faults --------------------------------------------------------------------------------------------------------

# At the door: the request is not looked at, nothing is stored.
_AT_THE_DOOR: Final = frozenset(
    {
        "down",
        "reset",
        "slow",
        "session_sync_202",
        "rate_limit_429",
        "semaphore_429",
        "hibernating_html_200",
        "hibernating_redirect_302",
        "sso_html_200",
        "adc_502",
        "unavailable_503",
    }
)
# Behind the login, and nothing is stored.
_REFUSALS: Final = frozenset({"error_500", "acl_403", "acl_flap_403", "business_rule_403", "data_policy_403"})
# The work is done and the answer is wrong, late or missing; with commit_late the work is done later.
_SPOILED: Final = frozenset(
    {
        "commit_then_500",
        "commit_then_403",
        "commit_then_reset",
        "commit_then_hang",
        "commit_late",
        "partial_200",
        "truncated_200",
        "created_without_sys_id",
    }
)
# The answer is good and old.
_LAGGING: Final = frozenset({"stale_read"})
FAULTS: Final = _AT_THE_DOOR | _REFUSALS | _SPOILED | _LAGGING


@dataclass(slots=True)
class Fault:
    """A fault that waits for its requests; *times* None is until removed. None in *method* or *table* is any."""

    name: str
    times: int | None = 1
    method: str | None = None
    table: str | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in FAULTS:
            raise ValueError(f"there is no fault {self.name!r}; there are {', '.join(sorted(FAULTS))}")

    def concerns(self, method: str, table: str) -> bool:
        return (
            self.method in {None, method}
            and self.table in {None, table}
            and (self.name not in _LAGGING or method in {"GET", "HEAD"})
        )


class Faults:
    """The armed faults, first come, first served."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[Fault] = []

    def arm(self, fault: Fault) -> None:
        with self._lock:
            self._armed.append(fault)

    def disarm(self) -> None:
        with self._lock:
            self._armed.clear()

    def armed(self) -> list[Fault]:
        with self._lock:
            return list(self._armed)

    def take(self, among: Iterable[str], method: str, table: str) -> Fault | None:
        """The fault that this request meets, if it is one of *among*; used up if it had a number."""
        with self._lock:
            met = next((fault for fault in self._armed if fault.concerns(method, table)), None)
            if met is None or met.name not in among:
                return None
            if met.times is not None:
                met.times -= 1
                if met.times < 1:
                    self._armed.remove(met)
            return met


# --- the instance --------------------------------------------------------------------------------------------------

_TABLE_PATH = re.compile(r"/api/now/(?:(v1|v2)/)?table/([^/]+)(?:/([^/]+))?/?")
# A real instance sends them all; sending them back ties a client to one node and one transaction at a time.
_COOKIES: Final = (
    ("JSESSIONID", "/; HttpOnly"),
    ("glide_user_route", "/; HttpOnly"),
    ("glide_user", "/; HttpOnly"),
    ("glide_user_session", "/; HttpOnly"),
    ("glide_session_store", "/; HttpOnly"),
    ("BIGipServerpool_sandbox", "/"),
)
_JSON: Final = ("Content-Type", "application/json;charset=UTF-8")
_HTML: Final = ("Content-Type", "text/html;charset=UTF-8")
# A page that asks for more than itself would not be a small page.
_PAGE_HEADERS: Final = (_HTML, ("Cache-Control", "no-store"))


class ServiceNow:
    """A small ServiceNow on loopback, from enter to exit; its records live as long as it does.

    *port* 0 takes a free one. *honours_sys_id* off: an insert gets an id of the instance's own. *clock* gives UNIX
    seconds. Entering raises OSError with a sentence where the port is taken.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        username: str = "svc.hasura",
        password: str = "sandbox",  # noqa: S107  # the sandbox's, printed by make run
        honours_sys_id: bool = True,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.username = username
        self.password = password
        self.calls: list[Call] = []
        self.refused_logins: list[float] = []
        self.tables = Tables(user=username, now=clock, honours_sys_id=honours_sys_id)
        self._port = port
        self._clock = clock
        self._faults = Faults()
        self._lock = threading.Lock()
        self._failures: list[float] = []
        self._stopped = threading.Event()
        self._late: list[_Late] = []
        self._latecomers: threading.Thread | None = None
        self._committing = threading.Lock()
        self._pages = jinja2.Environment(
            loader=jinja2.FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True
        )

    def __enter__(self) -> Self:
        try:
            self._server = _Server(self, self._port)
        except OSError:
            self.tables.close()
            raise
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.stop()
        if self._latecomers is not None:
            self._latecomers.join()
        self.tables.close()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}"

    # What a test or a person does to the instance.

    def arm(
        self,
        name: str,
        *,
        times: int | None = 1,
        method: str | None = None,
        table: str | None = None,
        seconds: float = 0.0,
    ) -> None:
        """Let the next *times* matching requests meet the fault *name*; None: until disarmed."""
        self._faults.arm(Fault(name, times, method, table, seconds))

    def disarm(self) -> None:
        """Remove every fault. What commit_late has already taken is still committed at its time."""
        self._faults.disarm()

    def armed(self) -> list[Fault]:
        """The faults that still wait for their requests."""
        return self._faults.armed()

    @property
    def in_flight(self) -> int:
        """Requests that are not answered yet, though their sender may be gone; one that is sent counts, read or not."""
        # In this order: who reads counts first, so that nothing is between the two.
        unread = self._server.has_unread()
        return self._server.in_flight or int(unread)

    def commit_now(self, *, due_by: float = math.inf) -> None:
        """Commit what commit_late has taken and not committed yet, in the order in which it came.

        *due_by*, UNIX seconds by the instance's clock: only what has its time by then.
        """
        with self._committing:
            with self._lock:
                due = [late for late in self._late if late.at <= due_by or late.by <= time.monotonic()]
                self._late = [late for late in self._late if late not in due]
            for late in due:
                late.commit()

    def catch_up(self) -> None:
        """Let reads have caught up: stale_read hides only what is written from now on."""
        self.tables.catch_up()

    def unlock(self) -> None:
        """Unlock the integration user, as an administrator does."""
        with self._lock:
            self._failures.clear()

    def forget(self) -> None:
        """Forget the calls that were made."""
        with self._lock:
            self.calls.clear()

    def take_calls(self) -> list[Call]:
        """The calls that were made since the last time of asking or forgetting."""
        with self._lock:
            calls, self.calls = self.calls, []
        return calls

    def rows(self, table: str) -> list[Record]:
        """All records of *table*, oldest first."""
        return self.tables.select(table)

    def row(self, table: str, sys_id: str) -> Record | None:
        return self.tables.find(table, sys_id)

    def change(self, table: str, sys_id: str, **fields: str) -> Record:
        """Change a record as a person in the browser: by names and labels, under the platform's rules (Refused)."""
        return self.tables.update(table, sys_id, fields, by=ADMIN, shown=True)

    def remove(self, table: str, sys_id: str) -> None:
        self.tables.delete(table, sys_id)

    # What it answers. None is no answer: the connection is reset.

    def answer(self, request: Request) -> Answer | None:
        if request.path.startswith("/sandbox/"):
            return self._control(request)
        called = _TABLE_PATH.fullmatch(request.path)
        table = unquote(called[2]) if called else ""
        down = self._faults.take({"down"}, request.meant, table)
        if not request.path.startswith("/api/"):
            return None if down else self._page(request)
        fault = down or self._faults.take(_AT_THE_DOOR, request.meant, table)
        if fault and fault.name != "slow":
            return self._recorded(request, called, _at_the_door(fault, self._clock(), self.url))
        if fault:
            self._stopped.wait(fault.seconds)
        try:
            return self._behind_the_login(request, called)
        except Refused as refused:
            return self._recorded(request, called, self._failed(refused))

    def _behind_the_login(self, request: Request, called: re.Match[str] | None) -> Answer | None:
        self._log_in(request)
        if called is None:
            raise Refused(400, "Requested URI does not represent any resource", request.path)
        table = unquote(called[2])
        _check_headers(request)
        if table not in SCHEMA:
            raise Refused(400, f"Invalid table {table}")
        if (fault := self._faults.take(_REFUSALS | _SPOILED | _LAGGING, request.meant, table)) is None:
            return self._recorded(request, called, self._table_api(request, called))
        if fault.name in _LAGGING:
            with self.tables.lagging():
                return self._recorded(request, called, self._table_api(request, called))
        if fault.name in _REFUSALS:
            raise _refusal(fault.name, request.meant, table)
        if fault.name == "commit_late":
            self._commit_later(fault.seconds, request, called)
            return self._recorded(request, called, None)
        try:
            answer = self._table_api(request, called)
        except Refused as refused:  # nothing was committed; the answer is lost all the same
            answer = self._failed(refused)
        if fault.name in {"commit_then_reset", "commit_then_hang"}:
            self._recorded(request, called, None)
            self._stopped.wait(fault.seconds if fault.name == "commit_then_hang" else 0)
            return None
        if answer.status < 400:
            answer = self._spoiled(fault.name, answer, request.meant)
        return self._recorded(request, called, answer)

    def _spoiled(self, fault: str, answer: Answer, method: str) -> Answer:
        """What the caller gets for work that was done."""
        told = json.loads(answer.body) if answer.body else {"result": {}}
        match fault:
            case "commit_then_500":
                return self._failed(_refusal("error_500", method, ""))
            case "commit_then_403":
                return self._failed(_refusal("acl_403", method, ""))
            case "partial_200":
                cancelled = {"message": _CANCELLED, "detail": "Transaction cancelled"}
                return self._json(200, told | {"error": cancelled, "status": "failure"})
            case "truncated_200":
                whole = json.dumps(told).encode()
                return Answer(200, whole[: len(whole) * 2 // 3], self._headers())
            case _:  # created_without_sys_id
                rows = told["result"]
                bare = {name: v for name, v in rows.items() if name != "sys_id"} if isinstance(rows, dict) else rows
                return self._json(answer.status, {"result": bare})

    def _commit_later(self, seconds: float, request: Request, called: re.Match[str]) -> None:
        def commit() -> None:
            with suppress(Refused):  # nobody is left to be told
                self._table_api(request, called)

        with self._lock:
            if self._stopped.is_set():
                return
            self._late.append(_Late(self._clock() + seconds, time.monotonic() + seconds, commit))
            if self._latecomers is None:
                self._latecomers = threading.Thread(target=self._commit_latecomers, name="commit_late")
                self._latecomers.start()

    def _commit_latecomers(self) -> None:
        """By the instance's clock, which whoever tries things out may move on, or stop."""
        while not self._stopped.wait(_LATE_LOOK_SECONDS):
            self.commit_now(due_by=self._clock())

    def _log_in(self, request: Request) -> None:
        given = request.headers.get("authorization", "")
        unauthorized = Refused(401, "User is not authenticated", "Required to provide Auth information")
        if not given:
            raise unauthorized
        with self._lock:
            now = self._clock()
            self._failures = [at for at in self._failures if now - at < _FAILURES_WITHIN_SECONDS]
            locked = len(self._failures) >= _FAILURES_MAX
            if locked or not _same_credentials(given, self.username, self.password):
                self._failures.append(now)
                self.refused_logins.append(now)
                raise unauthorized
            self._failures.clear()

    def _recorded(self, request: Request, called: re.Match[str] | None, answer: Answer | None) -> Answer | None:
        body: Any = None
        with suppress(ValueError, RecursionError):
            body = json.loads(request.body or b"")
        call = Call(
            method=request.meant,
            path=request.path,
            table=unquote(called[2]) if called else "",
            sys_id=unquote(called[3] or "") if called else "",
            status=answer.status if answer else 0,
            at=self._clock(),
            body=body if isinstance(body, dict) else None,
            query=request.query,
            headers={name: value for name, value in request.headers.items() if name != "authorization"},
        )
        with self._lock:
            self.calls.append(call)
        return answer

    def _headers(self) -> tuple[tuple[str, str], ...]:
        cookies = [("Set-Cookie", f"{name}={uuid.uuid4().hex.upper()}; Path={rest}") for name, rest in _COOKIES]
        return (
            _JSON,
            ("X-Is-Logged-In", "true"),
            ("X-Transaction-ID", uuid.uuid4().hex[:12]),
            ("Cache-Control", "no-cache,no-store,must-revalidate,max-age=-1"),
            ("Pragma", "no-store,no-cache"),
            ("Expires", "0"),
            *cookies,
        )

    def _json(self, status: int, content: object, *more: tuple[str, str]) -> Answer:
        return Answer(status, json.dumps(content).encode(), (*self._headers(), *more))

    def _failed(self, refused: Refused) -> Answer:
        envelope = {"error": {"message": refused.message, "detail": refused.detail}, "status": "failure"}
        if refused.status == 401:
            return self._json(401, envelope, ("WWW-Authenticate", 'BASIC realm="Service-now"'))
        return self._json(refused.status, envelope)

    # The Table API.

    def _table_api(self, request: Request, called: re.Match[str]) -> Answer:
        version, table, sys_id = called[1], unquote(called[2]), unquote(called[3] or "")
        shown = request.parameters.get("sysparm_input_display_value") == "true"
        match request.meant, bool(sys_id):
            case "GET" | "HEAD", False:
                return self._list(request, table, version)
            case "GET" | "HEAD", True:
                found = self.tables.find(table, sys_id)
                if found is None:
                    raise missing()
                return self._json(200, {"result": self._presented(table, found, request.parameters)})
            case "POST", False:
                made = self.tables.insert(table, _sent(request), by=self.username, shown=shown)
                location = ("Location", f"{self.url}/api/now/table/{table}/{made['sys_id']}")
                if request.headers.get("x-no-response-body") == "true":
                    return Answer(201, b"", (*self._headers(), location))
                return self._json(201, {"result": self._presented(table, made, request.parameters)}, location)
            case "PUT" | "PATCH", True:
                now = self.tables.update(table, sys_id, _sent(request), by=self.username, shown=shown)
                return self._json(200, {"result": self._presented(table, now, request.parameters)})
            case "DELETE", True:
                self.tables.delete(table, sys_id)
                return Answer(204, b"", self._headers())
            case _:
                raise Refused(405, "Method not allowed", f"{request.meant} is not supported by {request.path}")

    def _list(self, request: Request, table: str, version: str | None) -> Answer:
        asked = request.parameters
        pairs = "^".join(f"{name}={value}" for name, value in asked.items() if not name.startswith("sysparm_"))
        query = asked.get("sysparm_query", pairs)
        limit = _number(asked.get("sysparm_limit"), _LIMIT_DEFAULT)
        offset = _number(asked.get("sysparm_offset"), 0)
        rows = self.tables.select(table, query, limit=limit, offset=offset)
        if not rows and version == "v1":
            words = "Records matching query not found. Check query parameter or offset parameter"
            raise Refused(404, "No Record found", words)
        total = len(rows) if asked.get("sysparm_no_count") == "true" else self.tables.count(table, query)
        more = [("X-Total-Count", str(total))]
        if asked.get("sysparm_suppress_pagination_header") != "true":
            more.append(("Link", _links(f"{self.url}{request.path}", asked, limit=limit, offset=offset, total=total)))
        return self._json(200, {"result": [self._presented(table, row, asked) for row in rows]}, *more)

    def _presented(self, table: str, row: Record, asked: Mapping[str, str]) -> dict[str, object]:
        wanted = asked.get("sysparm_fields")
        names = [name for name in map(str.strip, wanted.split(",")) if name in row] if wanted else list(row)
        return {name: self._value(table, name, row[name], asked) for name in names}

    def _value(self, table: str, name: str, value: str, asked: Mapping[str, str]) -> object:
        """One value as ``sysparm_display_value`` and ``sysparm_exclude_reference_link`` ask for it."""
        column = SCHEMA[table][name]
        reference = column.kind is Kind.REFERENCE and bool(value)
        link = f"{self.url}/api/now/table/{column.refers_to}/{value}"
        linked = {"link": link} if reference and asked.get("sysparm_exclude_reference_link") != "true" else {}
        match asked.get("sysparm_display_value", "false"):
            case "all":
                return {"display_value": self.tables.shown(table, name, value), "value": value} | linked
            case "true":
                shown = self.tables.shown(table, name, value)
                return {"display_value": shown} | linked if linked else shown
            case _:
                return linked | {"value": value} if linked else value

    # For other processes, and for people.

    def _control(self, request: Request) -> Answer:
        if not ip_address(request.peer).is_loopback:
            return _plainly(403, {"error": "only for this machine"})
        try:
            match request.method, request.path:
                case "POST", "/sandbox/faults":
                    self._faults.arm(_fault(_sent(request)))
                case "DELETE", "/sandbox/faults":
                    self.disarm()
                case "GET", "/sandbox/faults":
                    pass
                case "GET", "/sandbox/calls":
                    with self._lock:
                        return _plainly(200, [_without_headers(call) for call in self.calls])
                case "DELETE", "/sandbox/calls":
                    self.forget()
                    return _plainly(200, [])
                case "POST", "/sandbox/password":
                    self.password = _password(_sent(request))
                    return _plainly(200, {})
                case "POST", "/sandbox/unlock":
                    self.unlock()
                    return _plainly(200, {})
                case _:
                    return _plainly(404, {"error": "no such path"})
        except (Refused, TypeError, ValueError) as wrong:
            return _plainly(400, {"error": str(wrong)})
        return _plainly(200, [asdict(fault) for fault in self._faults.armed()])

    def _page(self, request: Request) -> Answer:
        if request.method not in {"GET", "HEAD"}:
            return Answer(405, b"", _PAGE_HEADERS)
        if request.path == "/":
            return Answer(302, b"", (("Location", "/incidents"),))
        if request.path == "/incidents":
            rows = self.tables.select("incident", "ORDERBYDESCsys_updated_on^ORDERBYDESCnumber", limit=_PAGE_ROWS_MAX)
            shown = [row | self._shown(row, ("state", "priority", "assignment_group")) for row in rows]
            return self._html("incidents.html", incidents=list(zip(rows, shown, strict=True)))
        called = re.fullmatch(r"/incidents/([A-Za-z0-9]+)", request.path)
        found = self.tables.select("incident", f"number={called[1]}") if called else []
        if not found:
            return Answer(404, _html_page("Not found", "There is nothing here."), _PAGE_HEADERS)
        journal = self.tables.select("sys_journal_field", f"element_id={found[0]['sys_id']}")
        shown_row = self._shown(found[0], found[0])
        return self._html("incident.html", row=found[0], shown=shown_row, journal=journal[::-1])

    def _shown(self, row: Record, columns: Iterable[str]) -> Record:
        return {column: self.tables.shown("incident", column, row[column]) for column in columns}

    def _html(self, template: str, **shown: object) -> Answer:
        page = self._pages.get_template(template).render(refresh_seconds=_REFRESH_SECONDS, **shown)
        return Answer(200, page.encode(), _PAGE_HEADERS)


_CANCELLED: Final = "Transaction cancelled: maximum execution time exceeded"


def _refusal(fault: str, method: str, table: str) -> Refused:
    """The refusal that *fault* stands for, in ServiceNow's words."""
    rule = f"Check with change board^{uuid.uuid5(uuid.NAMESPACE_OID, table).hex}"
    match fault, {"POST": "Insert", "DELETE": "Delete", "GET": "", "HEAD": ""}.get(method, "Update"):
        case "error_500", _:
            return Refused(500, _CANCELLED, f"{_CANCELLED}. Please check logs for error trace")
        case "acl_403", "":
            return Refused(403, "Insufficient rights to query records")
        case "acl_403", verb:
            return Refused(403, "Operation Failed", f"ACL Exception {verb} Failed due to security constraints")
        case "business_rule_403", _:
            words = f"Operation against file '{table}' was aborted by Business Rule '{rule}'."
            return Refused(403, "Operation Failed", f"{words} Business Rule Stack:Check with change board")
        case "data_policy_403", _:
            words = "Data Policy Exception: The following fields are mandatory: Caller, Business service"
            return Refused(403, "Operation Failed", words)
        case _:
            return Refused(403, "User Not Authorized", "Failed API level ACL Validation")


def _at_the_door(fault: Fault, now: float, url: str) -> Answer | None:
    """What comes from in front of the instance: load balancer, portal, rate limit. None is no answer."""
    match fault.name:
        case "session_sync_202":
            return Answer(202, b"", (_JSON,))
        case "rate_limit_429":
            wait = int(fault.seconds) or 3600
            refused = {
                "message": "Rate limit exceeded",
                "detail": "Rate limit of 100 requests per hour for Table API exceeded",
            }
            headers = (
                _JSON,
                ("X-RateLimit-Limit", "100"),
                ("X-RateLimit-Reset", str(int(now) + wait)),
                ("X-RateLimit-Rule", uuid.uuid5(uuid.NAMESPACE_URL, url).hex),
                ("Retry-After", str(wait)),
            )
            return Answer(429, json.dumps({"error": refused, "status": "failure"}).encode(), headers)
        case "semaphore_429":
            return Answer(429, _html_page("Too many requests", "The request was rejected."), (_HTML,))
        case "hibernating_html_200":
            words = '<div class="instance-hibernating-page"><p>Your instance is hibernating.</p></div>'
            return Answer(200, _html_page("Hibernating Instance", words), (_HTML,))
        case "hibernating_redirect_302":
            return Answer(302, b"", (("Location", "https://developer.servicenow.com/dev.do#!/home?wu=true"),))
        case "sso_html_200":
            form = '<form method="post" action="/saml/sso"><input name="username"><input type="password"></form>'
            return Answer(200, _html_page("Log in", form), (_HTML,))
        case "adc_502":
            return Answer(502, _html_page("502 Bad Gateway", "snow_adc"), (_HTML, ("Server", "snow_adc")))
        case "unavailable_503":
            asked = (("Retry-After", str(int(fault.seconds))),) if fault.seconds else ()
            return Answer(503, _html_page("Service Unavailable", "Try again later."), (_HTML, *asked))
        case _:
            return None


def _html_page(title: str, content: str) -> bytes:
    return f"<!DOCTYPE html><html><head><title>{title}</title></head><body>{content}</body></html>".encode()


def _check_headers(request: Request) -> None:
    accepted = request.headers.get("accept", "")
    if not any(kind in accepted for kind in ("application/json", "application/*", "*/*")):
        raise Refused(406, "Not Acceptable", "Accept must allow application/json")
    if request.body is None:
        words = f"content-length = {request.length} bytes. Max allowed: {_BODY_BYTES_MAX} bytes."
        raise Refused(400, f"Rejected large REST payload with {words}")
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if request.meant in {"POST", "PUT", "PATCH"} and kind != "application/json":
        raise Refused(415, "Unsupported Media Type", "Content-Type must be application/json")


def _sent(request: Request) -> dict[str, Any]:
    """The object in the body; of several, the first. Raises Refused (400)."""
    try:
        sent = json.loads(request.body or b"{}")
    except (ValueError, RecursionError) as wrong:
        raise Refused(400, "Exception while reading request", "The body is no JSON") from wrong
    if isinstance(sent, list) and sent:
        sent = sent[0]
    if not isinstance(sent, dict):
        raise Refused(400, "Exception while reading request", "The body is no JSON object")
    return sent


def _same_credentials(given: str, username: str, password: str) -> bool:
    scheme, _, encoded = given.partition(" ")
    try:
        sent = base64.b64decode(encoded, validate=True)
    except (ValueError, binascii.Error):
        return False
    return scheme.lower() == "basic" and hmac.compare_digest(sent, f"{username}:{password}".encode())


def _number(written: str | None, default: int) -> int:
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


def _plainly(status: int, content: object) -> Answer:
    return Answer(status, json.dumps(content).encode(), (_JSON,))


def _without_headers(call: Call) -> dict[str, Any]:
    return {name: value for name, value in asdict(call).items() if name != "headers"}


def _fault(sent: dict[str, Any]) -> Fault:
    fault = Fault(**sent)
    if not isinstance(fault.seconds, int | float) or not isinstance(fault.times, int | None):
        raise TypeError("seconds and times are numbers")
    return fault


def _password(sent: dict[str, Any]) -> str:
    if not isinstance(sent.get("password"), str):
        raise TypeError('say {"password": "…"}')
    return str(sent["password"])


# --- the socket ----------------------------------------------------------------------------------------------------


class _Server(Loopback):
    def __init__(self, instance: ServiceNow, port: int) -> None:
        super().__init__("the sandbox's ServiceNow", port, _Handler)
        self.instance = instance
        self.in_flight = 0
        self.counting = threading.Lock()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        with suppress(ConnectionError):  # the caller went away
            super().handle()

    def handle_one_request(self) -> None:
        said = select.poll()
        said.register(self.connection, select.POLLIN)
        if not said.poll(_IDLE_SECONDS * 1000):
            self.close_connection = True
            return
        # From before its first byte is read: what is not read yet, the operating system tells.
        with self.server.counting:
            self.server.in_flight += 1
        try:
            super().handle_one_request()
        finally:
            with self.server.counting:
                self.server.in_flight -= 1

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        length = _number(self.headers.get("Content-Length", "0"), -1)
        if length < 0 or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            return self._send(Answer(411, b"", (_JSON,)))
        body = self._body(length)
        if body is not None and len(body) < length:
            return self._reset()  # the caller died while it was sending
        request = Request(
            method=self.command,
            path=path,
            query=query,
            headers={name.lower(): value for name, value in self.headers.items()},
            body=body,
            length=length,
            peer=str(self.client_address[0]),
        )
        answer = self.server.instance.answer(request)
        return self._reset() if answer is None else self._send(answer)

    do_GET = do_HEAD = do_POST = do_PUT = do_PATCH = do_DELETE = _serve  # noqa: N815  # http.server's names

    def _body(self, length: int) -> bytes | None:
        """The body, or None where it is too large: then it is read and thrown away, so that the answer arrives."""
        if length <= _BODY_BYTES_MAX:
            return self.rfile.read(length)
        left = min(length, _DISCARD_BYTES_MAX)
        while left and (chunk := self.rfile.read(min(left, 65536))):
            left -= len(chunk)
        self.close_connection = True
        return None

    def _send(self, answer: Answer) -> None:
        self.send_response_only(answer.status)
        names = {name for name, _ in answer.headers}
        if "Server" not in names:
            self.send_header("Server", "ServiceNow")
        self.send_header("Date", self.date_time_string())
        for name, value in answer.headers:
            self.send_header(name, value)
        if answer.status != 204:
            self.send_header("Content-Length", str(len(answer.body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else answer.body)

    def _reset(self) -> None:
        """End the connection with a TCP reset: closed at once, with nothing said."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, *_: object) -> None:
        """Say nothing: the calls are kept, and the terminal is for people."""


def main() -> int:
    """Run it alone until Ctrl-C or SIGTERM."""
    parser = argparse.ArgumentParser(prog="python -m sandbox.servicenow", description="A small ServiceNow on loopback.")
    parser.add_argument("--port", type=int, default=8091, help="0 takes a free one (default: 8091)")
    parser.add_argument("--no-sys-id", action="store_true", help="do not honour the sys_id that a caller sends")
    asked = parser.parse_args()
    stop = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: stop.set())
    try:
        with ServiceNow(port=asked.port, honours_sys_id=not asked.no_sys_id) as instance:
            print(
                f"ServiceNow in miniature: {instance.url} (user {instance.username}, password {instance.password})",
                flush=True,
            )
            stop.wait()
    except OSError as taken:
        print(f"{taken.strerror}. Give another one with --port.", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
