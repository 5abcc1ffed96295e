"""A post's target behind a circuit breaker, and a bound on the calls of it that are under way.

A target that hangs must not use up the threads of the function and the pool of Hasura, which are
for every other event too. Until it has failed often enough to be held, the bound keeps it to a few
of them.
"""

import threading
import time
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

from function.connection.breaker import POST_TARGET, CallVerdict, CircuitBreaker
from function.connection.system_guard import CallStart, SystemGuard
from function.core.outcome import CircuitOpen, Failure, NotDone, Reason, Retryability
from function.deadline import Deadline
from function.ledger.holds import HoldRepository
from function.rules.post import TIMEOUT_SECONDS_MAX
from function.targets.post.client import PostClient, PostError

# Calls of one target at a time, of one process: more than a target takes that answers within a
# second, and few of the hundred that Hasura makes at once.
CALLS_AT_ONCE: Final = 16
# Where all are taken, the next one waits so long for its turn.
TURN_SECONDS: Final = 1.0
# It does not wait at all where one of them has been under way for so long: that target hangs.
SLOW_SECONDS: Final = 2.0
# A probe of a target that works again is answered by then. One that takes longer is waited for by
# nobody: each that waits keeps one of Hasura's calls.
PROBE_WAIT_SECONDS: Final = 0.2
# Within that time a probe has told what it found out, unless its process was killed.
_PROBE_SECONDS: Final = TIMEOUT_SECONDS_MAX + 5.0


class TargetHeld(CircuitOpen, PostError):  # noqa: N818  # a state, not a mistake
    """The target as a whole does not work."""


class CallSlots:
    """So many calls at a time, first come, first served as far as that goes."""

    def __init__(self, at_once: int) -> None:
        self._at_once = at_once
        self._began: dict[object, float] = {}
        self._changed = threading.Condition()

    @contextmanager
    def take(self, *, patience_seconds: float) -> Iterator[bool]:
        """Hold one; False where there was none to be had."""
        token = object()
        taken = self._acquire(token, time.monotonic() + patience_seconds)
        try:
            yield taken
        finally:
            with self._changed:
                self._began.pop(token, None)
                self._changed.notify()

    def _acquire(self, token: object, until: float) -> bool:
        with self._changed:
            while len(self._began) >= self._at_once:
                now = time.monotonic()
                if now >= until or now - min(self._began.values()) > SLOW_SECONDS:
                    return False
                self._changed.wait(min(until - now, SLOW_SECONDS / 10))
            self._began[token] = time.monotonic()
            return True


class TargetLimits:
    """Whether one target is called now, and how often at a time. All share it who call the target,
    which the ledger knows by *address*."""

    def __init__(self, holds: HoldRepository, address: str) -> None:
        breaker = CircuitBreaker(
            holds,
            address,
            profile=POST_TARGET,
            auth_hold_seconds=0.0,  # there is no hold on a credential
            probe_seconds=_PROBE_SECONDS,
        )
        self.guard = SystemGuard(
            breaker, credential=lambda: "", probe_wait_seconds=PROBE_WAIT_SECONDS
        )
        self.slots = CallSlots(CALLS_AT_ONCE)


class GuardedTarget:
    """Calls one target while it works. Threads may share it."""

    def __init__(self, client: PostClient, limits: TargetLimits) -> None:
        self._client = client
        self._limits = limits
        self._guard = limits.guard

    def close(self) -> None:
        self._client.close()

    def send(
        self,
        body: bytes,
        headers: Mapping[str, str],
        *,
        hidden: Collection[str],
        timeout_seconds: float,
        deadline: Deadline,
    ) -> None:
        """As PostClient has it. Raises PostError, TargetHeld where it is not called now, and
        LedgerUnavailable."""
        is_probe = self._await_permit(deadline)
        patience_seconds = min(TURN_SECONDS, deadline.left())
        with self._limits.slots.take(patience_seconds=patience_seconds) as taken:
            if not taken:
                if is_probe:
                    self._guard.release_probe()
                raise PostError(_BUSY)
            call = self._guard.begin_call()
            deadline.called = True
            try:
                self._client.send(
                    body,
                    headers,
                    hidden=hidden,
                    timeout_seconds=timeout_seconds,
                    deadline=deadline,
                )
            except PostError as error:
                self._judge(error, call, deadline, is_probe=is_probe)
                raise
            deadline.note_call()
            self._guard.count_success(call, claimed=is_probe)

    def _await_permit(self, deadline: Deadline) -> bool:
        """Wait for leave to call; whether the call is the probe of a hold that has ended."""
        try:
            permit = self._guard.await_permit(deadline)
        except CircuitOpen as held:
            raise _held(held) from held
        except NotDone as refused:
            raise PostError(refused.failure) from refused
        return permit is not None and permit.held

    def _judge(
        self, error: PostError, call: CallStart, deadline: Deadline, *, is_probe: bool
    ) -> None:
        """Remember what the *error* of a call says of the target; raises TargetHeld where it is
        held now."""
        failure = error.failure
        match POST_TARGET.judge_failure(failure):
            case CallVerdict.UNKNOWN:
                deadline.note_call()
                if is_probe:
                    self._guard.release_probe()
            case CallVerdict.WORKING:
                deadline.note_call()
                self._guard.count_success(call, claimed=is_probe)
            case CallVerdict.FAILING:
                one_event = failure.reason not in POST_TARGET.whole_system
                deadline.note_call(failed=one_event)
                if one_event and deadline.alone and not is_probe:
                    # What fails again for one event holds nobody: it may fail for its own sake.
                    return
                held = self._guard.count_failure(failure, call, claimed=is_probe)
                if held is not None:
                    raise _held(held) from error


def _held(circuit: CircuitOpen) -> TargetHeld:
    return TargetHeld(circuit.failure, kind=circuit.kind, since=circuit.since)


_BUSY: Final = Failure(
    Retryability.TRANSIENT,
    Reason.TARGET_BUSY,
    "As many calls of the target are under way as are made at a time, and it is slow to answer.",
)
