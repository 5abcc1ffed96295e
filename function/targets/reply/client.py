"""Posts answers to where Slack takes them: a `response_url`, which is a secret."""

import threading
import time
from typing import Final
from urllib.parse import urlsplit

from function.core.outcome import Failure, NotDone, Reason, Retryability
from function.http.network import NetworkSettings
from function.http.reply import Reply, bound_wait, read_retry_after
from function.http.session import (
    CALL_SECONDS_MIN,
    AnswerBroken,
    AnswerTooLarge,
    CallCancelled,
    HttpSession,
    NotConnected,
)
from function.sources.slack import is_reply_url

TIMEOUT_SECONDS: Final = 10.0
# Slack answers `ok`, or a word that says why not.
_BODY_BYTES_MAX: Final = 64 * 1024
_CONNECTIONS_MAX: Final = 16
_EXPIRED: Final = "Slack takes no more answers there: 30 minutes, or five answers, are over"


class SlackError(NotDone):
    """An answer did not reach Slack, or perhaps did."""


class ReplyClient:
    """Posts answers. Threads may share it. *sandbox_url* is where they may go beside Slack."""

    def __init__(self, network: NetworkSettings, *, sandbox_url: str = "") -> None:
        self._network = network
        self._sandbox_url = sandbox_url
        self._opening = threading.Lock()
        self._sessions: dict[str, HttpSession] = {}

    def post(self, url: str, body: bytes, *, left_seconds: float) -> None:
        """Post *body* to *url*, and nowhere that it leads to. Raises SlackError."""
        if not is_reply_url(url, sandbox_url=self._sandbox_url):
            raise SlackError(_permanent("the command names no address of Slack's to answer to"))
        left_seconds = min(left_seconds, TIMEOUT_SECONDS)
        if left_seconds < CALL_SECONDS_MIN:
            hint = "this delivery's time was used up; the rest follows"
            raise SlackError(Failure(Retryability.TRANSIENT, Reason.DEADLINE, hint))
        parts = urlsplit(url)
        path = parts.path + (f"?{parts.query}" if parts.query else "")
        failure: Failure | None
        try:
            reply = self._session(f"{parts.scheme}://{parts.netloc}").exchange(
                "POST",
                path,
                data=body,
                headers={"Content-Type": "application/json; charset=utf-8"},
                left_seconds=left_seconds,
                body_bytes_max=_BODY_BYTES_MAX,
            )
            failure = judge_reply(reply, now=time.time())
        except (NotConnected, CallCancelled):
            hint = "there was no connection to Slack; the answer is sent again"
            failure = Failure(Retryability.TRANSIENT, Reason.SLACK_UNREACHABLE, hint)
        except AnswerTooLarge:
            failure = None  # it was taken, and what is said beside that is not read
        except AnswerBroken:
            # It may have arrived: to read it twice is better than never.
            hint = "Slack did not answer in time; the answer is sent again"
            failure = Failure(Retryability.TRANSIENT, Reason.SLACK_TIMEOUT, hint)
        if failure is not None:
            raise SlackError(failure)

    def close(self) -> None:
        for session in self._sessions.values():
            session.close()

    def _session(self, origin: str) -> HttpSession:
        """One for each host: there are two, and the sandbox's."""
        with self._opening:
            if origin not in self._sessions:
                self._sessions[origin] = HttpSession(
                    origin, connections_max=_CONNECTIONS_MAX, network=self._network
                )
            return self._sessions[origin]


def judge_reply(reply: Reply, *, now: float) -> Failure | None:
    """What Slack's answer means; None where it took ours. Nothing of its body is kept: it may quote
    what was sent. *now* is UNIX seconds."""
    status = reply.status
    asked = read_retry_after(reply, now)
    wait = None if asked is None else bound_wait(asked)
    if 200 <= status < 300:
        return None
    if status in (404, 410):
        return Failure(Retryability.PERMANENT, Reason.REPLY_EXPIRED, _EXPIRED, status=status)
    if status == 429:
        hint = "Slack takes fewer answers at a time; it is sent again"
        return Failure(
            Retryability.TRANSIENT,
            Reason.SLACK_RATE_LIMITED,
            hint,
            retry_after_seconds=wait,
            status=status,
        )
    if status >= 500 or status == 408:
        hint = f"Slack answered HTTP {status}; the answer is sent again"
        return Failure(
            Retryability.TRANSIENT,
            Reason.SLACK_UNAVAILABLE,
            hint,
            retry_after_seconds=wait,
            status=status,
        )
    return _permanent(f"Slack does not take the answer (HTTP {status})", status=status)


def _permanent(hint: str, *, status: int = 0) -> Failure:
    return Failure(Retryability.PERMANENT, Reason.SLACK_REFUSED, hint, status=status)
