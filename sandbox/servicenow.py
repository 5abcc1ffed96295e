"""ServiceNow in miniature: its REST APIs on a real socket, with the faults that the real one is
known for.

    with ServiceNow() as servicenow:
        requests.post(f"{servicenow.url}/api/now/table/incident", json={...}, auth=("svc.hasura",
        "sandbox"))

What it answers is written from ServiceNow's documentation and from recorded answers; no instance
was asked. The records and the platform's rules are in tables.py, each API has a file of its own;
here are the door, the login, and HTTP.
"""

import argparse
import base64
import binascii
import hmac
import json
import math
import os
import select
import signal
import socket
import ssl
import struct
import sys
import threading
import time
import uuid
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from http.server import BaseHTTPRequestHandler
from ipaddress import ip_address
from typing import Any, Final, Self
from urllib.parse import parse_qs, parse_qsl, urlencode, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from sandbox import attachments, batch, changeapi, statsapi, tableapi
from sandbox.faults import (
    AT_THE_DOOR,
    CANCELLED,
    FAULTS,
    LAGGING,
    LOGIN_FAULTS,
    REFUSALS,
    SPOILED,
    Fault,
    Faults,
    at_the_door,
    busy,
    not_authorized,
    over_the_limit,
    rate_limit_headers,
    refusal,
)
from sandbox.loopback import Loopback
from sandbox.notifier import DeliveryFaults, NotifiedTable, Notifier
from sandbox.oauth import GRANTS, OAuth, TokenRequest
from sandbox.pages import Pages
from sandbox.rest import (
    BODY_BYTES_MAX,
    HTML,
    JSON,
    Answer,
    Request,
    Rights,
    Site,
    Target,
    answered,
    check_headers,
    failed,
    headers,
    html_page,
    no_such_method,
    number,
    plainly,
    represented,
    target,
)
from sandbox.roles import rights_of
from sandbox.tables import ADMIN, SCHEMA, Record, Refused, Tables, Written

__all__ = [
    "ADMIN",
    "FAULTS",
    "LOGIN_FAULTS",
    "Call",
    "DeliveryFaults",
    "Fault",
    "NotifiedTable",
    "Notifier",
    "ServiceNow",
    "TokenRequest",
    "UserAccount",
]

# What is read of a body that is too large before the connection is given up.
_DISCARD_BYTES_MAX: Final = 64 * 1024 * 1024
# A client of ServiceNow's own goes to batch at 10,000, "a few thousand below" what it takes for the
# limit.
_URL_LENGTH_MAX: Final = 16_384
# A connection that says nothing for so long is closed.
_IDLE_SECONDS: Final = 60.0
# How often it is looked whether what is committed late has its time.
_LATE_LOOK_SECONDS: Final = 0.02
# Accounts lock after about five failures in fifteen minutes.
_FAILURES_MAX: Final = 5
_FAILURES_WITHIN_SECONDS: Final = 900.0
_HOUR_SECONDS: Final = 3_600
# Printed by make run.
_PASSWORD: Final = "sandbox"  # noqa: S105  # of the sandbox
_TINY_URLS_MAX: Final = 1_000


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the API, as it was answered. *status* 0: it got no answer. *at* is UNIX
    seconds.

    *method* is what was meant (``X-HTTP-Method-Override`` applied); *headers* are without the
    credentials. What is asked in a batch is a call of its own, before the batch that it was in.
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

    @property
    def asks_for_changes(self) -> bool:
        """Whether it asks for the tickets that changed since some time, as `sync` does."""
        return "sys_updated_on" in parse_qs(self.query).get("sysparm_query", [""])[0]


@dataclass(frozen=True, slots=True)
class _Late:
    """What is committed later: *at* is UNIX seconds by the instance's clock, or *by*, on the
    monotonic one."""

    at: float
    by: float
    commit: Callable[[], None]


@dataclass(frozen=True, slots=True)
class UserAccount:
    """Somebody who may sign in beside the integration user, and do what the user's roles allow.

    *roles* None: those that the demo data gives to one of this name, or none. *time_zone* empty:
    likewise, or UTC.
    """

    name: str
    password: str
    roles: tuple[str, ...] | None = None
    time_zone: str = ""


_NOWHERE: Final = Target("")
_CREDENTIALS: Final = frozenset({"authorization", "x-sn-apikey"})


class ServiceNow:
    """A small ServiceNow on loopback, from enter to exit; its records live as long as it does.

    *port* 0 takes a free one. *honours_sys_id* off: an insert gets an id of the instance's own.
    *clock* gives UNIX seconds. *time_zone* is the integration user's, for display values. *tls*
    makes it https. *users* may sign in too. Entering raises OSError with a sentence where the port
    is taken, and ValueError where *notify* names what is not there.

    What an administrator may have done: *may_read*, *may_create* and *may_write* name the only
    tables that the integration user has rights on, whatever its roles; the rights of the others
    follow their roles. *basic_auth_allowed* and *oauth_grants* say how one may log in;
    *api_enabled* off refuses all. *rate_limit_per_hour* is a rule for all users, announced on every
    answer; *semaphores* is how many requests may run at once before the next is refused;
    *batch_items_max* is how much of a batch is done in its time. *local_times*: a time in a query
    is one of the user's time zone, against which a client guards itself
    (github.com/gflewis/sndml3/issues/11); a page of ServiceNow's community has it in UTC. *notify*
    tells an app that tickets have changed. *faults* decides what a request meets, where that is not
    armed by hand.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        username: str = "svc.hasura",
        password: str = _PASSWORD,
        honours_sys_id: bool = True,
        clock: Callable[[], float] = time.time,
        time_zone: str = "",
        tls: ssl.SSLContext | None = None,
        users: Collection[UserAccount] = (),
        client_id: str = "sandbox-client",
        client_secret: str = "sandbox-client-secret",  # noqa: S107  # as above
        api_key: str = "sandbox-api-key",
        oauth_grants: Collection[str] = GRANTS,
        basic_auth_allowed: bool = True,
        api_enabled: bool = True,
        may_read: Collection[str] | None = None,
        may_create: Collection[str] | None = None,
        may_write: Collection[str] | None = None,
        rate_limit_per_hour: int | None = None,
        semaphores: int | None = None,
        batch_items_max: int | None = None,
        local_times: bool = False,
        notify: Notifier | None = None,
        faults: Faults | None = None,
    ) -> None:
        self._passwords = {account.name: account.password for account in users}
        if len(self._passwords) < len(users) or username in self._passwords:
            raise ValueError("Two users have one name, or the integration user's")
        self.username = username
        self.password = password
        self.api_key = api_key
        self.basic_auth_allowed = basic_auth_allowed
        self.api_enabled = api_enabled
        self.rights = Rights(may_read, may_create, may_write)
        self.rate_limit_per_hour = rate_limit_per_hour
        self.semaphores = semaphores
        self.batch_items_max = batch_items_max
        self.calls: list[Call] = []
        self.refused_logins: list[float] = []
        self.notifier = notify
        # What people or a flow do when the next PATCH has come in, and is not processed yet; each
        # once.
        self.meanwhile: list[Callable[[], object]] = []
        # What the Table API tells of these columns, whatever stands in them.
        self.overrides: dict[str, object] = {}
        self.tables = Tables(
            user=username,
            now=clock,
            honours_sys_id=honours_sys_id,
            time_zone=time_zone,
            written=self._written,
        )
        self.tables.local_times = local_times
        for account in users:
            self.tables.plant_user(account.name, account.roles, time_zone=account.time_zone)
        self.oauth = OAuth(
            client_id=client_id,
            client_secret=client_secret,
            grants=oauth_grants,
            login=self._login,
            user=lambda: self.username,
            may_sign_in=self._may_sign_in,
            clock=clock,
        )
        self._port = port
        self._tls = tls
        self._clock = clock
        self._faults = faults or Faults()
        self._pages = Pages(self.tables, self._faults)
        self._lock = threading.Lock()
        self._failures: dict[str, list[float]] = {}
        self._stopped = threading.Event()
        self._late: list[_Late] = []
        self._latecomers: threading.Thread | None = None
        self._committing = threading.Lock()
        self._tiny: dict[str, str] = {}
        self._running = 0
        # The hour that is counted, and how many requests it has had.
        self._counted = (0, 0)

    def __enter__(self) -> Self:
        with ExitStack() as undo:
            undo.callback(self.tables.close)
            if self.notifier is not None:
                self.notifier.start(self.tables, user=self.username, clock=self._clock)
                undo.callback(self.notifier.stop)
            self._server = _Server(self, self._port, self._tls)
            undo.pop_all()
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stopped.set()
        self._server.stop()
        if self._latecomers is not None:
            self._latecomers.join()
        if self.notifier is not None:
            self.notifier.stop()
        self.tables.close()

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://127.0.0.1:{self._server.port}"

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
        """Requests that are not answered yet, though their sender may be gone; one that is sent
        counts, read or not."""
        # In this order: who reads counts first, so that nothing is between the two.
        unread = self._server.has_unread()
        return self._server.in_flight or int(unread)

    @property
    def token_requests(self) -> list[TokenRequest]:
        """The requests for a token so far, refused ones too."""
        return self.oauth.requests

    def start_notifying(self, notifier: Notifier) -> None:
        """Switch on the business rules that tell an app of changes, in place of those that were
        there. Raises ValueError."""
        notifier.start(self.tables, user=self.username, clock=self._clock)
        before, self.notifier = self.notifier, notifier
        if before is not None:
            before.stop()

    def commit_now(self, *, due_by: float = math.inf) -> None:
        """Commit what commit_late has taken and not committed yet, in the order in which it came.

        *due_by*, UNIX seconds by the instance's clock: only what has its time by then.
        """
        with self._committing:
            with self._lock:
                due = [
                    late for late in self._late if late.at <= due_by or late.by <= time.monotonic()
                ]
                self._late = [late for late in self._late if late not in due]
            for late in due:
                late.commit()

    def catch_up(self) -> None:
        """Let reads have caught up: stale_read hides only what is written from now on."""
        self.tables.catch_up()

    def unlock(self) -> None:
        """Unlock every user, as an administrator does."""
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
        """Change a record as a person in the browser: by names and labels, under the platform's
        rules (Refused)."""
        return self.tables.update(table, sys_id, fields, by=ADMIN, shown=True)

    def remove(self, table: str, sys_id: str) -> None:
        self.tables.delete(table, sys_id)

    # What it answers. None is no answer: the connection is reset.

    def answer(self, request: Request) -> Answer | None:
        if request.path.startswith("/sandbox/"):
            return self._control(request)
        called = target(request.path) or _NOWHERE
        down = self._faults.take({"down"}, request.meant, called.table, bearer=_bears(request))
        if not request.path.startswith(("/api/", "/oauth_token.do")):
            return None if down else self._pages.answer(request)
        if len(request.path) + len(request.query) > _URL_LENGTH_MAX:
            return Answer(414, html_page("URI Too Long", "The address is too long."), (HTML,))
        with self._lock:
            full = self.semaphores is not None and self._running >= self.semaphores
            self._running += not full
        if full:
            return self._recorded(request, called, busy())
        try:
            return self._through_the_door(request, called, down)
        finally:
            with self._lock:
                self._running -= 1

    def _through_the_door(
        self, request: Request, called: Target, down: Fault | None
    ) -> Answer | None:
        fault = down or self._faults.take(
            AT_THE_DOOR, request.meant, called.table, bearer=_bears(request)
        )
        if fault and fault.name != "slow":
            answer = at_the_door(fault, self._clock(), self.url)
            return answer if _wants_token(request) else self._recorded(request, called, answer)
        if fault:
            self._stopped.wait(fault.seconds)
        if _wants_token(request):
            return self.oauth.answer(request)
        return self._limited(self._inside(request, called))

    def _inside(self, request: Request, called: Target) -> Answer | None:
        try:
            user = self._log_in(request, called)
            if not self.api_enabled:
                raise not_authorized()
            if over := self._over_the_limit():
                return self._recorded(request, called, over)
            if called.api != "batch":
                return self._asked(request, called, user)
            check_headers(request, called)
            ask = partial(self._ask_in_batch, user=user)
            return self._recorded(
                request, called, batch.answer(request, ask, items_max=self.batch_items_max)
            )
        except MfaNeeded as needed:
            refused = failed(needed)
            return self._recorded(
                request, called, replace(refused, headers=(*refused.headers, _MFA))
            )
        except Refused as refused:
            return self._recorded(request, called, failed(refused))

    def _ask_in_batch(self, request: Request, *, user: str) -> Answer | None:
        called = target(request.path) or _NOWHERE
        try:
            return self._asked(request, called, user)
        except Refused as refused:
            return self._recorded(request, called, failed(refused))

    def _asked(self, request: Request, called: Target, user: str) -> Answer | None:
        """What *user*, who is logged in, gets, and the faults that are met. Raises Refused."""
        if called.api in {"", "batch"}:  # a batch in a batch is none
            raise Refused(400, "Requested URI does not represent any resource", request.path)
        check_headers(request, called)
        if called.api in {"table", "stats"} and called.table not in SCHEMA:
            raise Refused(400, f"Invalid table {called.table}")
        among = REFUSALS | SPOILED | LAGGING
        fault = self._faults.take(among, request.meant, called.table, bearer=_bears(request))
        if fault is None:
            return self._recorded(request, called, self._api(request, called, user))
        if fault.name in LAGGING:
            with self.tables.lagging():
                return self._recorded(request, called, self._api(request, called, user))
        if fault.name in REFUSALS:
            raise refusal(fault.name, request.meant, called.table)
        if fault.name == "commit_late":
            self._commit_later(fault.seconds, request, called, user)
            return self._recorded(request, called, None)
        try:
            answer = self._api(request, called, user)
        except Refused as refused:  # nothing was committed; the answer is lost all the same
            answer = failed(refused)
        if fault.name in {"commit_then_reset", "commit_then_hang"}:
            self._recorded(request, called, None)
            self._stopped.wait(fault.seconds if fault.name == "commit_then_hang" else 0)
            return None
        if answer.status < 400:
            answer = _spoiled(fault.name, answer, request.meant, self.tables.select(called.table))
        return self._recorded(request, called, answer)

    def _api(self, request: Request, called: Target, user: str) -> Answer:
        site = Site(self.tables, self.url, user, self._rights_of(user), called.version)
        request = self._unfolded(request)
        match called.api:
            case "table":
                if request.meant == "PATCH" and self.meanwhile:
                    self.meanwhile.pop(0)()
                return self._overridden(tableapi.answer(site, request, called))
            case "attachment":
                return attachments.answer(site, request, called)
            case "stats":
                return statsapi.answer(site, request, called)
            case "change":
                return changeapi.answer(site, request, called)
            case _:
                return self._tiny_url(request)

    def _overridden(self, answer: Answer) -> Answer:
        rows = _told(answer)["result"]
        if not self.overrides or not rows:
            return answer
        odd = (
            [row | self.overrides for row in rows]
            if isinstance(rows, list)
            else rows | self.overrides
        )
        return answered(answer.status, {"result": odd})

    def _tiny_url(self, request: Request) -> Answer:
        """Keep the query of a long address; the result is the address with a key in its place."""
        if request.meant != "POST":
            raise no_such_method(request)
        address = urlsplit(str(request.sent.get("url", "")))
        key = uuid.uuid4().hex
        with self._lock:
            self._tiny[key] = address.query
            if len(self._tiny) > _TINY_URLS_MAX:
                del self._tiny[next(iter(self._tiny))]
        return answered(
            200, {"result": f"{address.path.lstrip('/')}?{urlencode({'sysparm_tiny': key})}"}
        )

    def _unfolded(self, request: Request) -> Request:
        """The request with the query that its ``sysparm_tiny`` stands for."""
        asked = request.parameters
        with self._lock:
            kept = self._tiny.get(asked.pop("sysparm_tiny", ""))
        if kept is None:
            return request
        return replace(
            request, query=urlencode(dict(parse_qsl(kept, keep_blank_values=True)) | asked)
        )

    def _commit_later(self, seconds: float, request: Request, called: Target, user: str) -> None:
        def commit() -> None:
            with suppress(Refused):  # nobody is left to be told
                self._api(request, called, user)

        with self._lock:
            if self._stopped.is_set():
                return
            self._late.append(_Late(self._clock() + seconds, time.monotonic() + seconds, commit))
            if self._latecomers is None:
                self._latecomers = threading.Thread(
                    target=self._commit_latecomers, name="commit_late"
                )
                self._latecomers.start()

    def _commit_latecomers(self) -> None:
        """By the instance's clock, which whoever tries things out may move on, or stop."""
        while not self._stopped.wait(_LATE_LOOK_SECONDS):
            self.commit_now(due_by=self._clock())

    # Who asks, and how often.

    def _log_in(self, request: Request, called: Target) -> str:
        """Who asks. Raises Refused (401)."""
        fault = self._faults.take(LOGIN_FAULTS, request.meant, called.table, bearer=_bears(request))
        if fault and fault.name == "mfa_401":
            raise MfaNeeded
        if fault:
            self.oauth.expire()
        user = self._signed_in(request)
        if not user:
            raise _unauthorized()
        return user

    def _signed_in(self, request: Request) -> str:
        """The user whose credentials these are, and who may sign in; empty where there is none."""
        if "x-sn-apikey" in request.headers:
            right = hmac.compare_digest(
                request.headers["x-sn-apikey"].encode(), self.api_key.encode()
            )
            return self.username if right else ""
        scheme, _, given = request.headers.get("authorization", "").partition(" ")
        match scheme.lower():
            case "":
                return ""
            case "bearer":
                user = self.oauth.holder(given)
                return user if self._may_sign_in(user) else ""
            case _:
                username, password = _basic(scheme, given)
                # Not allowed reads like a wrong password, and is nobody's failure.
                return (
                    username if self._login(username, password) and self.basic_auth_allowed else ""
                )

    def _may_sign_in(self, user: str) -> bool:
        return (user == self.username or user in self._passwords) and self.tables.may_sign_in(user)

    def _login(self, username: str, password: str) -> bool:
        """If these are a user's, who is not locked out; failures are counted, each name's for
        itself."""
        known = self.password if username == self.username else self._passwords.get(username)
        right = hmac.compare_digest(password.encode(), (known or "").encode()) and known is not None
        right = right and self.tables.may_sign_in(username)
        with self._lock:
            now = self._clock()
            failures = [
                at for at in self._failures.get(username, []) if now - at < _FAILURES_WITHIN_SECONDS
            ]
            if len(failures) >= _FAILURES_MAX or not right:
                if known is not None:  # others have no lock to be counted for
                    self._failures[username] = [*failures, now]
                self.refused_logins.append(now)
                return False
            self._failures.pop(username, None)
            return True

    def _rights_of(self, user: str) -> Rights:
        if user == self.username:
            return self.rights
        return rights_of(self.tables.roles(user), self.tables.user_id(user))

    def _over_the_limit(self) -> Answer | None:
        """Count a request against the rule, if there is one; what is refused counts too."""
        if self.rate_limit_per_hour is None:
            return None
        now = self._clock()
        hour = int(now // _HOUR_SECONDS)
        with self._lock:
            counting, count = self._counted
            self._counted = (hour, count + 1 if counting == hour else 1)
            over = self._counted[1] > self.rate_limit_per_hour
        wait_seconds = (hour + 1) * _HOUR_SECONDS - int(now)
        limit = self.rate_limit_per_hour
        return (
            over_the_limit(limit, now=now, wait_seconds=wait_seconds, url=self.url)
            if over
            else None
        )

    def _limited(self, answer: Answer | None) -> Answer | None:
        """*answer* with what the rule announces on every one."""
        if answer is None or self.rate_limit_per_hour is None or answer.status == 429:
            return answer
        reset = (int(self._clock()) // _HOUR_SECONDS + 1) * _HOUR_SECONDS
        more = rate_limit_headers(self.rate_limit_per_hour, reset=reset, url=self.url)
        return replace(answer, headers=(*answer.headers, *more))

    def _recorded(self, request: Request, called: Target, answer: Answer | None) -> Answer | None:
        body: Any = None
        with suppress(ValueError, RecursionError):
            body = json.loads(request.body or b"")
        call = Call(
            method=request.meant,
            path=request.path,
            table=called.table,
            sys_id=called.sys_id,
            status=answer.status if answer else 0,
            at=self._clock(),
            body=body if isinstance(body, dict) else None,
            query=request.query,
            headers={
                name: value for name, value in request.headers.items() if name not in _CREDENTIALS
            },
        )
        with self._lock:
            self.calls.append(call)
        return represented(answer, request) if answer else None

    def _written(self, write: Written) -> None:
        if self.notifier is not None:
            self.notifier.written(write)

    # For other processes.

    def _control(self, request: Request) -> Answer:
        if not ip_address(request.peer).is_loopback:
            return plainly(403, {"error": "only for this machine"})
        try:
            match request.method, request.path:
                case "POST", "/sandbox/faults":
                    self._faults.arm(_fault(request.sent))
                case "DELETE", "/sandbox/faults":
                    self.disarm()
                case "GET", "/sandbox/faults":
                    pass
                case "GET", "/sandbox/calls":
                    with self._lock:
                        return plainly(200, [_without_headers(call) for call in self.calls])
                case "DELETE", "/sandbox/calls":
                    self.forget()
                    return plainly(200, [])
                case "POST", "/sandbox/password":
                    self.password = _password(request.sent)
                    return plainly(200, {})
                case "POST", "/sandbox/unlock":
                    self.unlock()
                    return plainly(200, {})
                case "GET", "/sandbox/tokens":
                    return plainly(200, [asdict(asked) for asked in self.token_requests])
                case "POST", "/sandbox/notifications":
                    self.start_notifying(_notifier(request.sent))
                    return plainly(200, {})
                case "PUT", "/sandbox/notifications" if self.notifier is not None:
                    _disturb(self.notifier, request.sent)
                    return plainly(200, {})
                case "GET", "/sandbox/notifications" if self.notifier is not None:
                    return plainly(200, _summary(self.notifier))
                case _:
                    return plainly(404, {"error": "no such path"})
        except (Refused, TypeError, ValueError) as wrong:
            return plainly(400, {"error": str(wrong)})
        return plainly(200, [asdict(fault) for fault in self._faults.armed()])


class MfaNeeded(Refused):
    """The user needs a second factor."""

    def __init__(self) -> None:
        super().__init__(401, _UNAUTHENTICATED, "Required to provide Auth information")


_UNAUTHENTICATED: Final = "User is not authenticated"
_MFA: Final = ("X-MFA_TOKEN", "invalid")


def _unauthorized() -> Refused:
    return Refused(401, _UNAUTHENTICATED, "Required to provide Auth information")


def _spoiled(fault: str, answer: Answer, method: str, records: Sequence[Record]) -> Answer:
    """What the caller gets for work that was done; *records* are the table's."""
    told = _told(answer)
    match fault:
        case "commit_then_500":
            return failed(refusal("error_500", method, ""))
        case "commit_then_403":
            return failed(refusal("acl_403", method, ""))
        case "partial_200":
            return answered(200, told | {"error": CANCELLED, "status": "failure"})
        case "truncated_200":
            whole = json.dumps(told).encode()
            return Answer(200, whole[: len(whole) * 2 // 3], headers())
        case "another_record":
            # As a cache, a proxy or a before-query rule has it.
            rows = told["result"]
            return answered(
                answer.status,
                {
                    "result": [_another(row, records) for row in rows]
                    if isinstance(rows, list)
                    else _another(rows, records)
                },
            )
        case _:  # created_without_sys_id
            rows = told["result"]
            bare = (
                {name: v for name, v in rows.items() if name != "sys_id"}
                if isinstance(rows, dict)
                else rows
            )
            return answered(answer.status, {"result": bare})


def _another(row: Mapping[str, Any], records: Sequence[Record]) -> dict[str, Any]:
    """The same columns of some other record; of one that nobody sees, where there is none."""
    asked = row.get("sys_id")
    if isinstance(asked, dict):  # with what people see
        asked = asked["value"]
    other = next(
        (record for record in records if record["sys_id"] != asked),
        {"sys_id": "0" * 32},
    )
    return {name: other.get(name, "") for name in row}


def _told(answer: Answer) -> dict[str, Any]:
    """What is in *answer*; nothing where it is empty, or a file."""
    with suppress(ValueError):
        told = json.loads(answer.body)
        if isinstance(told, dict) and "result" in told:
            return told
    return {"result": {}}


def _wants_token(request: Request) -> bool:
    return request.path == "/oauth_token.do"


def _bears(request: Request) -> bool:
    return request.headers.get("authorization", "").lower().startswith("bearer ")


def _basic(scheme: str, encoded: str) -> tuple[str, str]:
    """The name and the password of Basic; two empty texts for what is none."""
    try:
        sent = base64.b64decode(encoded, validate=True).decode()
    except (ValueError, binascii.Error):
        return "", ""
    username, _, password = sent.partition(":")
    return (username, password) if scheme.lower() == "basic" else ("", "")


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


def _notifier(sent: dict[str, Any]) -> Notifier:
    """Of ``{"url", "secret", "tables": [{"table", "columns", "filter", …}]}``; without tables, that
    of incidents."""
    url, secret = sent.get("url"), sent.get("secret")
    if not isinstance(url, str) or not isinstance(secret, str) or not _is_http(url):
        raise TypeError('say {"url": "http…", "secret": "…"}')
    tables = sent.get("tables", [{}])
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise TypeError("tables are objects, in a list")
    return Notifier(url, secret, tables=[_notified_table(**table) for table in tables])


def _notified_table(**said: Any) -> NotifiedTable:
    if not isinstance(said.get("filter", ""), str):
        raise TypeError("a filter is a text")
    lists = {name: tuple(names) for name, names in said.items() if isinstance(names, list)}
    return NotifiedTable(**said | lists)


def _is_http(url: str) -> bool:
    return url.startswith(("http://", "https://"))


def _disturb(notifier: Notifier, sent: dict[str, Any]) -> None:
    """Of ``{"lose", "duplicate", "reorder", "delay_seconds", "held"}``; what is left out is not."""
    held = sent.pop("held", False)
    notifier.faults = DeliveryFaults(**sent)
    if held:
        notifier.hold()
    else:
        notifier.release()


def _summary(notifier: Notifier) -> dict[str, Any]:
    return {
        "waiting": notifier.waiting,
        "sent": [
            sent.notification.fields
            | {"status": sent.status, "answer": sent.answer.decode(errors="replace")}
            for sent in notifier.sent
        ],
        "lost": [notification.fields for notification in notifier.lost],
    }


# --- the socket
# --------------------------------------------------------------------------------------------------


class _Server(Loopback):
    def __init__(self, instance: ServiceNow, port: int, tls: ssl.SSLContext | None) -> None:
        super().__init__("the sandbox's ServiceNow", port, _Handler)
        self.instance = instance
        self.in_flight = 0
        self.counting = threading.Lock()
        self._tls = tls

    def get_request(self) -> tuple[socket.socket, Any]:
        connection, address = super().get_request()
        if self._tls is None:
            return connection, address
        # The handshake is the handler thread's: a caller who is slow with it keeps nobody waiting.
        return self._tls.wrap_socket(
            connection, server_side=True, do_handshake_on_connect=False
        ), address


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True
    server: _Server

    def handle(self) -> None:
        # The caller went away, or did not trust the certificate; a TLS socket that is shut
        # elsewhere raises ValueError.
        with (
            suppress(ConnectionError, ssl.SSLError)
            if not self._is_tls()
            else suppress(OSError, ValueError)
        ):
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

    def _is_tls(self) -> bool:
        return isinstance(self.connection, ssl.SSLSocket)

    def _serve(self) -> None:
        path, _, query = self.path.partition("?")
        length = number(self.headers.get("Content-Length", "0"), -1)
        if length < 0 or "Transfer-Encoding" in self.headers:
            self.close_connection = True
            return self._send(Answer(411, b"", (JSON,)))
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
        """The body, or None where it is too large: then it is read and thrown away, so that the
        answer arrives."""
        if length <= BODY_BYTES_MAX:
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
    parser = argparse.ArgumentParser(
        prog="python -m sandbox.servicenow", description="A small ServiceNow on loopback."
    )
    parser.add_argument("--port", type=int, default=8091, help="0 takes a free one (default: 8091)")
    parser.add_argument(
        "--no-sys-id", action="store_true", help="do not honour the sys_id that a caller sends"
    )
    parser.add_argument(
        "--user",
        type=_account,
        action="append",
        default=[],
        metavar="NAME[:PASSWORD[:ROLE,…]]",
        help=f"somebody who may sign in too; without a password it is {_PASSWORD!r}, without "
        "roles those of the demo"
        " data, or none. Can be given several times",
    )
    parser.add_argument(
        "--time-zone", type=_time_zone, metavar="ZONE", help="of all these users, as Europe/Berlin"
    )
    parser.add_argument(
        "--certificate", metavar="FILE", help="answer https, with this chain of certificates (PEM)"
    )
    parser.add_argument(
        "--key", metavar="FILE", help="the certificate's key, where it has a file of its own"
    )
    _add_notify_options(parser)
    asked = parser.parse_args()
    if bool(asked.notify_url) is not bool(asked.notify_secret):
        parser.error("--notify-url and --notify-secret go together")
    stop = threading.Event()
    for sign in (signal.SIGINT, signal.SIGTERM):
        signal.signal(sign, lambda *_: stop.set())
    time_zone = asked.time_zone or ""
    users = [replace(account, time_zone=time_zone) for account in asked.user]
    try:
        tls = _server_context(asked.certificate, asked.key) if asked.certificate else None
    except OSError as wrong:  # an SSLError is one
        print(
            f"The certificate and its key cannot be used: {wrong.strerror or wrong}.",
            file=sys.stderr,
        )
        return 1
    try:
        with ServiceNow(
            port=asked.port,
            honours_sys_id=not asked.no_sys_id,
            time_zone=time_zone,
            users=users,
            tls=tls,
            notify=_asked_notifier(asked),
        ) as instance:
            print(
                f"ServiceNow in miniature: {instance.url} (user {instance.username}, password "
                f"{instance.password};\n"
                f"OAuth client {instance.oauth.client_id}, secret {instance.oauth.client_secret}; "
                f"API key {instance.api_key})",
                flush=True,
            )
            for account in users:
                roles = ", ".join(sorted(instance.tables.roles(account.name))) or "none"
                print(
                    f"User {account.name}, password {account.password}; roles: {roles}", flush=True
                )
            if asked.notify_url:
                print(f"What people change is told to {asked.notify_url}", flush=True)
            stop.wait()
    except ValueError as wrong:
        print(f"{wrong}.", file=sys.stderr)
        return 1
    except OSError as taken:
        print(f"{taken.strerror}. Give another one with --port.", file=sys.stderr)
        return 1
    return 0


def _add_notify_options(parser: argparse.ArgumentParser) -> None:
    usual = NotifiedTable()
    notify = parser.add_argument_group(
        "business rules that tell an app that a ticket changed", "For all tables that are named."
    )
    notify.add_argument(
        "--notify-url", type=_http_url, metavar="URL", help="where to post, as …/servicenow"
    )
    notify.add_argument("--notify-secret", metavar="SECRET", help="what signs the requests")
    notify.add_argument(
        "--notify-table",
        action="append",
        metavar="TABLE",
        help=f"can be given several times (default: {usual.table})",
    )
    for option, names in (("columns", usual.columns), ("journals", usual.journals)):
        notify.add_argument(
            f"--notify-{option}",
            type=_names,
            default=names,
            metavar="NAME,…",
            help=f"whose changes are told (default: {','.join(names)})",
        )
    notify.add_argument(
        "--notify-filter",
        default=usual.filter,
        metavar="QUERY",
        help="of which records, as an encoded query (default: of all)",
    )
    notify.add_argument("--notify-insert", action="store_true", help="tell of new records too")
    notify.add_argument("--notify-delete", action="store_true", help="tell of deleted ones too")


def _asked_notifier(asked: argparse.Namespace) -> Notifier | None:
    if not asked.notify_url:
        return None
    tables = [
        NotifiedTable(
            table,
            columns=asked.notify_columns,
            filter=asked.notify_filter,
            journals=asked.notify_journals,
            insert=asked.notify_insert,
            delete=asked.notify_delete,
        )
        for table in asked.notify_table or [NotifiedTable().table]
    ]
    return Notifier(asked.notify_url, asked.notify_secret, tables=tables)


def _http_url(written: str) -> str:
    if not _is_http(written):
        raise argparse.ArgumentTypeError("say http://… or https://…")
    return written


def _names(written: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in written.split(",") if name.strip())


def _account(written: str) -> UserAccount:
    name, _, rest = written.partition(":")
    password, colon, roles = rest.rpartition(":") if ":" in rest else (rest, "", "")
    if not name:
        raise argparse.ArgumentTypeError("say NAME, NAME:PASSWORD or NAME:PASSWORD:ROLE,ROLE")
    named = tuple(role.strip() for role in roles.split(",") if role.strip()) if colon else None
    return UserAccount(name, password or _PASSWORD, named)


def _time_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise argparse.ArgumentTypeError(f"there is no time zone {name!r}") from None
    return name


def _server_context(certificate: str, key: str | None) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, key)
    return context


if __name__ == "__main__":
    sys.exit(main())
