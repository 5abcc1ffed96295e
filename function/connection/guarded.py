"""The guarded client: ServiceNow's Table API behind a circuit breaker; a password is tried by one
call at a time."""

import logging
import random
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from typing import Final, NoReturn, Protocol, TypeVar

from function.connection.breaker import SERVICENOW, CallVerdict, CircuitBreaker
from function.connection.credentials import CredentialProvider
from function.core.outcome import CircuitOpen, Failure, Reason, Retryability
from function.core.permit import CallPermit, HoldKind
from function.deadline import Deadline, answer_within
from function.ledger.backend import LedgerUnavailable
from function.ledger.holds import PROBE_SECONDS
from function.ledger.ledger import Ledger
from function.servicenow import Record, ServiceNowError, TableClient

log = logging.getLogger(__name__)
T = TypeVar("T")

# Threads and Hasura's pool are not for waiting where something is wrong.
WAIT_SECONDS: Final = 2.0
# Where nothing is, ServiceNow is only slow: as long as its own slowest good answer.
TURN_SECONDS: Final = 20.0
# Whoever puts a configuration right waits no longer than that for what comes back.
NOT_CONFIGURED_SECONDS: Final = 30.0
# A rotated secret is noticed that soon while the old one is held, without a call to ServiceNow.
REFRESH_SECONDS: Final = 30.0


class ServiceNowHeld(CircuitOpen, ServiceNowError):  # noqa: N818  # a state, not a mistake
    """ServiceNow as a whole does not work, or (kind config) we know no way to sign in to it."""


class GuardedTables(Protocol):
    """ServiceNow's Table API as this function uses it; raises what the client raises, and
    ServiceNowHeld."""

    @property
    def instance(self) -> str: ...

    @property
    def unverified(self) -> str | None: ...

    def get(
        self,
        table: str,
        sys_id: str,
        *,
        fields: Sequence[str],
        deadline: Deadline,
        shown: bool = False,
    ) -> Record: ...

    def find(
        self,
        table: str,
        query: str,
        *,
        fields: Sequence[str],
        limit: int,
        deadline: Deadline,
        shown: bool = False,
    ) -> list[Record]: ...

    def create(
        self, table: str, values: Mapping[str, str], *, fields: Sequence[str], deadline: Deadline
    ) -> Record: ...

    def update(
        self,
        table: str,
        sys_id: str,
        values: Mapping[str, str],
        *,
        fields: Sequence[str],
        deadline: Deadline,
        shown: bool = False,
    ) -> Record: ...


class GuardedClient:
    """The Table API with a credential, while ServiceNow works."""

    def __init__(
        self,
        client: TableClient,
        ledger: Ledger,
        credentials: CredentialProvider,
        *,
        auth_hold_seconds: float,
        concurrency_max: int,
    ) -> None:
        self._client = client
        self._breaker = CircuitBreaker(
            ledger.holds,
            client.instance_url,
            profile=SERVICENOW,
            auth_hold_seconds=auth_hold_seconds,
        )
        self._credentials = credentials
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

    def get(
        self,
        table: str,
        sys_id: str,
        *,
        fields: Sequence[str],
        deadline: Deadline,
        shown: bool = False,
    ) -> Record:
        return self._call(
            table,
            deadline,
            lambda left: self._client.get(
                table, sys_id, fields=fields, timeout_seconds=left, shown=shown
            ),
        )

    def find(
        self,
        table: str,
        query: str,
        *,
        fields: Sequence[str],
        limit: int,
        deadline: Deadline,
        shown: bool = False,
    ) -> list[Record]:
        return self._call(
            table,
            deadline,
            lambda left: self._client.find(
                table, query, fields=fields, limit=limit, timeout_seconds=left, shown=shown
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
        shown: bool = False,
    ) -> Record:
        return self._call(
            table,
            deadline,
            lambda left: self._client.update(
                table, sys_id, values, fields=fields, timeout_seconds=left, shown=shown
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
        passed = claimed = reported = probing = False
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
                reported = True
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
                passed = reported = troubles == self._failure_epoch
                if passed:
                    ago = time.monotonic() - began
                    if begun is not None and asked and not self._troubled:
                        deadline.passed = True
                    else:
                        self._passed(digest, sent_seconds_ago=ago, leading=asked, writes=writes)
                deadline.note_call()
                return answer
        finally:
            deadline.proven = self._failure_epoch if passed else None
            self._end_turn(leading=leading, passed=passed)
            if claimed and not reported:
                with suppress(LedgerUnavailable):
                    self._breaker.release_probe(self._credentials.digest)
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
            if SERVICENOW.judge_failure(error.failure) is not CallVerdict.WORKING:
                raise
        self._breaker.record_probe_success(digest, sent_seconds_ago=time.monotonic() - began)
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
            if asked_at is not None and self._verified:
                # Another call of this process was let in meanwhile.
                return CallPermit()
            digest = self._credentials.digest
            permit = self._breaker.request_permit(
                digest, verified_after=asked_at, failed_before=deadline.alone
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
            refused = self._breaker.refuse(permit)
            raise ServiceNowError(refused) if isinstance(refused, Failure) else _held(refused)

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
    ) -> tuple[ServiceNowHeld | None, bool]:
        """Say whether *failure* concerns ServiceNow as a whole, and remember it; and whether we
        were let in."""
        match SERVICENOW.judge_failure(failure):
            case CallVerdict.WORKING:
                # It said no to this one call, so it is there and it knows us.
                self._passed(
                    digest,
                    sent_seconds_ago=sent_seconds_ago,
                    leading=leading,
                    writes=writes and not probing,
                )
                deadline.note_call()
                return None, True
            case CallVerdict.FAILING:
                if not probing and failure.reason not in SERVICENOW.whole_system:
                    deadline.note_call(failed=True)
                    if deadline.alone:
                        # Whoever has failed before closes no line, and keeps none closed: it may be
                        # for its row's sake.
                        self._breaker.count_row_failure(failure)
                        self._let_others_probe(digest, claimed=claimed)
                        return None, False
                return self._failed(failure, digest, claimed=claimed), False
            case CallVerdict.UNKNOWN:
                self._let_others_probe(digest, claimed=claimed)
                return None, False

    def _let_others_probe(self, digest: str, *, claimed: bool) -> None:
        if claimed:
            self._breaker.release_probe(digest)

    def _failed(self, failure: Failure, digest: str, *, claimed: bool) -> ServiceNowHeld | None:
        """Count *failure*; the error to raise where calls are held now."""
        self._troubled = True
        with self._turn:
            self._verified = False
            self._failure_epoch += 1
        held = self._breaker.count_failure(failure, digest, claimed=claimed)
        return _held(held) if held is not None else None

    def _passed(self, digest: str, *, sent_seconds_ago: float, leading: bool, writes: bool) -> None:
        """ServiceNow answered. Where writes fail, that it can be read says nothing: a write has to
        pass."""
        if not (leading or self._troubled):
            return
        if writes:
            self._breaker.record_success(digest, sent_seconds_ago=sent_seconds_ago)
            self._troubled = False
        elif leading:
            self._breaker.record_probe_success(digest, sent_seconds_ago=sent_seconds_ago)


class UnconfiguredClient:
    """The client where nobody can sign in: no call is made, each raises ServiceNowHeld, of kind
    config.

    *hint* says what to do, *since* is UNIX seconds by the ledger's clock.
    """

    def __init__(self, instance_url: str, hint: str, *, since: float) -> None:
        self._instance_url = instance_url
        self._hint = hint
        self._since = since

    @property
    def instance(self) -> str:
        return self._instance_url

    @property
    def unverified(self) -> str | None:
        return None

    def _refuse(self, *_call: object, **_named: object) -> NoReturn:
        failure = Failure(
            Retryability.TRANSIENT,
            Reason.NOT_CONFIGURED,
            self._hint,
            retry_after_seconds=NOT_CONFIGURED_SECONDS,
        )
        raise ServiceNowHeld(failure, kind=HoldKind.CONFIG, since=self._since)

    get = find = create = update = _refuse


def _held(circuit: CircuitOpen) -> ServiceNowHeld:
    return ServiceNowHeld(circuit.failure, kind=circuit.kind, since=circuit.since)


def _impatient() -> Failure:
    return Failure(
        Retryability.TRANSIENT,
        Reason.NO_CAPACITY,
        "waiting for ServiceNow's first answer to another call took too long",
    )
