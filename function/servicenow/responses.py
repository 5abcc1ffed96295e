"""What ServiceNow's answers mean. Pure: an answer is a value, and so is what is wrong with it.

By words rather than by status, since HTTP 200 is not success here and 403 is five different things.

Sources: the Table API's reference (r_RESTAPIHTTPResponseCodes), KB0564204 (202, 429), KB0778443
(cancelled transactions), KB2466644 (403 after a node switch), KB2697679 (403 although the row was
inserted).
"""

import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, Protocol, TypeAlias
from urllib.parse import urlsplit

import msgspec

from function.core.outcome import Failure, Reason, Retryability
from function.core.values import Json, text
from function.http.reply import (
    Reply,
    bound_wait,
    is_page,
    media_type,
    read_retry_after,
    shorten_words,
)

Record: TypeAlias = dict[str, str]


# --- What is asked
# --------------------------------------------------------------------------------------------------

_TABLE = re.compile(r"[a-z][a-z0-9_]{0,79}", re.ASCII)
_FIELD = re.compile(r"[a-z][a-z0-9_]*(\.[a-z][a-z0-9_]*)*", re.ASCII)
# Ours are lower-case hex; an instance may hold records whose ids are other letters.
_SYS_ID = re.compile(r"[0-9A-Za-z]{32}", re.ASCII)
# Behind a column's name in a record: what people see there. No column's name has a colon.
_SHOWN: Final = ":shown"


@dataclass(frozen=True, slots=True)
class Request:
    """One call of the Table API. A GET without *sys_id* is a query, and answered by a list.

    Raises ValueError when *table* or *sys_id* is not spelled like one: nothing else ever becomes
    part of a URL's path.
    """

    method: Literal["GET", "POST", "PATCH"]
    table: str
    sys_id: str = ""

    def __post_init__(self) -> None:
        if not _TABLE.fullmatch(self.table):
            raise ValueError("that is not the name of a ServiceNow table")
        if self.sys_id and not _SYS_ID.fullmatch(self.sys_id):
            raise ValueError("that is not a sys_id")

    @property
    def path(self) -> str:
        return f"/api/now/table/{self.table}" + (f"/{self.sys_id}" if self.sys_id else "")

    @property
    def writes(self) -> bool:
        return self.method != "GET"


def equals(field: str, value: str) -> str:
    """``field=value`` for an encoded query.

    Raises ValueError for a value that could mean more than itself. ServiceNow documents no way to
    escape a ``^``, and drops a term that it does not understand, whereupon the query returns every
    row.
    """
    if not _FIELD.fullmatch(field):
        raise ValueError("that is not the name of a ServiceNow field")
    if (
        not value
        or "^" in value
        or any(unicodedata.category(char) in {"Cc", "Zl", "Zp"} for char in value)
    ):
        raise ValueError(
            f"a query for {field} needs a value, without ^ and without control characters"
        )
    if value.lstrip().startswith("=") or value.lstrip().lower().startswith("javascript:"):
        raise ValueError(
            f"a query for {field} cannot take a value that starts with = or javascript:"
        )
    return f"{field}={value}"


# --- What the answer means
# --------------------------------------------------------------------------------------------


def interpret(request: Request, reply: Reply, *, now: float) -> list[Record] | Failure:
    """Say what *reply* means as the answer to *request*: its records (one, but for a query), or why
    not.

    *now* is UNIX seconds, for the waits that are given as a time of day. TRANSIENT means that the
    request was certainly not processed, or changes nothing; a write that may have been processed is
    IN_DOUBT. A wrong address (an HTML page, a redirect to a login) is TRANSIENT too, although only
    a human can repair it: PERMANENT is the API's own refusal, and rows that arrive while the
    address is wrong must not be given up.
    """
    body = _json_object(reply)
    wait = _retry_after_seconds(reply, now)
    verdict = _verdict(request, reply, body, wait)
    if isinstance(verdict, list):
        return verdict
    return replace(
        verdict,
        remote_message=verdict.remote_message or _words(body),
        retry_after_seconds=None if verdict.retryability is Retryability.PERMANENT else wait,
        status=reply.status,
    )


def _verdict(
    request: Request, reply: Reply, body: dict[str, Any] | None, wait: float | None
) -> list[Record] | Failure:
    if reply.status != 201 and is_page(reply) and _HIBERNATING.search(reply.body):
        return _ASLEEP
    match reply.status:
        case 200 | 201 if body is not None:
            return _records(request, reply.status, body)
        case 200 | 201 | 203 if is_page(reply):
            # A login page is never the answer to something that was done; of another page who
            # knows.
            certain = reply.status == 200 and _LOGIN.search(reply.body)
            return (
                _NOT_SERVICENOW
                if certain
                else no_answer(request, Reason.NOT_SERVICENOW, _NOT_SERVICENOW.hint)
            )
        case 202:
            return _SESSION_SYNC
        case status if 300 <= status < 400:
            return _ASLEEP if _is_developer_site(reply) else _REDIRECTED
        case 401:
            return (
                _MFA
                if reply.headers.get("x-mfa_token", "").strip().lower() == "invalid"
                else UNAUTHORIZED
            )
        case 429:
            return _OVERLOADED if wait is None else _RATE_LIMITED
        case 408 | 499:
            return no_answer(
                request,
                Reason.TIMEOUT,
                "Something between here and ServiceNow gave up waiting for it.",
            )
        case status if 400 <= status < 500:
            return _refusal(request, status, body)
        case status if status >= 500:
            return no_answer(
                request,
                Reason.UNAVAILABLE,
                "ServiceNow, or the load balancer before it, answered with a server error: the "
                "instance may be restarting or upgrading, or its 60-second limit was reached. "
                "Check its status page if this lasts.",
            )
        case _:
            return no_answer(
                request, Reason.BAD_ANSWER, "ServiceNow's answer was cut off, or is not JSON."
            )


def _records(request: Request, status: int, body: dict[str, Any]) -> list[Record] | Failure:
    # Before `result`: a cancelled transaction answers 200 with part of the result and an error
    # behind it (KB0778443).
    if "error" in body:
        return no_answer(
            request,
            Reason.BAD_ANSWER,
            "ServiceNow began to answer and then reported an error, as it does when a "
            "transaction exceeds its time limit: look for slow business rules on the table.",
        )
    if status != (201 if request.method == "POST" else 200):
        return no_answer(
            request,
            Reason.BAD_ANSWER,
            f"ServiceNow answered a {request.method} with HTTP {status}.",
        )
    many = request.method == "GET" and not request.sys_id
    found = body.get("result")
    entries = found if many else [found]
    if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
        return no_answer(
            request, Reason.BAD_ANSWER, "ServiceNow's answer holds no result of the expected shape."
        )
    if any(isinstance(_plain(value), dict | list) for entry in entries for value in entry.values()):
        return no_answer(
            request,
            Reason.BAD_ANSWER,
            "A field of ServiceNow's answer is neither text nor a reference.",
        )
    records = [_record(entry) for entry in entries]
    if request.sys_id and (given := records[0].get("sys_id")):
        if given.lower() != request.sys_id.lower():
            return wrong_record(request, asked=request.sys_id, given=records[0])
        records[0]["sys_id"] = request.sys_id
    if request.method == "POST" and not _SYS_ID.fullmatch(records[0].get("sys_id", "")):
        return no_answer(
            request,
            Reason.BAD_ANSWER,
            "ServiceNow says that it created a record but not which: let the integration user "
            "read sys_id and the record it creates.",
        )
    return records


def _record(entry: Mapping[str, Json]) -> Record:
    record = {name: _cleaned(text(_plain(value))) for name, value in entry.items()}
    for name, value in entry.items():
        if isinstance(value, dict) and "display_value" in value and "value" in value:
            record[f"{name}{_SHOWN}"] = _cleaned(text(value["display_value"]))
    return record


def split_shown(record: Record) -> tuple[Record, Record]:
    """The values of a *record* that was asked for with what people see, and that, by column."""
    values = {name: value for name, value in record.items() if not name.endswith(_SHOWN)}
    shown = {name: record.get(f"{name}{_SHOWN}", value) for name, value in values.items()}
    return values, shown


def _refusal(request: Request, status: int, body: dict[str, Any] | None) -> list[Record] | Failure:
    if body is None or not isinstance(body.get("error"), dict):
        # ServiceNow sends a page for a URL that is too long, and proxies for a request that they do
        # not like; any other refusal that is not in ServiceNow's form is not ServiceNow's.
        return _UNSPOKEN.get(status) or no_answer(
            request, Reason.NOT_SERVICENOW, _NOT_SERVICENOW.hint
        )
    messages = _read_messages(body)
    if (
        status == 404
        and any(words.startswith("No Record found") for words in messages)
        and request.method != "POST"
    ):
        return (
            _MISSING if request.sys_id else []
        )  # a query that finds nothing, as v1 of the API has it
    for pattern, failure in REFUSALS_BY_MESSAGE:
        if any(pattern.match(words) for words in messages):
            return failure
    return _UNSPOKEN.get(status, _REFUSED)


class Sent(Protocol):
    """What was sent: whether it may have changed something."""

    @property
    def writes(self) -> bool: ...


def no_answer(request: Sent, reason: Reason, hint: str, *, status: int = 0) -> Failure:
    """The request was sent and its answer is no answer: a write may have been done, a GET can be
    sent again."""
    return Failure(
        Retryability.IN_DOUBT if request.writes else Retryability.TRANSIENT,
        reason,
        hint,
        status=status,
    )


def is_sys_id(value: str) -> bool:
    """Whether *value* is spelled like a sys_id, and may be asked for."""
    return _SYS_ID.fullmatch(value) is not None


def wrong_record(request: Sent, *, asked: str, given: Record) -> Failure:
    """The answer holds the record *given*, and not the one *asked* for by its sys_id: nothing of it
    is to be believed.

    The words name both.
    """
    failure = no_answer(request, Reason.WRONG_RECORD, _WRONG_RECORD)
    answered = (
        shorten_words(f"{given.get('number', '')} {given.get('sys_id', '')}"[:100])
        or "a record without a sys_id"
    )
    return replace(failure, remote_message=f"asked for {asked}, answered with {answered}")


_WRONG_RECORD: Final = (
    "ServiceNow, or something before it, answers with another record than the one that was asked "
    "for: look for a cache or a proxy before the instance, and for a before-query business "
    "rule on the table."
)


# The words that shipped clients look for (alertmanager-webhook-servicenow and others).
_HIBERNATING = re.compile(
    rb"instance is hibernating|instance-hibernating-page|hibernating instance", re.IGNORECASE
)
_LOGIN = re.compile(
    rb"type=[\"']?password|SAMLRequest|<title>[^<]{0,200}(log ?in|sign[ -]?in|single sign-on)",
    re.IGNORECASE,
)

_ASLEEP: Final = Failure(
    Retryability.TRANSIENT,
    Reason.HIBERNATING,
    "The developer instance is hibernating: wake it at https://developer.servicenow.com (Manage "
    "instance, Wake).",
)
_NOT_SERVICENOW: Final = Failure(
    Retryability.TRANSIENT,
    Reason.NOT_SERVICENOW,
    "What answered is not ServiceNow's Table API (a login page, a proxy, a firewall or another "
    "host): check SERVICENOW_INSTANCE_URL, the instance's IP address access control, and that "
    "single sign-on leaves the integration user alone.",
)
_REDIRECTED: Final = Failure(
    Retryability.TRANSIENT,
    Reason.NOT_SERVICENOW,
    "The address redirects elsewhere, as to a login: check that SERVICENOW_INSTANCE_URL is the "
    "instance's own address and that single sign-on leaves the integration user alone. "
    "Redirects are not followed.",
)
_SESSION_SYNC: Final = Failure(
    Retryability.TRANSIENT,
    Reason.OVERLOADED,
    "ServiceNow set the request aside without processing it (HTTP 202, KB0564204): too many "
    "requests wait for one session. Check that no proxy adds cookies.",
)
_OVERLOADED: Final = Failure(
    Retryability.TRANSIENT,
    Reason.OVERLOADED,
    "ServiceNow's queue for API calls is full: lower SERVICENOW_MAX_CONCURRENCY or the number of "
    "instances, and see who else calls the API.",
)
_RATE_LIMITED: Final = Failure(
    Retryability.TRANSIENT,
    Reason.RATE_LIMITED,
    "A rate limit rule of the instance applies to the integration user: raise it in "
    "sys_rate_limit_rules, or wait.",
)
UNAUTHORIZED: Final = Failure(
    Retryability.TRANSIENT,
    Reason.UNAUTHORIZED,
    "ServiceNow does not accept the user and password: check SERVICENOW_USERNAME and "
    "SERVICENOW_PASSWORD, that the account is active and not locked out, and that it may use "
    "basic authentication (role snc_basic_auth_api_access, or web service access only).",
)
_MFA: Final = Failure(
    Retryability.TRANSIENT,
    Reason.UNAUTHORIZED,
    "Multi-factor authentication applies to the integration user, which has nobody to answer it: "
    "exempt the user, or set web service access only.",
)
_MISSING: Final = Failure(
    Retryability.PERMANENT,
    Reason.MISSING,
    "ServiceNow has no such record, or hides it from the integration user: see whether it was "
    "deleted, and whether the user may read it (role itil).",
)
_REFUSED: Final = Failure(
    Retryability.PERMANENT,
    Reason.REFUSED,
    "ServiceNow refused the request: its own words say why.",
)


def _refused(hint: str) -> Failure:
    return replace(_REFUSED, hint=hint)


# What ServiceNow says, at the start of its message or detail: behind that it quotes names and
# values, which may say anything. The rest is a refusal whose words a human must read.
REFUSALS_BY_MESSAGE: Final = (
    (
        # A duplicate sys_id, a unique index, or any failure of the database.
        re.compile(r"Error during insert of "),
        Failure(
            Retryability.IN_DOUBT,
            Reason.INSERT_FAILED,
            "ServiceNow's database did not take the record: it may exist already, or a unique "
            "index, or the database itself, was against it. The instance's system "
            "log has the cause.",
        ),
    ),
    (
        re.compile(r"Operation against file .{1,200}? was aborted by Business Rule", re.DOTALL),
        Failure(
            Retryability.PERMANENT,
            Reason.BUSINESS_RULE,
            "A business rule of the instance aborted the write: its name stands in ServiceNow's "
            "words, its reason only in its script (sys_script).",
        ),
    ),
    (
        re.compile(r"Data Policy Exception"),
        Failure(
            Retryability.PERMANENT,
            Reason.DATA_POLICY,
            "A data policy makes fields mandatory that the rule does not send: ServiceNow's "
            "words name them by label; add them to the rule's fields, or to its "
            "close_code and close_notes.",
        ),
    ),
    (
        re.compile(r"ACL Exception|Insufficient rights"),
        Failure(
            Retryability.PERMANENT,
            Reason.ACL,
            "The integration user may not do this: give it the role itil (or sn_incident_write), "
            "and check the access controls of the table and of the fields that the rule sends.",
        ),
    ),
    (
        re.compile(r"User Not Authorized|Failed API level ACL Validation"),
        Failure(
            Retryability.TRANSIENT,
            Reason.ACL,
            "ServiceNow did not let the integration user use the Table API. It can say so for a "
            "moment after a node switch (KB2466644); if it lasts, check the REST API access "
            "policies and the user's roles.",
        ),
    ),
    (
        re.compile(r"Invalid table"),
        _refused("The instance has no such table: check the rule's table."),
    ),
    (
        re.compile(r"Requested URI does not represent any resource"),
        _refused(
            "The instance does not know this address: check the rule's table, and "
            "SERVICENOW_INSTANCE_URL."
        ),
    ),
    (
        re.compile(r"Exception while reading request"),
        _refused("ServiceNow could not read the request as JSON."),
    ),
    (
        re.compile(r"Rejected large REST payload"),
        _refused(
            "The request is larger than ServiceNow takes (10 MB): shorten what the "
            "rule's fields say."
        ),
    ),
)
_UNSPOKEN: Final = {
    400: _refused(
        "ServiceNow, or a proxy before it, could not make sense of the request: see its own "
        "words. Where there are none, its address may be too long: the rule maps too many fields."
    ),
    405: _refused(
        "This address takes no such method: check the rule's table and the instance's "
        "REST API policies."
    ),
    406: _refused("ServiceNow does not answer in JSON here: check SERVICENOW_INSTANCE_URL."),
    413: _refused(
        "The request is larger than ServiceNow, or a proxy before it, takes: shorten "
        "the rule's fields."
    ),
    414: _refused(
        "The request's address is too long for ServiceNow: the rule maps too many fields."
    ),
    415: _refused("ServiceNow does not take JSON here: check SERVICENOW_INSTANCE_URL."),
}


def _json_object(reply: Reply) -> dict[str, Any] | None:
    """The body, if it says that it is JSON and is one whole JSON object."""
    if media_type(reply) != "application/json":
        return None
    try:
        return msgspec.json.decode(reply.body, type=dict[str, Any])
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


def _is_developer_site(reply: Reply) -> bool:
    location = reply.headers.get("location", "")
    try:
        host = urlsplit(location).hostname or ""
    except ValueError:
        return False
    return host == "developer.servicenow.com" or "hibernating" in location.lower()


def _read_messages(body: dict[str, Any] | None) -> list[str]:
    """ServiceNow's message and detail, those that there are."""
    error = body.get("error") if body else None
    messages = [error.get("message"), error.get("detail")] if isinstance(error, dict) else [error]
    return [words.strip() for words in messages if isinstance(words, str) and words.strip()]


def _words(body: dict[str, Any] | None) -> str:
    return shorten_words(": ".join(_read_messages(body)))


# PostgreSQL stores no NUL, and nobody stores half a character.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def _cleaned(value: str) -> str:
    return _UNSTORABLE.sub("\N{REPLACEMENT CHARACTER}", value)


def _plain(value: Json) -> Json:
    """A field's value: that of a reference which comes with its link is its sys_id."""
    return value.get("value", value) if isinstance(value, dict) else value


def _retry_after_seconds(reply: Reply, now: float) -> float | None:
    """How long ServiceNow asks us to wait, between 0 and an hour (its limits are per hour); None
    when it does not say."""
    seconds = read_retry_after(reply, now)
    reset = reply.headers.get("x-ratelimit-reset", "").strip()
    # It stands on every answer to which a rule applies.
    if seconds is None and reply.status == 429 and _WHOLE.fullmatch(reset):
        seconds = float(reset) - now
    return None if seconds is None else bound_wait(seconds)


def rate_limit_per_hour(reply: Reply) -> int | None:
    """The limit of the rate limit rule that applies; every answer to such a user names it."""
    limit = reply.headers.get("x-ratelimit-limit", "").strip()
    return int(limit) if _WHOLE.fullmatch(limit) else None


_WHOLE = re.compile(r"\d{1,12}", re.ASCII)
