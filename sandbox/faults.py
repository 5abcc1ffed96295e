"""The ways in which a real instance fails, by name, and who waits for them."""

import json
import threading
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from sandbox.rest import HTML, JSON, Answer, html_page
from sandbox.schema import Refused, aborted

# At the door: the request is not looked at, nothing is stored.
AT_THE_DOOR: Final = frozenset(
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
REFUSALS: Final = frozenset(
    {"error_500", "acl_403", "acl_flap_403", "business_rule_403", "data_policy_403"}
)
# The work is done and the answer is wrong, late or missing; with commit_late the work is done
# later.
SPOILED: Final = frozenset(
    {
        "commit_then_500",
        "commit_then_403",
        "commit_then_reset",
        "commit_then_hang",
        "commit_late",
        "partial_200",
        "truncated_200",
        "created_without_sys_id",
        "another_record",
    }
)
# The answer is good and old.
LAGGING: Final = frozenset({"stale_read"})
FAULTS: Final = AT_THE_DOOR | REFUSALS | SPOILED | LAGGING
# What a login can meet beside a wrong password: the Bearer token has expired, and stays so; the
# user needs a second factor. They are apart because no retry heals them.
LOGIN_FAULTS: Final = frozenset({"token_expired_401", "mfa_401"})

_CANCELLED: Final = "Transaction cancelled: maximum execution time exceeded"
CANCELLED: Final = {"message": _CANCELLED, "detail": "Transaction cancelled"}


@dataclass(slots=True)
class Fault:
    """A fault that waits for its requests; *times* None is until removed. None in *method* or
    *table* is any."""

    name: str
    times: int | None = 1
    method: str | None = None
    table: str | None = None
    seconds: float = 0.0

    def __post_init__(self) -> None:
        if self.name not in FAULTS | LOGIN_FAULTS:
            raise ValueError(
                f"there is no fault {self.name!r}; there are "
                f"{', '.join(sorted(FAULTS | LOGIN_FAULTS))}"
            )

    def concerns(self, method: str, table: str, *, bearer: bool) -> bool:
        return (
            self.method in {None, method}
            and self.table in {None, table}
            and (self.name not in LAGGING or method in {"GET", "HEAD"})
            and (self.name != "token_expired_401" or bearer)
        )


class Faults:
    """The armed faults, first come, first served."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._armed: list[Fault] = []

    def arm(self, fault: Fault) -> None:
        with self._lock:
            self._armed.append(fault)

    def disarm(self, name: str | None = None) -> None:
        """Remove every fault, or those of that *name*."""
        with self._lock:
            self._armed = [fault for fault in self._armed if name not in {None, fault.name}]

    def armed(self) -> list[Fault]:
        with self._lock:
            return list(self._armed)

    def take(
        self, among: Iterable[str], method: str, table: str, *, bearer: bool = False
    ) -> Fault | None:
        """The fault that this request meets, if it is one of *among*; used up if it had
        a number."""
        with self._lock:
            met = next(
                (fault for fault in self._armed if fault.concerns(method, table, bearer=bearer)),
                None,
            )
            if met is None or met.name not in among:
                return None
            if met.times is not None:
                met.times -= 1
                if met.times < 1:
                    self._armed.remove(met)
            return met


def refusal(fault: str, method: str, table: str) -> Refused:
    """The refusal that *fault* stands for, in ServiceNow's words."""
    match (
        fault,
        {"POST": "Insert", "DELETE": "Delete", "GET": "", "HEAD": ""}.get(method, "Update"),
    ):
        case "error_500", _:
            return Refused(500, _CANCELLED, f"{_CANCELLED}. Please check logs for error trace")
        case "acl_403", "":
            return Refused(403, "Insufficient rights to query records")
        case "acl_403", verb:
            return Refused(
                403, "Operation Failed", f"ACL Exception {verb} Failed due to security constraints"
            )
        case "business_rule_403", _:
            return aborted(
                table, "Check with change board", uuid.uuid5(uuid.NAMESPACE_OID, table).hex
            )
        case "data_policy_403", _:
            words = (
                "Data Policy Exception: The following fields are mandatory: "
                "Caller, Business service"
            )
            return Refused(403, "Operation Failed", words)
        case _:
            return not_authorized()


def not_authorized() -> Refused:
    """The API itself is closed to the user."""
    return Refused(403, "User Not Authorized", "Failed API level ACL Validation")


def over_the_limit(per_hour: int, *, now: float, wait_seconds: int, url: str) -> Answer:
    """What a rate limit rule answers when it is used up; *wait_seconds* until it is not."""
    refused = {
        "message": "Rate limit exceeded",
        "detail": f"Rate limit of {per_hour} requests per hour for Table API exceeded",
    }
    headers = (
        JSON,
        *rate_limit_headers(per_hour, reset=int(now) + wait_seconds, url=url),
        ("Retry-After", str(wait_seconds)),
    )
    return Answer(429, json.dumps({"error": refused, "status": "failure"}).encode(), headers)


def rate_limit_headers(per_hour: int, *, reset: int, url: str) -> tuple[tuple[str, str], ...]:
    """What every answer carries where a rule matches; *reset* is UNIX seconds."""
    rule = uuid.uuid5(uuid.NAMESPACE_URL, url).hex
    return (
        ("X-RateLimit-Limit", str(per_hour)),
        ("X-RateLimit-Reset", str(reset)),
        ("X-RateLimit-Rule", rule),
    )


def busy() -> Answer:
    """No semaphore is free and the queue is full: 429 without a word about when."""
    return Answer(429, html_page("Too many requests", "The request was rejected."), (HTML,))


def at_the_door(fault: Fault, now: float, url: str) -> Answer | None:
    """What comes from in front of the instance: load balancer, portal, rate limit. None is no
    answer."""
    match fault.name:
        case "session_sync_202":
            return Answer(202, b"", (JSON,))
        case "rate_limit_429":
            return over_the_limit(100, now=now, wait_seconds=int(fault.seconds) or 3600, url=url)
        case "semaphore_429":
            return busy()
        case "hibernating_html_200":
            words = (
                '<div class="instance-hibernating-page"><p>Your instance is hibernating.</p></div>'
            )
            return Answer(200, html_page("Hibernating Instance", words), (HTML,))
        case "hibernating_redirect_302":
            return Answer(
                302, b"", (("Location", "https://developer.servicenow.com/dev.do#!/home?wu=true"),)
            )
        case "sso_html_200":
            form = (
                '<form method="post" action="/saml/sso"><input name="username"><input '
                'type="password"></form>'
            )
            return Answer(200, html_page("Log in", form), (HTML,))
        case "adc_502":
            return Answer(
                502, html_page("502 Bad Gateway", "snow_adc"), (HTML, ("Server", "snow_adc"))
            )
        case "unavailable_503":
            asked = (("Retry-After", str(int(fault.seconds))),) if fault.seconds else ()
            return Answer(503, html_page("Service Unavailable", "Try again later."), (HTML, *asked))
        case _:
            return None
