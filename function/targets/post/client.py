"""One call of a post's target."""

import logging
import time
from collections.abc import Collection, Mapping
from typing import Final

from function.core.outcome import Failure, NotDone, Reason, Retryability
from function.deadline import Deadline
from function.http.network import NetworkSettings
from function.http.reply import Reply
from function.http.session import (
    CALL_SECONDS_MIN,
    AnswerBroken,
    AnswerTooLarge,
    CallCancelled,
    ConnectPolicy,
    ForbiddenAddressError,
    HttpSession,
    NotConnected,
    explain_unreached,
)
from function.targets.post.answers import interpret_answer

log = logging.getLogger(__name__)

# The status says what became of the call; of what follows it, nobody needs more.
BODY_BYTES_MAX: Final = 64 * 1024
_CONNECTIONS_MAX: Final = 16


class PostError(NotDone):
    """The target did not do it, or perhaps did and its answer was lost."""


class PostClient:
    """Calls one URL. Threads may share it.

    *policy* is asked of every address before it is connected to. Nothing of the URL stands in a
    failure or in the log, but for *setting*, the variable that it is from.
    """

    def __init__(
        self, url: str, *, setting: str, policy: ConnectPolicy, network: NetworkSettings
    ) -> None:
        self._setting = setting
        self._session = HttpSession(
            url, connections_max=_CONNECTIONS_MAX, network=network, policy=policy
        )

    def close(self) -> None:
        self._session.close()

    def send(
        self,
        body: bytes,
        headers: Mapping[str, str],
        *,
        hidden: Collection[str],
        timeout_seconds: float,
        deadline: Deadline,
    ) -> None:
        """POST *body*, these bytes, in *timeout_seconds* at most, answer included. Raises
        PostError.

        *hidden* holds secrets, which are left out of what is kept of the answer.
        """
        left_seconds = min(timeout_seconds, deadline.left())
        if left_seconds < CALL_SECONDS_MIN:
            raise PostError(_NO_TIME)
        began = time.monotonic()
        failure, status = self._exchange(body, headers, hidden, left_seconds)
        milliseconds = (time.monotonic() - began) * 1000
        level = logging.INFO if failure is None else logging.WARNING
        said = f"HTTP {status}" if status else "no answer"
        reason = f", {failure.reason.value}" if failure is not None else ""
        log.log(level, "POST to %s: %s in %d ms%s", self._setting, said, milliseconds, reason)
        if failure is not None:
            raise PostError(failure)

    def _exchange(
        self,
        body: bytes,
        headers: Mapping[str, str],
        hidden: Collection[str],
        left_seconds: float,
    ) -> tuple[Failure | None, int]:
        """Why it was not done (None: it was), and the status of the answer, 0 without one. The
        exception behind it is let go: its text may hold what was sent."""
        # As bytes: in a header, requests would write a text in Latin-1.
        encoded: dict[str, str | bytes] = {name: headers[name].encode() for name in headers}
        try:
            reply = self._session.exchange(
                "POST",
                data=body,
                headers=encoded,
                left_seconds=left_seconds,
                body_bytes_max=BODY_BYTES_MAX,
            )
        except NotConnected as unreached:
            return self._explain_unreached(unreached), 0
        except CallCancelled:
            return _NO_TIME, 0
        except AnswerTooLarge as large:
            reply = large.reply
        except AnswerBroken as broken:
            if not broken.reply.status:
                return self._explain_lost(late=broken.late), 0
            reply = broken.reply
        return self._interpret(reply, hidden), reply.status

    def _interpret(self, reply: Reply, hidden: Collection[str]) -> Failure | None:
        target = f"The target at {self._setting}"
        return interpret_answer(reply, target=target, hidden=hidden, now=time.time())

    def _explain_unreached(self, unreached: NotConnected) -> Failure:
        system = f"The target at {self._setting}"
        hint = explain_unreached(unreached, system=system, setting=self._setting)
        if isinstance(unreached.cause, ForbiddenAddressError):
            return Failure(Retryability.PERMANENT, Reason.TARGET_ADDRESS, hint)
        return Failure(Retryability.TRANSIENT, Reason.TARGET_UNREACHABLE, hint)

    def _explain_lost(self, *, late: bool) -> Failure:
        if late:
            hint = (
                f"The target at {self._setting} did not answer in time: see whether it works, and "
                "look at `timeout_seconds` of the rule."
            )
            return Failure(Retryability.TRANSIENT, Reason.TARGET_TIMEOUT, hint)
        hint = (
            f"The connection to the target at {self._setting} broke before it answered: it may be "
            "restarting, or a proxy cuts connections."
        )
        return Failure(Retryability.TRANSIENT, Reason.TARGET_UNREACHABLE, hint)


_NO_TIME: Final = Failure(
    Retryability.TRANSIENT, Reason.DEADLINE, "There was no time left for a call of the target."
)
