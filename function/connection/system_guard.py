"""Leave to call one system, and what its calls find out, for one process.

As long as all goes well the ledger is asked every few seconds, not for each call: a process that
saw no failure has nothing to tell, and hears soon enough of another's.
"""

import math
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from function.connection.breaker import CircuitBreaker
from function.core.outcome import CircuitOpen, Failure, NotDone
from function.core.permit import CallPermit
from function.deadline import Deadline
from function.ledger.backend import LedgerUnavailable

# Another instance's hold is heard of that soon.
ASK_SECONDS: Final = 5.0
# Threads, and the pool of who asks us, are not for waiting where something is wrong.
WAIT_SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class CallStart:
    """A call that begins, at a moment of the monotonic clock."""

    at: float


class SystemGuard:
    """What a process knows of one system behind *breaker*. Threads share it.

    *credential* gives what stands in the ledger for what the calls sign in with. While nothing is
    wrong the ledger is asked every *ask_seconds*. A call waits for what another's probe finds out,
    but not for one that has been under way for longer than *probe_wait_seconds*.
    """

    def __init__(
        self,
        breaker: CircuitBreaker,
        *,
        credential: Callable[[], str],
        ask_seconds: float = ASK_SECONDS,
        probe_wait_seconds: float = WAIT_SECONDS,
    ) -> None:
        self._breaker = breaker
        self._find_credential = credential
        self._asking = threading.Lock()
        self._ask_seconds = ask_seconds
        self._probe_wait_seconds = probe_wait_seconds
        self._asked_at: float | None = None
        # When the last call began of those that failed: one that began before it proves nothing.
        self._state = threading.Lock()
        self._failed_at = -math.inf
        self._is_troubled = False

    @cached_property
    def _credential(self) -> str:
        return self._find_credential()

    def await_permit(self, deadline: Deadline) -> CallPermit | None:
        """Leave to make a call; None where nothing has been wrong of late. Raises NotDone,
        CircuitOpen where the system is held, and LedgerUnavailable."""
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
        patience = Deadline.after(min(self._probe_wait_seconds, deadline.left()))
        while True:
            permit = permit or self._request_permit(deadline)
            if permit.wait_seconds <= 0:
                return permit
            is_slow = self._breaker.find_probe_age(permit) > self._probe_wait_seconds
            if not permit.waiting_for_probe or is_slow or patience.left() <= 0:
                refused = self._breaker.refuse(permit)
                raise NotDone(refused) if isinstance(refused, Failure) else refused
            permit = None
            time.sleep(min(0.02 + random.random() * 0.05, max(0.0, patience.left())))  # noqa: S311  # jitter

    def begin_call(self) -> CallStart:
        return CallStart(time.monotonic())

    def count_row_failure(self, failure: Failure) -> None:
        """Remember a *failure* of a row whose last call failed too: it may be for its own sake."""
        with suppress(LedgerUnavailable):
            self._breaker.count_row_failure(failure)

    def count_failure(
        self, failure: Failure, call: CallStart, *, claimed: bool
    ) -> CircuitOpen | None:
        """Remember a *failure* of the system as a whole; the hold, where calls are held now.
        *claimed*: the call was a probe of ours."""
        with self._state:
            self._failed_at = max(self._failed_at, call.at)
            self._is_troubled = True
        try:
            return self._breaker.count_failure(failure, self._credential, claimed=claimed)
        except LedgerUnavailable:
            return None  # the failure itself says more

    def count_success(self, call: CallStart, *, claimed: bool) -> None:
        """The system answered: where something was wrong, that is over now. *claimed*: the call was
        a probe of ours."""
        if not self._is_troubled or call.at <= self._failed_at:
            if claimed:
                self.release_probe()
            return
        sent_seconds_ago = time.monotonic() - call.at
        with suppress(LedgerUnavailable):  # it is done all the same; the next one says so
            self._breaker.record_success(self._credential, sent_seconds_ago=sent_seconds_ago)
            with self._state:
                self._is_troubled = self._is_troubled and call.at <= self._failed_at

    def count_probe_success(self, call: CallStart) -> None:
        """A probe, which wrote nothing, was answered. Raises LedgerUnavailable."""
        self._breaker.record_probe_success(
            self._credential, sent_seconds_ago=time.monotonic() - call.at
        )

    def release_probe(self) -> None:
        """Our probe found out nothing: let the next one try."""
        with suppress(LedgerUnavailable):
            self._breaker.release_probe(self._credential)

    def _request_permit(self, deadline: Deadline) -> CallPermit:
        return self._breaker.request_permit(
            self._credential, verified_after=None, failed_before=deadline.alone
        )
