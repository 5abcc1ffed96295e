"""One call of ServiceNow, at most so many at a time."""

import json
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final, Literal

from function.core.outcome import Failure, Reason, Retryability
from function.http.network import NetworkSettings
from function.http.reply import Reply
from function.http.session import (
    CALL_SECONDS_MIN,
    SCOPE,
    AnswerBroken,
    AnswerTooLarge,
    CallCancelled,
    HttpSession,
    NotConnected,
    explain_unreached,
)
from function.servicenow.responses import Request, Sent, no_answer

# A page of records is kilobytes; 16 MiB is more than any answer that we ask for.
BODY_BYTES_MAX: Final = 16 * 1024 * 1024
# What hints call it, and where its address is.
SYSTEM: Final = "ServiceNow"
SETTING: Final = "SERVICENOW_INSTANCE_URL"


class Transport:
    """Sends requests to one instance, at most *concurrency_max* at a time. Threads may share it.

    *ca_file* has the certificates to trust instead of those of *network*.
    """

    def __init__(
        self,
        instance_url: str,
        *,
        concurrency_max: int,
        ca_file: str | None = None,
        network: NetworkSettings = NetworkSettings(),  # noqa: B008  # it is frozen
    ) -> None:
        self._slots = threading.BoundedSemaphore(concurrency_max)
        self._session = HttpSession(
            instance_url, connections_max=concurrency_max, network=network, ca_file=ca_file
        )
        self._counting = threading.Lock()
        self._calls = 0

    @property
    def calls(self) -> int:
        """How many requests were sent."""
        return self._calls

    def close(self) -> None:
        self._session.close()

    def send(
        self,
        request: Request,
        params: Mapping[str, str],
        values: Mapping[str, str] | None,
        *,
        headers: Callable[[], Mapping[str, str] | Failure],
        deadline: float,
    ) -> Reply | Failure:
        """Send *request* when its turn comes, and receive the answer by *deadline* (on the
        monotonic clock).

        *headers* is asked for what proves who we are right before the request is sent; its failure
        is the answer.
        """
        scope = SCOPE.get()
        if scope is not None and scope.is_cancelled:
            return _CANCELLED
        if deadline - time.monotonic() < CALL_SECONDS_MIN:
            return _NO_TIME
        if not self._slots.acquire(timeout=deadline - time.monotonic()):
            return CROWDED
        try:
            if deadline - time.monotonic() <= CALL_SECONDS_MIN:
                return CROWDED
            proof = headers()
            if isinstance(proof, Failure):
                return proof
            if (left_seconds := deadline - time.monotonic()) <= CALL_SECONDS_MIN:
                return _NO_TIME
            body = None if values is None else json.dumps(dict(values)).encode()
            return self._exchange(request, params, body, proof, left_seconds)
        finally:
            self._slots.release()

    def post_form(self, path: str, form: bytes, *, deadline: float) -> Reply | Failure:
        """Post *form* and receive the answer by *deadline*: what a call needs, in the turn which
        that call has."""
        if (left_seconds := deadline - time.monotonic()) < CALL_SECONDS_MIN:
            return _NO_TIME
        headers = {"Content-Type": "application/x-www-form-urlencoded"}
        # Others wait for what this brings, too.
        whole = SCOPE.set(None)
        try:
            return self._exchange(_Form(path), {}, form, headers, left_seconds)
        finally:
            SCOPE.reset(whole)

    def _exchange(
        self,
        request: "Request | _Form",
        params: Mapping[str, str],
        data: bytes | None,
        proof: Mapping[str, str],
        left_seconds: float,
    ) -> Reply | Failure:
        """Send and receive; a failure is a value."""
        try:
            reply = self._session.exchange(
                request.method,
                request.path,
                params=params,
                data=data,
                headers=proof,
                left_seconds=left_seconds,
                body_bytes_max=BODY_BYTES_MAX,
            )
        except NotConnected as unreached:
            hint = explain_unreached(unreached, system=SYSTEM, setting=SETTING)
            return Failure(Retryability.TRANSIENT, Reason.UNREACHABLE, hint)
        except CallCancelled:
            return _CANCELLED
        except AnswerTooLarge as answer:
            self._count()
            hint = "ServiceNow's answer is larger than 16 MiB, and was not read to its end."
            return no_answer(request, Reason.BAD_ANSWER, hint, status=answer.status)
        except AnswerBroken as answer:
            self._count()
            reply = answer.reply
            if not _status_says_it(reply.status):
                return _cut_off(request, reply.status, late=answer.late)
        else:
            self._count()
        return reply

    def _count(self) -> None:
        with self._counting:
            self._calls += 1


@dataclass(frozen=True, slots=True)
class _Form:
    """A form to post, which changes no record."""

    path: str
    method: Literal["POST"] = "POST"
    writes: Literal[False] = False


_NO_TIME: Final = Failure(
    Retryability.TRANSIENT, Reason.DEADLINE, "There was no time left for a call to ServiceNow."
)
_CANCELLED: Final = Failure(
    Retryability.TRANSIENT, Reason.DEADLINE, "The call was given up before it was sent."
)
CROWDED: Final = Failure(
    Retryability.TRANSIENT,
    Reason.NO_CAPACITY,
    "All our calls to ServiceNow were taken for the whole time: SERVICENOW_MAX_CONCURRENCY "
    "bounds them, and ServiceNow may be slow.",
)


def _status_says_it(status: int) -> bool:
    """Whether the status alone is the answer, so that a body broken off does not matter."""
    return status in {202, 401, 429} or 300 <= status < 400 or status >= 500


def _cut_off(request: Sent, status: int, *, late: bool) -> Failure:
    if late:
        hint = (
            "ServiceNow did not answer in time: look for slow business rules on the table, "
            "and at its status page."
        )
        return no_answer(request, Reason.TIMEOUT, hint, status=status)
    if status:
        return no_answer(
            request, Reason.BAD_ANSWER, "ServiceNow's answer broke off.", status=status
        )
    hint = (
        "The connection to ServiceNow broke before it answered: it may be restarting, or a "
        "proxy cuts connections."
    )
    return no_answer(request, Reason.UNREACHABLE, hint)
