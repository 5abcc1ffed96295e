"""What is raised when ServiceNow did not do what was asked. The name says whose fault it is.

ServiceNowError          it did not do it, or perhaps did; .failure says which, and what to check
├─ InvalidArgument       ours, found before anything was written; also a ValueError
│  └─ UnknownReference   no group, user, … goes by that name, or more than one does
├─ NotFound              the record is not there, or is hidden from the integration user
├─ Refused               the instance said no: a business rule, a data policy, a final state
├─ NotAuthorized         the integration user: wrong password, locked, a role that is missing
├─ Unavailable           asleep, down, overloaded, over its rate limit, not reached: try later
└─ InDoubt               sent, and perhaps done: look before sending it again
"""

from collections.abc import Iterator
from contextlib import contextmanager

from function.core.outcome import Failure, NotDone, Reason, Retryability


class ServiceNowError(NotDone):
    """ServiceNow did not do what was asked, or perhaps did: *failure* says which, and what to
    check.

    The text names the reason and the hint, never ServiceNow's words, which may quote the row: they
    are in `remote_message`, and in `message`. *call* is the method and the table, *sys_id* the
    record's that a create in doubt has, if it was made.
    """

    def __init__(
        self, failure: Failure, *, call: str = "", doing: str = "", sys_id: str = ""
    ) -> None:
        super().__init__(failure)
        self.call = call
        self.doing = doing
        self.sys_id = sys_id

    @property
    def remote_message(self) -> str:
        """ServiceNow's own message, cut short; empty where it said nothing. It may quote the
        record."""
        return self.failure.remote_message

    @property
    def hint(self) -> str:
        """What to check: a sentence without secrets and without anything of a record."""
        return self.failure.hint

    @property
    def retry_after_seconds(self) -> float | None:
        """How long ServiceNow asks us to wait, where it does."""
        return self.failure.retry_after_seconds

    @property
    def message(self) -> str:
        """All of it in a line, for the person who asked. It may quote the record: not for a log
        that others read."""
        where = (
            f"{self.doing} ({self.call})" if self.doing and self.call else self.doing or self.call
        )
        quoted = f'ServiceNow said "{self.remote_message}"' if self.remote_message else ""
        wait = self.retry_after_seconds
        later = f"Not before {wait:.0f} s from now." if wait else ""
        return " ".join(
            filter(
                None,
                [f"{where}:" if where else "", f"{quoted}." if quoted else "", self.hint, later],
            )
        )


class InvalidArgument(ServiceNowError, ValueError):  # noqa: N818  # what happened
    """What was given cannot be sent; nothing was written. *hint* names the field and
    what it takes."""

    def __init__(self, hint: str, *, reason: Reason = Reason.UNKNOWN_VALUE) -> None:
        super().__init__(Failure(Retryability.PERMANENT, reason, hint))


class UnknownReference(InvalidArgument):
    """No record goes by the name that was given, or more than one does (*is_ambiguous*); nothing
    was written. *problem* is what is wrong with the name; *hint* says of which field it is."""

    def __init__(self, hint: str, *, problem: str = "", is_ambiguous: bool = False) -> None:
        super().__init__(hint, reason=Reason.UNKNOWN_REFERENCE)
        self.problem = problem or hint
        self.is_ambiguous = is_ambiguous


class NotFound(ServiceNowError):  # noqa: N818  # as above
    """The record is not there, or is hidden from the integration user."""


class Refused(ServiceNowError):  # noqa: N818  # as above
    """The instance said no, and will again: *remote_message* says why, where it said why."""


class NotAuthorized(ServiceNowError):  # noqa: N818  # as above
    """The integration user is not let in, or lacks a role. Never try a refused password again:
    accounts lock."""


class Unavailable(ServiceNowError):  # noqa: N818  # as above
    """Nothing was done, and trying later may help: not before *retry_after_seconds*, where
    ServiceNow says so."""


class InDoubt(ServiceNowError):  # noqa: N818  # as above
    """The request was sent and no answer told what became of it. ServiceNow may still do it, up to
    60 s later."""


def error_of(failure: Failure, *, call: str = "") -> ServiceNowError:
    """*failure* as the error that says whose fault it is."""
    match failure:
        case Failure(reason=Reason.MISSING):
            return NotFound(failure, call=call)
        case Failure(reason=Reason.UNAUTHORIZED | Reason.ACL):
            return NotAuthorized(failure, call=call)
        case Failure(retryability=Retryability.IN_DOUBT):
            return InDoubt(failure, call=call)
        case Failure(retryability=Retryability.TRANSIENT):
            return Unavailable(failure, call=call)
        case _:
            return Refused(failure, call=call)


@contextmanager
def doing(what: str) -> Iterator[None]:
    """Within, an error says what was being done."""
    try:
        yield
    except ServiceNowError as error:
        error.doing = error.doing or what
        raise
