"""Every refusal and every hazard that ServiceNow is known for, through the whole function, while it
lasts and after.

The rows are those of two tables: what the REST APIs answer that is an error, and what looks like an
answer and is none (hibernation, logins, half an answer, no answer). The words are ServiceNow's own,
as its documentation, its knowledge base and recorded answers have them; what the sandbox can do, it
does itself. Each row says what Hasura is answered, what people are told to check, and how often
ServiceNow is asked: for the first event, for twenty others while it lasts, for the first one sent
again at once, and for that one after the time of every hold.
"""

import http.client
import json
import socket
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from urllib.parse import urlsplit

import pytest

from function.connection.breaker import IN_A_ROW
from function.servicenow.oauth import PAUSE_SECONDS
from sandbox.rest import Rights
from tests import answers
from tests.answers import Answer, Seen, Server, always, reset
from tests.payloads import insert, update
from tests.world import PASSWORD, World, outage

OTHERS = 20
# Longer than NOTIFY_AFTER_SECONDS, AUTH_HOLD_SECONDS and the rate limit below.
LATER_SECONDS = 700.0
RATE_LIMIT_SECONDS = 650.0
OAUTH = {
    "SERVICENOW_CLIENT_ID": "sandbox-client",
    "SERVICENOW_CLIENT_SECRET": "sandbox-client-secret",
    "SERVICENOW_USERNAME": "",
    "SERVICENOW_PASSWORD": "",
}


class Gate:
    """Stands before a sandbox: answers in its place while *hazard* is set, passes on the rest, and
    sees everything.

    *method*: the only requests that meet the hazard, "" for all.
    """

    def __init__(self) -> None:
        self.behind = ""
        self.hazard: Answer | None = None
        self.method = ""

    def __call__(self, sock: socket.socket, seen: Seen) -> bool:
        if self.hazard is not None and self.method in {"", seen.method}:
            return self.hazard(sock, seen)
        answer = self._passed_on(seen)
        if answer is None:
            reset(sock)
            return False
        sock.sendall(answer)
        return True

    def _passed_on(self, seen: Seen) -> bytes | None:
        """What the sandbox answers; None where it breaks the connection."""
        connection = http.client.HTTPConnection(urlsplit(self.behind).netloc, timeout=30)
        try:
            connection.request(seen.method, seen.target, seen.body, seen.headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException):
            return None
        finally:
            connection.close()
        lines = [
            f"HTTP/1.1 {answer.status} {answer.reason}",
            *(f"{name}: {v}" for name, v in answer.getheaders()),
        ]
        return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


@dataclass(frozen=True)
class Scene:
    """A function that has worked, and the way to its ServiceNow."""

    world: World
    gate: Gate
    server: Server

    def asked(self) -> list[str]:
        """The methods of the requests since the last time of asking, for tokens too."""
        methods = [seen.method for seen in self.server.seen]
        self.server.seen.clear()
        return methods

    def settle(self, body: bytes) -> None:
        """Deliver *body* as Hasura does, after each Retry-After, until it is done."""
        for _ in range(12):
            answer = self.world.send(body)
            if answer.status == 200:
                return
            assert answer.retry_after is not None, answer
            self.world.clock.advance(answer.retry_after)
        raise AssertionError("never done")

    def wait(self) -> None:
        """Let every hold be over; who fetches tokens goes by the wall's clock."""
        self.world.clock.advance(LATER_SECONDS)
        if self.world.apps[0].connection.username == "":
            time.sleep(PAUSE_SECONDS)

    def mailed(self) -> str:
        """The words of the only mail."""
        [mail] = self.world.mails
        body = mail.get_body(("plain",))
        assert body is not None
        return " ".join(body.get_content().split())

    def heal(self) -> None:
        """Put right whatever is wrong with ServiceNow."""
        self.gate.hazard = None
        servicenow = self.world.servicenow
        servicenow.disarm()
        servicenow.password, servicenow.basic_auth_allowed = PASSWORD, True
        servicenow.api_enabled, servicenow.rights = True, Rights()


@contextmanager
def scene(
    settings: Mapping[str, str] | None = None, *, honours_sys_id: bool = True
) -> Iterator[Scene]:
    gate = Gate()
    with World(honours_sys_id=honours_sys_id) as world, Server(gate) as server:
        gate.behind = world.servicenow.url
        world.start(SERVICENOW_INSTANCE_URL=server.url, **(settings or {}))
        it = Scene(world, gate, server)
        it.settle(insert("outages", outage("before")))
        it.asked()
        yield it


# --- How it begins
# --------------------------------------------------------------------------------------------------

Begin = Callable[[Scene], None]


def fault(name: str, method: str | None = None, seconds: float = 0.0) -> Begin:
    """A fault of the sandbox's, until it heals."""
    return lambda it: it.world.servicenow.arm(name, method=method, seconds=seconds, times=None)


def says(answer: bytes, method: str = "") -> Begin:
    """An answer that the sandbox does not give."""

    def begin(it: Scene) -> None:
        it.gate.hazard, it.gate.method = always(answer), method

    return begin


def set_up(**attributes: object) -> Begin:
    """What an administrator does to the instance."""

    def begin(it: Scene) -> None:
        for name, value in attributes.items():
            setattr(it.world.servicenow, name, value)

    return begin


def breaks(it: Scene) -> None:
    def answer(sock: socket.socket, seen: Seen) -> bool:
        reset(sock)
        return False

    it.gate.hazard = answer


def error(status: int, message: str, detail: str | None = None) -> bytes:
    body = {"error": {"message": message, "detail": detail}, "status": "failure"}
    return answers.http(status, json.dumps(body), "application/json;charset=UTF-8")


def page(status: int, title: str, **headers: str) -> bytes:
    body = f"<html><head><title>{title}</title></head><body><h1>{title}</h1></body></html>"
    return answers.http(status, body, "text/html;charset=UTF-8", **headers)


# --- What becomes of it
# -----------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Hazard:
    """How it begins, what Hasura is answered, what people are told to check, and what ServiceNow is
    asked.

    *first* are the methods of the first event's requests; *others*, *again* and *later* are numbers
    of requests: of twenty other events, of the first one sent again at once, and of that one after
    LATER_SECONDS. *resolves*: the events resolve tickets that there are; otherwise they open new
    ones.
    """

    begin: Begin
    answered: tuple[int, str]
    check: str
    first: str
    others: int
    again: int
    later: int
    resolves: bool = False
    settings: Mapping[str, str] = field(default_factory=dict)


def refused(
    begin: Begin, reason: str, check: str, *, first: str = "POST", resolves: bool = False
) -> Hazard:
    """It concerns the one event, whose dead letter is not tried again under the same rules and
    settings."""
    others = OTHERS * len(first.split())
    return Hazard(
        begin, (422, f"dead {reason}"), check, first, others, again=0, later=0, resolves=resolves
    )


def held(
    begin: Begin,
    reason: str,
    check: str,
    *,
    first: str = "POST",
    others: int = 0,
    later: int = 1,
    settings: Mapping[str, str] | None = None,
) -> Hazard:
    """It concerns every event: calls are held, and one probe asks now and then."""
    answered = (503, f"retrying {reason}")
    return Hazard(
        begin, answered, check, first, others, again=0, later=later, settings=settings or {}
    )


def down(
    begin: Begin, reason: str, check: str, *, settings: Mapping[str, str] | None = None
) -> Hazard:
    """The same, but it may be an accident: five in a row are none."""
    return held(begin, reason, check, others=IN_A_ROW - 1, settings=settings)


def one_by_one(begin: Begin, reason: str, check: str, *, first: str = "POST") -> Hazard:
    """It may concern the one event only, and pass: each is tried again, after a wait
    that doubles."""
    each = len(first.split())
    return Hazard(
        begin, (503, f"retrying {reason}"), check, first, OTHERS * each, again=each, later=each
    )


NO_RESOURCE = "Requested URI does not represent any resource"
DUPLICATE = "Error during insert of incident (INC0010002)"

HAZARDS = {
    # Errors.
    "400 Invalid table": refused(
        says(error(400, "Invalid table incident")),
        "refused_by_servicenow",
        "The instance has no such table",
    ),
    "400 Requested URI": refused(
        says(error(400, NO_RESOURCE, "/api/now/table/incident")),
        "refused_by_servicenow",
        "does not know this address",
    ),
    "404 Requested URI": refused(
        says(error(404, NO_RESOURCE, "/api/now/table/incident")),
        "refused_by_servicenow",
        "does not know this address",
    ),
    "400 Exception while reading request": refused(
        says(error(400, "Exception while reading request", "Unexpected character")),
        "refused_by_servicenow",
        "could not read the request as JSON",
    ),
    "400 Rejected large REST payload": refused(
        says(error(400, "Rejected large REST payload with content-length = 11000000")),
        "refused_by_servicenow",
        "larger than ServiceNow takes (10 MB)",
    ),
    "400 page, URL too long": refused(
        says(page(400, "Bad Request")), "refused_by_servicenow", "the rule maps too many fields"
    ),
    "414 page, URL too long": refused(
        says(page(414, "URI Too Long")), "refused_by_servicenow", "the rule maps too many fields"
    ),
    "401 User is not authenticated": held(
        set_up(password="changed"),
        "servicenow_unauthorized",
        "check SERVICENOW_USERNAME and SERVICENOW_PASSWORD",
    ),
    "401 User Not Authenticated": held(
        says(error(401, "User Not Authenticated", "Required to provide Auth information")),
        "servicenow_unauthorized",
        "the account is active and not locked out",
    ),
    "401 X-MFA_TOKEN": held(
        fault("mfa_401"), "servicenow_unauthorized", "Multi-factor authentication applies"
    ),
    # An answer may be refused after the write: a 403 is looked behind, twice where the reads may
    # lag.
    "403 ACL": refused(
        fault("acl_403", "POST"), "refused_by_acl", "give it the role itil", first="POST GET GET"
    ),
    "403 Business Rule": refused(
        fault("business_rule_403", "POST"),
        "refused_by_business_rule",
        "A business rule of the instance aborted the write",
        first="POST GET",
    ),
    "403 Data Policy": refused(
        fault("data_policy_403", "POST"),
        "refused_by_data_policy",
        "A data policy makes fields mandatory",
        first="POST GET",
    ),
    "403 Error during insert": one_by_one(
        says(error(403, "Operation Failed", DUPLICATE), "POST"),
        "insert_failed",
        "a unique index, or the database itself, was against it",
        first="POST GET",
    ),
    "403 User Not Authorized": one_by_one(
        set_up(api_enabled=False),
        "refused_by_acl",
        "if it lasts, check the REST API access policies and the user's roles",
        first="POST GET",
    ),
    "403 Insufficient rights to query": refused(
        fault("acl_403", "GET"),
        "refused_by_acl",
        "give it the role itil",
        first="GET",
        resolves=True,
    ),
    "404 No Record found": refused(
        set_up(rights=Rights(may_read=())),
        "ticket_not_found",
        "the ticket was deleted in ServiceNow or is hidden from the integration user",
        first="GET GET",
        resolves=True,
    ),
    "405 Method not allowed": refused(
        says(error(405, "Method not allowed")),
        "refused_by_servicenow",
        "This address takes no such method",
    ),
    "429 Rate limit exceeded": held(
        fault("rate_limit_429", seconds=RATE_LIMIT_SECONDS),
        "servicenow_rate_limited",
        "raise it in sys_rate_limit_rules",
    ),
    "500 Transaction cancelled": down(
        fault("error_500"), "servicenow_unavailable", "its 60-second limit was reached"
    ),
    # What looks like an answer.
    "200 hibernating": held(
        fault("hibernating_html_200"), "servicenow_hibernating", "Manage instance, Wake"
    ),
    "302 hibernating": held(
        fault("hibernating_redirect_302"), "servicenow_hibernating", "Manage instance, Wake"
    ),
    "502 snow_adc": down(
        fault("adc_502"), "servicenow_unavailable", "may be restarting or upgrading"
    ),
    "503": down(fault("unavailable_503"), "servicenow_unavailable", "Check its status page"),
    "200 login page": held(
        fault("sso_html_200"), "not_servicenow", "that single sign-on leaves the integration user"
    ),
    "302 identity provider": held(
        says(page(302, "", Location="https://login.example.com/saml")),
        "not_servicenow",
        "The address redirects elsewhere",
    ),
    "202 session sync": one_by_one(
        fault("session_sync_202"), "servicenow_overloaded", "Check that no proxy adds cookies"
    ),
    "200 result and error": down(
        fault("partial_200"), "servicenow_bad_answer", "look for slow business rules on the table"
    ),
    "200 truncated": down(
        fault("truncated_200"), "servicenow_bad_answer", "was cut off, or is not JSON"
    ),
    "reset": down(
        breaks, "servicenow_unreachable", "The connection to ServiceNow broke before it answered"
    ),
    "reset after the commit": down(
        fault("commit_then_reset"), "servicenow_unreachable", "broke before it answered"
    ),
    "499": down(says(answers.http(499)), "servicenow_timeout", "gave up waiting for it"),
    "time-out after the commit": down(
        fault("commit_then_hang", seconds=0.8),
        "servicenow_timeout",
        "ServiceNow did not answer in time",
        settings={"SERVICENOW_TIMEOUT_SECONDS": "0.5"},
    ),
    # For a token that is refused another is fetched, once.
    "401 OAuth": held(
        fault("token_expired_401"),
        "servicenow_unauthorized",
        "ServiceNow gave a token and does not accept it",
        first="POST POST POST",
        later=4,
        settings=OAUTH,
    ),
    "401 Basic restricted": held(
        set_up(basic_auth_allowed=False),
        "servicenow_unauthorized",
        "role snc_basic_auth_api_access",
    ),
    "429 semaphores": one_by_one(
        fault("semaphore_429"), "servicenow_overloaded", "lower SERVICENOW_MAX_CONCURRENCY"
    ),
}


@pytest.mark.parametrize("hazard", HAZARDS.values(), ids=HAZARDS)
def test_a_hazard_is_told_costs_few_calls_and_leaves_one_ticket_of_each_row(hazard: Hazard) -> None:
    rows = range(1 + OTHERS)

    def events(current_retry: int) -> list[bytes]:
        if not hazard.resolves:
            return [
                insert("outages", outage(n), id=f"e{n}", current_retry=current_retry) for n in rows
            ]
        fixed = [outage(n, status="fixed") for n in rows]
        return [
            update("outages", outage(n), fixed[n], id=f"e{n}", current_retry=current_retry)
            for n in rows
        ]

    with scene(hazard.settings) as it, ThreadPoolExecutor(OTHERS) as pool:
        if hazard.resolves:
            list(pool.map(it.settle, [insert("outages", outage(n)) for n in rows]))
            it.asked()
        hazard.begin(it)
        first = it.world.send(events(0)[0])
        asked_first = it.asked()
        others = list(pool.map(it.world.send, events(0)[1:]))
        asked_others = len(it.asked())
        again = it.world.send(events(1)[0])
        asked_again = len(it.asked())
        it.wait()
        later = it.world.send(events(2)[0])
        asked_later = len(it.asked())
        mailed = it.mailed()
        it.heal()
        it.wait()
        list(pool.map(it.settle, events(0)))
        tickets = Counter(row["correlation_id"].rpartition(":")[2] for row in it.world.incidents)
        states = {
            row["state"]
            for row in it.world.incidents
            if not row["correlation_id"].endswith("before")
        }

    assert {(answer.status, answer.said) for answer in (first, *others, again, later)} == {
        hazard.answered
    }
    assert all(
        (answer.retry_after is not None) is (answer.status == 503)
        for answer in (first, *others, again, later)
    )
    assert hazard.check in mailed
    assert (asked_first, asked_others, asked_again, asked_later) == (
        hazard.first.split(),
        hazard.others,
        hazard.again,
        hazard.later,
    )
    assert tickets == Counter(["before", *map(str, rows)])
    assert states == {"6" if hazard.resolves else "1"}


def test_a_403_of_a_moment_costs_its_event_one_more_delivery_and_nobody_a_mail() -> None:
    with scene() as it:
        it.world.servicenow.arm("acl_flap_403", method="POST")
        first = it.world.send(insert("outages", outage(1), id="e"))
        asked_first = it.asked()
        again = it.world.send(insert("outages", outage(1), id="e", current_retry=1))
        asked_again = it.asked()

        assert (first.status, first.said) == (503, "retrying refused_by_acl")
        assert (again.status, again.said) == (200, "created")
        assert (asked_first, asked_again) == (["POST", "GET", "GET"], ["POST"])
        assert (len(it.world.incidents), it.world.mails) == (2, [])


def test_a_403_on_creates_that_committed_is_seen_through_at_once() -> None:
    with scene() as it:
        it.world.servicenow.arm("commit_then_403", method="POST", times=None)
        answers = [it.world.send(insert("outages", outage(n), id=f"e{n}")) for n in range(OTHERS)]
        asked = len(it.asked())
        again = it.world.send(insert("outages", outage(0), id="e0", current_retry=1))

        assert {(answer.status, answer.said) for answer in answers} == {(200, "created")}
        assert (again.status, again.said) == (200, "unchanged")
        assert (asked, it.asked()) == (3 * OTHERS, [])
        assert (len(it.world.incidents), it.world.mails) == (1 + OTHERS, [])


def test_a_list_that_is_404_because_it_is_empty_is_no_refusal() -> None:
    """So says version 1 of the API. The list is of a create's own key, where the sys_id is not
    honoured."""
    words = "Records matching query not found. Check query parameter or offset parameter"
    with scene(honours_sys_id=False) as it:
        says(error(404, "No Record found", words), "GET")(it)
        it.world.servicenow.arm("reset", method="POST")
        it.world.send(insert("outages", outage(1), id="e"))
        looked = it.world.send(insert("outages", outage(1), id="e", current_retry=1))
        it.wait()
        made = it.world.send(insert("outages", outage(1), id="e", current_retry=2))

        assert (looked.status, looked.said) == (503, "retrying in_doubt")
        assert (made.status, made.said) == (200, "created")
        assert it.asked() == ["GET", "POST", "GET", "GET", "POST"]
        assert len(it.world.incidents) == 2


def test_a_token_that_is_an_hour_old_is_fetched_anew_and_the_event_does_not_wait() -> None:
    with scene(OAUTH) as it:
        it.world.servicenow.oauth.expire()
        answer = it.world.send(insert("outages", outage(1)))

        assert (answer.status, answer.said) == (200, "created")
        assert it.asked() == ["POST", "POST", "POST"]
        assert len(it.world.servicenow.token_requests) == 2
        assert (len(it.world.incidents), it.world.mails) == (2, [])


@pytest.mark.parametrize(
    "name",
    [
        "401 User is not authenticated",
        "403 Error during insert",
        "403 User Not Authorized",
        "500 Transaction cancelled",
        "202 session sync",
        "429 semaphores",
    ],
)
def test_one_that_lasts_is_given_up_after_a_day_by_two_mails_and_a_hundred_tries_at_most(
    name: str,
) -> None:
    """A wait is anything up to an hour, half of it on average."""
    hazard = HAZARDS[name]
    with scene() as it:
        hazard.begin(it)
        answer = it.world.send(insert("outages", outage(1), id="e"))
        while answer.retry_after is not None:
            it.world.clock.advance(answer.retry_after)
            answer = it.world.send(insert("outages", outage(1), id="e", current_retry=1))
        last = it.world.mails[-1].get_body(("plain",))

        assert (answer.status, answer.said) == (422, "dead gave_up")
        assert 86_400 - 60 < it.world.clock.ahead < 86_400 + 3_601  # a minute for this test itself
        assert len(it.asked()) <= 100 * len(hazard.first.split())
        assert len(it.world.mails) == 2
        assert "python -m function replay e" in str(last)
