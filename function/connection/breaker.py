"""The guarded client: calls are held while ServiceNow as a whole fails; a password is tried by one
call at a time.

A 401, a rate limit with a time, a hibernating page, or several transport failures in a row concern
every event, not one. The holds stand in the ledger, so that all instances keep them.
"""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from enum import Enum
from typing import Final, TypeVar

from function.core.outcome import Failure, Kind, Reason
from function.core.permit import CallPermit, HoldKind
from function.deadline import Deadline, answer_within, seconds_left
from function.ledger.backend import LedgerUnavailable
from function.ledger.ledger import Ledger
from function.servicenow import Credential, Record, ServiceNowClient, ServiceNowError
from function.servicenow.single_flight import NotFetched, SingleFlight

log = logging.getLogger(__name__)
T = TypeVar("T")

# Several failures in a row are an outage, one is an accident.
IN_A_ROW: Final = 5
FIRST_HOLD_SECONDS: Final = 15.0
HOLD_SECONDS_MAX: Final = 300.0
# A probe that has told nothing by then is taken for lost (its process was killed), and another may
# try.
PROBE_SECONDS: Final = 10.0
# Threads and Hasura's pool are not for waiting where something is wrong.
WAIT_SECONDS: Final = 2.0
# Where nothing is, ServiceNow is only slow: as long as its own slowest good answer.
TURN_SECONDS: Final = 20.0
# Whoever puts a configuration right waits no longer than that for what comes back.
NOT_CONFIGURED_SECONDS: Final = 30.0
# A rotated secret is noticed that soon while the old one is held, without a call to ServiceNow.
REFRESH_SECONDS: Final = 30.0

# A page in the place of an answer is a login or another host, and holds calls at once; but where a
# hold of late turned out to be one row's (a firewall that does not like its text), several in a row
# are needed, as of other failures.
PAGE_SECONDS: Final = 3600.0

# Never one row's.
_WHOLE: Final = {Reason.HIBERNATING, Reason.UNAUTHORIZED, Reason.RATE_LIMITED}
# One row's, or ServiceNow's as a whole.
_DOWN: Final = {
    Reason.UNREACHABLE,
    Reason.TIMEOUT,
    Reason.UNAVAILABLE,
    Reason.BAD_ANSWER,
    Reason.NOT_SERVICENOW,
}
# These say nothing about whether ServiceNow works.
_NO_VERDICT: Final = {Reason.NO_CAPACITY, Reason.DEADLINE, Reason.OVERLOADED}


class _Verdict(Enum):
    """What a failed call says of ServiceNow as a whole."""

    WORKING = "it answered, if with a refusal"
    FAILING = "it did not answer as it should"
    UNKNOWN = "nothing"


def _verdict(failure: Failure) -> _Verdict:
    queued = failure.reason is Reason.RATE_LIMITED and failure.retry_after_seconds is None
    if failure.reason in _NO_VERDICT or queued:
        return _Verdict.UNKNOWN
    return _Verdict.FAILING if failure.reason in _DOWN | _WHOLE else _Verdict.WORKING


HINTS: Final[Mapping[HoldKind, str]] = {
    HoldKind.AUTH: (
        "ServiceNow refused the password, the OAuth client or the API key; calls are held so "
        "that the account is not "
        "locked: check what the function signs in with (SERVICENOW_USERNAME and "
        "SERVICENOW_PASSWORD, "
        "SERVICENOW_CLIENT_ID and SERVICENOW_CLIENT_SECRET, SERVICENOW_API_KEY, or the "
        "configuration that is stored "
        "instead), and whether the account is locked out"
    ),
    HoldKind.RATE: (
        "ServiceNow's rate limit for this user is used up; calls are held until it says to go on"
    ),
    HoldKind.DOWN: "ServiceNow does not answer as it should; calls are held until a probe passes",
    HoldKind.CONFIG: (
        "it is not known how to sign in to ServiceNow; calls are held until that is put right"
    ),
}


class CircuitOpen(ServiceNowError):  # noqa: N818  # a state, not a mistake
    """ServiceNow as a whole does not work, or (kind config) we know no way to sign in to it.

    *kind* is down, rate, auth or config; *since* is UNIX seconds by the ledger's clock.
    """

    def __init__(self, failure: Failure, *, kind: HoldKind, since: float) -> None:
        super().__init__(failure)
        self.kind = kind
        self.since = since


class CredentialUnreadable(Exception):  # noqa: N818  # what happened
    """Where the secrets are kept does not answer; the text names the variable, never a value."""


class CredentialProvider:
    """Who we are to ServiceNow, read anew when that is refused: rotation needs no redeploy."""

    def __init__(
        self, known: Credential, read: Callable[[], Credential], instance_url: str
    ) -> None:
        self._read = read
        self._instance_url = instance_url
        self._lock = threading.Lock()
        self._flights = SingleFlight[str, None]()
        self._current = known
        self._digest = ""

    def current(self) -> Credential:
        return self._current

    @property
    def digest(self) -> str:
        """What stands for the credential in the ledger. Slow to make, so made once."""
        with self._lock:
            if not self._digest:
                self._digest = self._current.digest(self._instance_url)
            return self._digest

    def refresh(self) -> bool:
        """Read the secrets again; True when they are others now. Of several who ask at once, one
        reads; it does so, and the others wait for it, no longer than the answer that is due may
        take."""
        known = self._current
        # Where another thread's reading failed or takes too long, this one is no wiser.
        with suppress(NotFetched):
            self._flights.run(
                "credential",
                lambda: self._read_again(known),
                wait_seconds=min(TURN_SECONDS, seconds_left()),
            )
        return self._current != known

    def _read_again(self, known: Credential) -> None:
        if self._current != known:
            return  # another thread has read it since
        try:
            fresh = self._read()
        except CredentialUnreadable as error:
            log.warning("the credential could not be read again: %s", error)
            return
        with self._lock:
            if fresh != self._current:
                self._current, self._digest = fresh, ""


class GuardedClient:
    """ServiceNow's Table API as this function uses it; raises what the client raises, and
    CircuitOpen."""

    def __init__(
        self,
        client: ServiceNowClient,
        ledger: Ledger,
        credentials: CredentialProvider,
        *,
        auth_hold_seconds: float,
        concurrency_max: int,
    ) -> None:
        self._client = client
        self._ledger = ledger
        self._credentials = credentials
        self._auth_hold_seconds = auth_hold_seconds
        # Accounts lock after about five wrong passwords in fifteen minutes, and a password may be
        # changed at any time: so calls overlap freely only as long as one that was let in overlaps
        # them. The first after a pause goes alone, of all threads (these below) and of all
        # instances (the ledger); and who waits for a slot asks again after it.
        self._turn = threading.Condition()
        self._in_flight = 0
        self._in_flight_max = concurrency_max
        self._waiting = 0
        self._refreshed_at = time.monotonic()
        self._asking = False
        self._verified = False
        self._failure_epoch = 0
        self._troubled = True

    @property
    def instance(self) -> str:
        return self._client.instance_url

    def get(self, table: str, sys_id: str, *, fields: Sequence[str], deadline: Deadline) -> Record:
        return self._call(
            table,
            deadline,
            lambda left: self._client.get(table, sys_id, fields=fields, timeout_seconds=left),
        )

    def find(
        self, table: str, query: str, *, fields: Sequence[str], limit: int, deadline: Deadline
    ) -> list[Record]:
        return self._call(
            table,
            deadline,
            lambda left: self._client.find(
                table, query, fields=fields, limit=limit, timeout_seconds=left
            ),
        )

    def create(
        self, table: str, values: Mapping[str, str], *, fields: Sequence[str], deadline: Deadline
    ) -> Record:
        return self._call(
            table,
            deadline,
            lambda left: self._client.create(table, values, fields=fields, timeout_seconds=left),
            writes=True,
        )

    def update(
        self,
        table: str,
        sys_id: str,
        values: Mapping[str, str],
        *,
        fields: Sequence[str],
        deadline: Deadline,
    ) -> Record:
        return self._call(
            table,
            deadline,
            lambda left: self._client.update(
                table, sys_id, values, fields=fields, timeout_seconds=left
            ),
            writes=True,
        )

    def _call(
        self,
        table: str,
        deadline: Deadline,
        call: Callable[[float], T],
        *,
        writes: bool = False,
        refreshed: bool = False,
    ) -> T:
        begun = deadline.take_permit()
        try:
            leading = self._acquire_slot(deadline, permitted=begun is not None)
        except ServiceNowError:
            deadline.permit = begun
            raise
        passed = claimed = told = probing = False
        try:
            permit = self._await_permit(deadline) if leading and begun is None else begun
            asked = permit is not None
            if permit is not None:
                claimed, probing = permit.probing, permit.held
            digest = self._credentials.digest
            began = time.monotonic()
            try:
                if probing:
                    self._probe(table, digest, deadline)
                    self._lead_no_more()
                    leading = asked = claimed = probing = False
                deadline.called = True
                troubles, began = self._failure_epoch, time.monotonic()
                answer = call(deadline.left())
            except ServiceNowError as error:
                failure = error.failure
                held, passed = self._classify(
                    failure,
                    digest,
                    deadline,
                    sent_seconds_ago=time.monotonic() - began,
                    leading=asked,
                    claimed=claimed,
                    probing=probing,
                    writes=writes,
                )
                told = True
                # Another thread may have read the new one by now.
                renewed = (
                    failure.reason is Reason.UNAUTHORIZED
                    and not refreshed
                    and (digest != self._credentials.digest or self._refresh(deadline))
                )
                if not renewed:
                    if held is not None:
                        raise held from error
                    raise
                log.info(
                    "ServiceNow refused the credential; the secret has changed since: "
                    "trying the new one"
                )
            else:
                # What was sent before another call was refused says nothing of now.
                passed = told = troubles == self._failure_epoch
                if passed:
                    ago = time.monotonic() - began
                    if begun is not None and asked and not self._troubled:
                        deadline.passed = True
                    else:
                        self._passed(digest, sent_seconds_ago=ago, leading=asked, writes=writes)
                deadline.failed = bool(deadline.failed)
                return answer
        finally:
            deadline.proven = self._failure_epoch if passed else None
            self._end_turn(leading=leading, passed=passed)
            if claimed and not told:
                with suppress(LedgerUnavailable):
                    self._ledger.holds.release_probe(self.instance, self._credentials.digest)
        return self._call(table, deadline, call, writes=writes, refreshed=True)

    def _probe(self, table: str, digest: str, deadline: Deadline) -> None:
        """Find out by a call that changes nothing whether a hold is over: an event's own may fail
        for its row's sake.

        Raises ServiceNowError where the hold is not over, or where nobody knows.
        """
        began = time.monotonic()
        try:
            deadline.called = True
            self._client.find(
                table, "", fields=["sys_id"], limit=1, timeout_seconds=deadline.left()
            )
        except ServiceNowError as error:
            if _verdict(error.failure) is not _Verdict.WORKING:
                raise
        self._ledger.holds.record_probe_success(
            self.instance, digest, sent_seconds_ago=time.monotonic() - began
        )
        # The write that follows is to be counted, whichever instance had the trouble.
        self._troubled = True

    @property
    def unverified(self) -> str | None:
        """The digest of the credential, where the next call needs leave: nothing that was let in
        overlaps it."""
        with self._turn:
            needed = not self._verified and not self._asking
        return self._credentials.digest if needed else None

    def _acquire_slot(self, deadline: Deadline, *, permitted: bool) -> bool:
        """Wait for a turn among this process's threads; True: ours is the call that finds out.

        *permitted*: it has leave already, so that it waits for no other to find out.
        """
        with self._turn:
            self._waiting += 1
            try:
                while self._in_flight >= self._in_flight_max or (
                    self._asking and not permitted and not self._is_let_in(deadline)
                ):
                    if not self._turn.wait(max(0.0, min(TURN_SECONDS, deadline.left()))):
                        raise ServiceNowError(_impatient())
            finally:
                self._waiting -= 1
            self._in_flight += 1
            leading = not self._is_let_in(deadline)
            self._asking = self._asking or leading
            return leading

    def _is_let_in(self, deadline: Deadline) -> bool:
        return self._verified or deadline.proven == self._failure_epoch

    def _end_turn(self, *, leading: bool, passed: bool) -> None:
        with self._turn:
            self._in_flight -= 1
            if leading:
                self._asking = False
            self._verified = (self._verified or passed) and self._in_flight + self._waiting > 0
            self._turn.notify_all()

    def _lead_no_more(self) -> None:
        """Our probe has found out: the others of this process need not wait for the call that
        follows it."""
        with self._turn:
            self._asking = False
            self._verified = True
            self._turn.notify_all()

    def _await_permit(self, deadline: Deadline) -> CallPermit:
        """Ask the ledger for leave to call, for all of this process."""
        patience = Deadline.after(min(PROBE_SECONDS, max(0.0, deadline.left())))
        asked_at = None
        while True:
            digest = self._credentials.digest
            permit = self._ledger.holds.request_permit(
                self.instance,
                digest,
                probe_seconds=PROBE_SECONDS,
                verified_after=asked_at,
                failed_before=deadline.alone,
            )
            if permit.wait_seconds <= 0:
                return permit
            asked_at = permit.now if asked_at is None else asked_at
            if permit.kind is HoldKind.AUTH and permit.reason:
                # Refused while we waited: whoever met that has read the secret again, or is about
                # to.
                met = permit.since >= asked_at and self._refresh(deadline)
                if met or digest != self._credentials.digest or self._refreshed(deadline):
                    continue
            if permit.waiting_for_probe and patience.left() > (
                PROBE_SECONDS - WAIT_SECONDS if permit.reason else 0
            ):
                time.sleep(min(0.02 + random.random() * 0.05, max(0.0, patience.left())))  # noqa: S311  # jitter
                continue
            if permit.waiting_for_probe and not permit.reason:
                # Nothing is known to be wrong: another instance only has not had its first answer
                # yet.
                raise ServiceNowError(_impatient())
            if permit.kind is HoldKind.ROW:
                raise ServiceNowError(
                    Failure(
                        Kind.TRANSIENT,
                        Reason(permit.reason),
                        "its last call failed, and so did those of other rows; one of them is "
                        "tried now and then",
                        words=permit.words,
                        retry_after_seconds=permit.wait_seconds,
                    )
                )
            raise CircuitOpen(
                Failure(
                    Kind.TRANSIENT,
                    Reason(permit.reason) if permit.reason else Reason.UNAVAILABLE,
                    HINTS[permit.kind],
                    words=permit.words,
                    retry_after_seconds=0.0 if permit.waiting_for_probe else permit.wait_seconds,
                ),
                kind=permit.kind,
                since=permit.since,
            )

    def _refresh(self, deadline: Deadline) -> bool:
        with answer_within(deadline.left()):
            return self._credentials.refresh()

    def _refreshed(self, deadline: Deadline) -> bool:
        """While a credential is held: whether the secret has changed, asked now and then."""
        with self._turn:
            if time.monotonic() - self._refreshed_at < REFRESH_SECONDS:
                return False
            self._refreshed_at = time.monotonic()
        return self._refresh(deadline)

    def _classify(
        self,
        failure: Failure,
        digest: str,
        deadline: Deadline,
        *,
        sent_seconds_ago: float,
        leading: bool,
        claimed: bool,
        probing: bool,
        writes: bool,
    ) -> tuple[CircuitOpen | None, bool]:
        """Say whether *failure* concerns ServiceNow as a whole, and remember it; and whether we
        were let in."""
        match _verdict(failure):
            case _Verdict.WORKING:
                # It said no to this one call, so it is there and it knows us.
                self._passed(
                    digest,
                    sent_seconds_ago=sent_seconds_ago,
                    leading=leading,
                    writes=writes and not probing,
                )
                deadline.failed = bool(deadline.failed)
                return None, True
            case _Verdict.FAILING:
                if not probing and failure.reason not in _WHOLE:
                    deadline.failed = True
                    if deadline.alone:
                        # Whoever has failed before closes no line, and keeps none closed: it may be
                        # for its row's sake.
                        self._ledger.holds.record_row_failure(
                            self.instance,
                            failure=failure,
                            seconds=FIRST_HOLD_SECONDS,
                            seconds_max=HOLD_SECONDS_MAX,
                        )
                        self._let_others_probe(digest, claimed=claimed)
                        return None, False
                return self._failed(failure, digest, claimed=claimed), False
            case _Verdict.UNKNOWN:
                self._let_others_probe(digest, claimed=claimed)
                return None, False

    def _let_others_probe(self, digest: str, *, claimed: bool) -> None:
        if claimed:
            self._ledger.holds.release_probe(self.instance, digest)

    def _failed(self, failure: Failure, digest: str, *, claimed: bool) -> CircuitOpen | None:
        """Count *failure*; the error to raise where calls are held now."""
        self._troubled = True
        with self._turn:
            self._verified = False
            self._failure_epoch += 1
        kind, seconds = HoldKind.DOWN, FIRST_HOLD_SECONDS
        if failure.reason is Reason.UNAUTHORIZED:
            kind, seconds = HoldKind.AUTH, self._auth_hold_seconds
        elif failure.reason is Reason.RATE_LIMITED:
            kind, seconds = HoldKind.RATE, failure.retry_after_seconds or FIRST_HOLD_SECONDS
        at_once = failure.reason in _WHOLE
        since, held_seconds = self._ledger.holds.call_failed(
            self.instance,
            kind=kind,
            credential=digest,
            failure=failure,
            seconds=seconds,
            seconds_max=HOLD_SECONDS_MAX,
            in_a_row=IN_A_ROW,
            at_once=at_once,
            at_once_unless_proven_seconds=PAGE_SECONDS
            if failure.reason is Reason.NOT_SERVICENOW
            else None,
            fixed=kind is not HoldKind.DOWN,
            claimed=claimed,
        )
        if held_seconds <= 0:
            return None
        asked = max(held_seconds, failure.retry_after_seconds or 0.0)
        return CircuitOpen(
            Failure(
                failure.kind,
                failure.reason,
                failure.hint,
                failure.words,
                asked or None,
                failure.status,
            ),
            kind=kind,
            since=since,
        )

    def _passed(self, digest: str, *, sent_seconds_ago: float, leading: bool, writes: bool) -> None:
        """ServiceNow answered. Where writes fail, that it can be read says nothing: a write has to
        pass."""
        if not (leading or self._troubled):
            return
        if writes:
            self._ledger.holds.record_success(
                self.instance, digest, sent_seconds_ago=sent_seconds_ago
            )
            self._troubled = False
        elif leading:
            self._ledger.holds.record_probe_success(
                self.instance, digest, sent_seconds_ago=sent_seconds_ago
            )


class UnconfiguredClient(GuardedClient):
    """A line on which no call is made, because nobody can sign in; each raises CircuitOpen, of kind
    config.

    *hint* says what to do, *since* is UNIX seconds by the ledger's clock.
    """

    def __init__(self, instance_url: str, hint: str, *, since: float) -> None:
        self._instance_url = instance_url
        self._hint = hint
        self._since = since

    @property
    def unverified(self) -> str | None:
        return None

    @property
    def instance(self) -> str:
        return self._instance_url

    def _call(
        self,
        table: str,  # noqa: ARG002  # as above
        deadline: Deadline,  # noqa: ARG002
        call: Callable[[float], T],  # noqa: ARG002
        *,
        writes: bool = False,  # noqa: ARG002
        refreshed: bool = False,  # noqa: ARG002
    ) -> T:
        failure = Failure(
            Kind.TRANSIENT,
            Reason.NOT_CONFIGURED,
            self._hint,
            retry_after_seconds=NOT_CONFIGURED_SECONDS,
        )
        raise CircuitOpen(failure, kind=HoldKind.CONFIG, since=self._since)


def _impatient() -> Failure:
    return Failure(
        Kind.TRANSIENT,
        Reason.NO_CAPACITY,
        "waiting for ServiceNow's first answer to another call took too long",
    )
