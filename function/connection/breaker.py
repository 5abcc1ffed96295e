"""The circuit breaker: while a system as a whole fails, calls to it are held.

A refused credential, a rate limit with a time, a hibernating page, or several transport failures in
a row concern every event, not one. The holds stand in the ledger, so that all instances keep them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Final

from function.core.outcome import CircuitOpen, Failure, Reason, Retryability
from function.core.permit import CallPermit, HoldKind
from function.ledger.holds import PROBE_SECONDS, HoldRepository

# Several failures in a row are an outage, one is an accident.
IN_A_ROW: Final = 5
FIRST_HOLD_SECONDS: Final = 15.0
HOLD_SECONDS_MAX: Final = 300.0
# A page in the place of an answer is a login or another host, and holds calls at once; but where a
# hold of late turned out to be one row's (a firewall that does not like its text), several in a row
# are needed, as of other failures.
PAGE_SECONDS: Final = 3600.0


class CallVerdict(Enum):
    """What a failed call says of the system as a whole."""

    WORKING = "it answered, if with a refusal"
    FAILING = "it did not answer as it should"
    UNKNOWN = "nothing"


@dataclass(frozen=True, slots=True)
class SystemProfile:
    """How one system fails, and what is said of it while calls are held.

    *whole_system*: reasons that are never one row's. *down*: one row's, or the system's as a whole.
    *no_verdict*: these say nothing about whether it works. *unauthorized*, *rate_limited* (one
    call's without a wait, or with one that is over), *unavailable* and *page* (of a page in an
    answer's place; None where that is one failure as any) are its own reasons for these.
    *locks_accounts*: after a few wrong passwords, so that one call alone finds out whether a new
    one is good.
    """

    whole_system: frozenset[Reason]
    down: frozenset[Reason]
    no_verdict: frozenset[Reason]
    unauthorized: Reason
    rate_limited: Reason
    unavailable: Reason
    page: Reason | None
    locks_accounts: bool
    hints: Mapping[HoldKind, str]
    # There is no probe but a call that is due: for so long after a hold has ended, one that failed
    # before leaves that to another, for it may fail for its own sake.
    others_first_seconds: float = 0.0

    def judge_failure(self, failure: Failure) -> CallVerdict:
        queued = failure.reason is self.rate_limited and not failure.retry_after_seconds
        if failure.reason in self.no_verdict or queued:
            return CallVerdict.UNKNOWN
        failing = failure.reason in self.down | self.whole_system
        return CallVerdict.FAILING if failing else CallVerdict.WORKING


SERVICENOW: Final = SystemProfile(
    whole_system=frozenset({Reason.HIBERNATING, Reason.UNAUTHORIZED, Reason.RATE_LIMITED}),
    down=frozenset(
        {
            Reason.UNREACHABLE,
            Reason.TIMEOUT,
            Reason.UNAVAILABLE,
            Reason.BAD_ANSWER,
            Reason.NOT_SERVICENOW,
        }
    ),
    no_verdict=frozenset({Reason.NO_CAPACITY, Reason.DEADLINE, Reason.OVERLOADED}),
    unauthorized=Reason.UNAUTHORIZED,
    rate_limited=Reason.RATE_LIMITED,
    unavailable=Reason.UNAVAILABLE,
    page=Reason.NOT_SERVICENOW,
    locks_accounts=True,
    hints={
        HoldKind.AUTH: (
            "ServiceNow refused the password, the OAuth client or the API key; calls are held so "
            "that the account is not locked: check what the function signs in with "
            "(SERVICENOW_USERNAME and SERVICENOW_PASSWORD, SERVICENOW_CLIENT_ID and "
            "SERVICENOW_CLIENT_SECRET, SERVICENOW_API_KEY, or the configuration that is stored "
            "instead), and whether the account is locked out"
        ),
        HoldKind.RATE: (
            "ServiceNow's rate limit for this user is used up; calls are held until it says to go "
            "on"
        ),
        HoldKind.DOWN: (
            "ServiceNow does not answer as it should; calls are held until a probe passes"
        ),
        HoldKind.CONFIG: (
            "it is not known how to sign in to ServiceNow; calls are held until that is put right"
        ),
    },
)
HASURA: Final = SystemProfile(
    whole_system=frozenset({Reason.HASURA_UNAUTHORIZED, Reason.HASURA_OVERLOADED}),
    down=frozenset(
        {
            Reason.HASURA_UNREACHABLE,
            Reason.HASURA_TIMEOUT,
            Reason.HASURA_UNAVAILABLE,
            Reason.HASURA_BAD_ANSWER,
        }
    ),
    # A trigger that raises an error for one row is answered in the words for a database that
    # cancels every statement.
    no_verdict=frozenset({Reason.DEADLINE, Reason.MUTATION_FAILED, Reason.DATA_FAILED}),
    unauthorized=Reason.HASURA_UNAUTHORIZED,
    rate_limited=Reason.HASURA_OVERLOADED,
    unavailable=Reason.HASURA_UNAVAILABLE,
    page=None,
    locks_accounts=False,
    hints={
        HoldKind.AUTH: (
            "Hasura does not let the function in; mutations are held: check HASURA_ADMIN_SECRET "
            "and HASURA_ROLE"
        ),
        HoldKind.RATE: (
            "Hasura's rate limit is used up; mutations are held until it says to go on"
        ),
        HoldKind.DOWN: (
            "Hasura does not answer as it should; mutations are held until a probe passes"
        ),
        HoldKind.CONFIG: (
            "HASURA_GRAPHQL_URL is not set; mutations are held until that is put right"
        ),
    },
)


# Of a 4xx nothing follows for other events. There is no hold on a credential: what a target does
# not let in is a dead letter.
POST_TARGET: Final = SystemProfile(
    whole_system=frozenset({Reason.TARGET_RATE_LIMITED}),
    down=frozenset({Reason.TARGET_UNREACHABLE, Reason.TARGET_TIMEOUT, Reason.TARGET_UNAVAILABLE}),
    no_verdict=frozenset({Reason.DEADLINE, Reason.TARGET_BUSY, Reason.TARGET_ADDRESS}),
    unauthorized=Reason.TARGET_UNAUTHORIZED,
    rate_limited=Reason.TARGET_RATE_LIMITED,
    unavailable=Reason.TARGET_UNAVAILABLE,
    page=None,
    locks_accounts=False,
    hints={
        HoldKind.RATE: "the target's rate limit is used up; calls are held until it says to go on",
        HoldKind.DOWN: (
            "the target does not answer as it should; calls are held until one of them passes"
        ),
    },
    others_first_seconds=10.0,
)


class CircuitBreaker:
    """Holds the calls to one system, for all instances of the function."""

    def __init__(
        self,
        holds: HoldRepository,
        system: str,
        *,
        profile: SystemProfile,
        auth_hold_seconds: float,
        probe_seconds: float = PROBE_SECONDS,
    ) -> None:
        """*system* is its address, by which the ledger knows it. A probe that has told nothing
        after *probe_seconds* is taken for lost."""
        self.profile = profile
        self._holds = holds
        self._system = system
        self._auth_hold_seconds = auth_hold_seconds
        self._probe_seconds = probe_seconds

    def request_permit(
        self, credential: str, *, verified_after: float | None, failed_before: bool
    ) -> CallPermit:
        """Ask for leave to call with *credential*, a digest. See HoldRepository."""
        return self._holds.request_permit(
            self._system,
            credential,
            probe_seconds=self._probe_seconds,
            verified_after=verified_after,
            failed_before=failed_before,
            locks_accounts=self.profile.locks_accounts,
            others_first_seconds=self.profile.others_first_seconds,
        )

    def find_probe_age(self, permit: CallPermit) -> float:
        """For how many seconds the probe that *permit* waits for has been under way."""
        return self._probe_seconds - permit.wait_seconds

    def refuse(self, permit: CallPermit) -> CircuitOpen | Failure:
        """Why no call may be made: the circuit is open, or this row's own last call failed."""
        if permit.kind is HoldKind.ROW:
            return Failure(
                Retryability.TRANSIENT,
                Reason(permit.reason),
                "its last call failed, and so did those of other rows; one of them is "
                "tried now and then",
                remote_message=permit.remote_message,
                retry_after_seconds=permit.wait_seconds,
            )
        failure = Failure(
            Retryability.TRANSIENT,
            Reason(permit.reason) if permit.reason else self.profile.unavailable,
            self.profile.hints[permit.kind],
            remote_message=permit.remote_message,
            retry_after_seconds=0.0 if permit.waiting_for_probe else permit.wait_seconds,
        )
        return CircuitOpen(failure, kind=permit.kind, since=permit.since)

    def count_failure(
        self, failure: Failure, credential: str, *, claimed: bool
    ) -> CircuitOpen | None:
        """Count a *failure* of the system as a whole; the circuit, where it is open now. *claimed*:
        the call was a probe of ours."""
        kind, seconds = HoldKind.DOWN, FIRST_HOLD_SECONDS
        if failure.reason is self.profile.unauthorized:
            kind, seconds = HoldKind.AUTH, self._auth_hold_seconds
        elif failure.reason is self.profile.rate_limited:
            kind, seconds = HoldKind.RATE, failure.retry_after_seconds or FIRST_HOLD_SECONDS
        page_seconds = PAGE_SECONDS if failure.reason is self.profile.page else None
        since, held_seconds = self._holds.call_failed(
            self._system,
            kind=kind,
            credential=credential,
            failure=failure,
            seconds=seconds,
            seconds_max=HOLD_SECONDS_MAX,
            in_a_row=IN_A_ROW,
            at_once=failure.reason in self.profile.whole_system,
            at_once_unless_proven_seconds=page_seconds,
            fixed=kind is not HoldKind.DOWN,
            claimed=claimed,
        )
        if held_seconds <= 0:
            return None
        wait_seconds = max(held_seconds, failure.retry_after_seconds or 0.0)
        held = replace(failure, retry_after_seconds=wait_seconds or None)
        return CircuitOpen(held, kind=kind, since=since)

    def count_row_failure(self, failure: Failure) -> None:
        """Count a *failure* of a row whose last call failed too: it may be for its own sake."""
        self._holds.record_row_failure(
            self._system,
            failure=failure,
            seconds=FIRST_HOLD_SECONDS,
            seconds_max=HOLD_SECONDS_MAX,
        )

    def record_success(self, credential: str, *, sent_seconds_ago: float) -> None:
        """A write passed: what was held is over."""
        self._holds.record_success(self._system, credential, sent_seconds_ago=sent_seconds_ago)

    def record_probe_success(self, credential: str, *, sent_seconds_ago: float) -> None:
        """A probe passed: calls are made again; whether a write passes is still to be seen."""
        self._holds.record_probe_success(
            self._system, credential, sent_seconds_ago=sent_seconds_ago
        )

    def release_probe(self, credential: str) -> None:
        """Our probe found out nothing: let the next one try."""
        self._holds.release_probe(self._system, credential)
