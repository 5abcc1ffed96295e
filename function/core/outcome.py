"""What followed: outcomes, and failures with their reasons. Pure."""

from dataclasses import dataclass
from enum import StrEnum

from function.core.permit import HoldKind
from function.core.values import Json


class Retryability(StrEnum):
    """Whether trying again can help."""

    TRANSIENT = "transient"  # not done; trying again may help
    IN_DOUBT = "in doubt"  # sent, and perhaps done: look before believing either
    PERMANENT = "permanent"  # trying the same again cannot help


class Reason(StrEnum):
    """Why an outcome is not simply done. A closed list: it stands in answers that Hasura stores."""

    # nothing to do
    WHEN_FALSE = "when_false"
    NOT_CREATED = "not_created_by_this_op"
    ALREADY_RESOLVED = "already_resolved"
    ROW_GONE = "row_gone"
    TICKET_CLOSED = "ticket_closed"
    TICKET_MISSING = "ticket_missing"
    NOT_LINKED = "not_linked"
    FROM_SERVICENOW = "from_servicenow"
    NOT_UNDERSTOOD = "command_not_understood"
    NOT_ALLOWED = "command_not_allowed"
    SEVERAL_TICKETS = "several_tickets"
    REOPENED = "ticket_reopened"
    RESOLVE_WHEN_FALSE = "resolve_when_false"
    NO_REPLY_URL = "no_reply_url"
    # ServiceNow as a whole, or the way there
    UNREACHABLE = "servicenow_unreachable"
    TIMEOUT = "servicenow_timeout"
    UNAVAILABLE = "servicenow_unavailable"
    HIBERNATING = "servicenow_hibernating"
    OVERLOADED = "servicenow_overloaded"
    RATE_LIMITED = "servicenow_rate_limited"
    UNAUTHORIZED = "servicenow_unauthorized"
    NOT_SERVICENOW = "not_servicenow"
    BAD_ANSWER = "servicenow_bad_answer"
    WRONG_RECORD = "servicenow_wrong_record"
    TIME_ZONE = "servicenow_time_zone"
    IN_DOUBT = "in_doubt"
    # Hasura as a whole, or the way there
    HASURA_UNREACHABLE = "hasura_unreachable"
    HASURA_TIMEOUT = "hasura_timeout"
    HASURA_UNAVAILABLE = "hasura_unavailable"
    HASURA_OVERLOADED = "hasura_overloaded"
    HASURA_UNAUTHORIZED = "hasura_unauthorized"
    HASURA_BAD_ANSWER = "hasura_bad_answer"
    # Hasura, or the app's database, said no
    MUTATION_FAILED = "mutation_failed"
    MUTATION_INVALID = "mutation_invalid"
    MUTATION_FORBIDDEN = "mutation_forbidden"
    MUTATION_REFUSED = "mutation_refused"
    # the query for a post's data
    DATA_FAILED = "data_failed"
    DATA_INVALID = "data_invalid"
    DATA_FORBIDDEN = "data_forbidden"
    # the target of a post, or the way there
    TARGET_UNREACHABLE = "target_unreachable"
    TARGET_TIMEOUT = "target_timeout"
    TARGET_UNAVAILABLE = "target_unavailable"
    TARGET_RATE_LIMITED = "target_rate_limited"
    TARGET_NOT_READY = "target_not_ready"
    TARGET_BUSY = "target_busy"
    # it said no, or is none to be called
    TARGET_UNAUTHORIZED = "target_unauthorized"
    TARGET_REFUSED = "target_refused"
    TARGET_GONE = "target_gone"
    TARGET_REDIRECTS = "target_redirects"
    TARGET_ADDRESS = "target_address"
    # Slack, or the way there
    SLACK_UNREACHABLE = "slack_unreachable"
    SLACK_TIMEOUT = "slack_timeout"
    SLACK_UNAVAILABLE = "slack_unavailable"
    SLACK_RATE_LIMITED = "slack_rate_limited"
    SLACK_REFUSED = "slack_refused"
    REPLY_EXPIRED = "reply_url_expired"
    # ServiceNow said no
    ACL = "refused_by_acl"
    BUSINESS_RULE = "refused_by_business_rule"
    DATA_POLICY = "refused_by_data_policy"
    INSERT_FAILED = "insert_failed"
    REFUSED = "refused_by_servicenow"
    CONFLICT = "sys_id_conflict"
    MISSING = "ticket_not_found"
    UNKNOWN_REFERENCE = "unknown_reference"
    NOT_KEPT = "value_not_kept"
    FOREIGN_MARK = "foreign_correlation_id"
    # the rules and the event
    BAD_MAPPING = "bad_mapping"
    UNKNOWN_VALUE = "unknown_value"
    BAD_KEY = "bad_key"
    NO_RULE = "no_rule"
    NOT_A_ROW = "not_a_row"
    # ourselves
    NOT_CONFIGURED = "not_configured"
    BUSY = "key_busy"
    NO_TICKET = "no_ticket"  # that a note is for: in the end there is nothing to do
    NO_CAPACITY = "no_capacity"
    DEADLINE = "deadline"
    GAVE_UP = "gave_up"
    TOO_MANY_UPDATES = "too_many_updates"
    FAULT = "fault"


@dataclass(frozen=True, slots=True)
class Failure:
    """Why something was not done.

    *hint* is a sentence for a human that says what to check; it holds no secret and nothing of a
    row. *remote_message* is the remote system's own, cut short: for the ledger, the console and the
    mail, never for a log or an answer. *retry_after_seconds* is what the remote asked for, where it
    did. *status* is its HTTP status, 0 without one.
    """

    retryability: Retryability
    reason: Reason
    hint: str
    remote_message: str = ""
    retry_after_seconds: float | None = None
    status: int = 0


class NotDone(Exception):  # noqa: N818  # what happened, not whose error it is
    """What was to be done for a rule was not done, or perhaps was: *failure* says which, and what
    to check."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(f"{failure.reason}: {failure.hint}")
        self.failure = failure


class CircuitOpen(NotDone):  # a state, not a mistake
    """Calls to a system are held. *since* is UNIX seconds by the ledger's clock."""

    def __init__(self, failure: Failure, *, kind: HoldKind, since: float) -> None:
        super().__init__(failure)
        self.kind = kind
        self.since = since


class Status(StrEnum):
    """What followed for one rule and key."""

    CREATED = "created"
    UPDATED = "updated"
    RESOLVED = "resolved"
    REOPENED = "reopened"
    SENT = "sent"
    UNCHANGED = "unchanged"
    SUPERSEDED = "superseded"
    SKIPPED = "skipped"
    RETRYING = "retrying"
    DEAD = "dead"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What followed for one rule and key. *retry_at* (UNIX seconds) is for RETRYING; *hint*, what
    to do, for DEAD. *answer* is what the rule answers a source that waits for it."""

    rule: str
    key: str
    status: Status
    ticket: str = ""
    reason: Reason | None = None
    retry_at: float | None = None
    hint: str = ""
    answer: Json = None
