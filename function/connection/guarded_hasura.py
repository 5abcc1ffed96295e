"""Hasura's GraphQL behind a circuit breaker.

As long as all goes well the ledger is asked every few seconds, not for each mutation: a process
that saw no failure has nothing to tell, and hears soon enough of another's.
"""

import random
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from typing import Final

from function.connection.breaker import HASURA, CallVerdict, CircuitBreaker
from function.core.outcome import CircuitOpen, Failure
from function.core.permit import CallPermit
from function.core.values import Json, digest, digest_secret
from function.deadline import Deadline
from function.hasura.graphql import GraphqlClient, HasuraError
from function.ledger.backend import LedgerUnavailable
from function.ledger.holds import PROBE_SECONDS, HoldRepository

# Another instance's hold is heard of that soon.
ASK_SECONDS: Final = 5.0
# Threads, and the pool of who asks us, are not for waiting where something is wrong.
WAIT_SECONDS: Final = 2.0


class HasuraHeld(CircuitOpen, HasuraError):  # noqa: N818  # a state, not a mistake
    """Hasura as a whole does not work."""


class GuardedGraphql:
    """Makes mutations while Hasura works. Threads may share it.

    *admin_secret* is the client's: a hold on it ends with the deployment of another. While nothing
    is wrong the ledger is asked every *ask_seconds*.
    """

    def __init__(
        self,
        client: GraphqlClient,
        holds: HoldRepository,
        *,
        admin_secret: str,
        auth_hold_seconds: float,
        ask_seconds: float = ASK_SECONDS,
    ) -> None:
        self._client = client
        self._breaker = CircuitBreaker(
            holds, client.url, profile=HASURA, auth_hold_seconds=auth_hold_seconds
        )
        self._admin_secret = admin_secret
        self._asking = threading.Lock()
        self._ask_seconds = ask_seconds
        self._asked_at: float | None = None
        # What is known of failures; they are counted, so that a mutation that was sent before one
        # of them proves nothing.
        self._state = threading.Lock()
        self._failure_epoch = 0
        self._is_troubled = False

    @property
    def address(self) -> str:
        """By which the ledger knows its holds."""
        return self._client.url

    def execute(
        self,
        query: str,
        variables: Mapping[str, Json],
        *,
        operation_name: str = "",
        event: str = "",
        deadline: Deadline,
    ) -> dict[str, Json]:
        """As GraphqlClient has it. Raises HasuraError, HasuraHeld where no mutation is made now,
        and LedgerUnavailable."""
        permit = self._await_permit(deadline)
        if permit is not None and permit.held:
            self._probe(deadline)
        epoch, began = self._failure_epoch, time.monotonic()
        deadline.called = True
        try:
            answer = self._client.execute(
                query, variables, operation_name=operation_name, event=event, deadline=deadline
            )
        except HasuraError as error:
            verdict = HASURA.judge_failure(error.failure)
            if verdict is CallVerdict.FAILING:
                held = self._count_failure(error.failure, deadline)
                if held is not None:
                    raise held from error
            else:
                deadline.failed = bool(deadline.failed)
                if verdict is CallVerdict.WORKING:
                    self._count_success(epoch, sent_seconds_ago=time.monotonic() - began)
            raise
        deadline.failed = bool(deadline.failed)
        self._count_success(epoch, sent_seconds_ago=time.monotonic() - began)
        return answer

    @cached_property
    def _credential(self) -> str:
        """What stands for the admin secret in the ledger."""
        return digest_secret(self._admin_secret, salt=digest(self._client.url, "admin secret"))

    def _await_permit(self, deadline: Deadline) -> CallPermit | None:
        """Leave to make a mutation; None where nothing has been wrong of late."""
        permit = None
        if not self._is_troubled:
            with self._asking:
                asked_at = self._asked_at
                if asked_at is not None and time.monotonic() - asked_at < self._ask_seconds:
                    return None
                permit = self._request_permit(deadline)
                self._asked_at = time.monotonic()
                if permit.wait_seconds <= 0 and not permit.held:
                    return None
                self._is_troubled = True
        patience = Deadline.after(min(WAIT_SECONDS, deadline.left()))
        while True:
            permit = permit or self._request_permit(deadline)
            if permit.wait_seconds <= 0:
                return permit
            if not permit.waiting_for_probe or patience.left() <= 0:
                refused = self._breaker.refuse(permit)
                raise HasuraError(refused) if isinstance(refused, Failure) else _held(refused)
            permit = None
            time.sleep(min(0.02 + random.random() * 0.05, max(0.0, patience.left())))  # noqa: S311  # jitter

    def _request_permit(self, deadline: Deadline) -> CallPermit:
        return self._breaker.request_permit(
            self._credential, verified_after=None, failed_before=deadline.alone
        )

    def _probe(self, deadline: Deadline) -> None:
        """Find out, for all, whether a hold is over: a mutation may fail for its row's sake. Raises
        HasuraError where it is not, or nobody knows."""
        began = time.monotonic()
        # Over before another may take it for lost.
        bound = Deadline.after(min(deadline.left(), PROBE_SECONDS / 2))
        try:
            self._client.probe(deadline=bound)
        except HasuraError as error:
            match HASURA.judge_failure(error.failure):
                case CallVerdict.FAILING:
                    held = self._tell_failure(error.failure, claimed=True)
                    if held is not None:
                        raise held from error
                    raise
                case CallVerdict.UNKNOWN:
                    with suppress(LedgerUnavailable):
                        self._breaker.release_probe(self._credential)
                    raise
        self._breaker.record_probe_success(
            self._credential, sent_seconds_ago=time.monotonic() - began
        )

    def _count_failure(self, failure: Failure, deadline: Deadline) -> HasuraHeld | None:
        """Remember that a mutation failed; the error to raise where they are held now."""
        if failure.reason not in HASURA.whole_system:
            deadline.failed = True
            if deadline.alone:
                # Whoever has failed before closes no line: it may be for its row's sake.
                with suppress(LedgerUnavailable):
                    self._breaker.count_row_failure(failure)
                return None
        return self._tell_failure(failure, claimed=False)

    def _tell_failure(self, failure: Failure, *, claimed: bool) -> HasuraHeld | None:
        with self._state:
            self._failure_epoch += 1
            self._is_troubled = True
        try:
            held = self._breaker.count_failure(failure, self._credential, claimed=claimed)
        except LedgerUnavailable:
            return None  # the failure itself says more
        return None if held is None else _held(held)

    def _count_success(self, epoch: int, *, sent_seconds_ago: float) -> None:
        """Hasura answered a mutation: where something was wrong, that is over now."""
        if not self._is_troubled or epoch != self._failure_epoch:
            return
        with suppress(LedgerUnavailable):  # it is done all the same; the next one says so
            self._breaker.record_success(self._credential, sent_seconds_ago=sent_seconds_ago)
            with self._state:
                self._is_troubled = self._is_troubled and epoch != self._failure_epoch


def _held(circuit: CircuitOpen) -> HasuraHeld:
    return HasuraHeld(circuit.failure, kind=circuit.kind, since=circuit.since)
