"""A client of Hasura's GraphQL, for mutations that can be repeated, and for queries."""

import time
from collections.abc import Mapping
from typing import Final
from urllib.parse import quote

from function.core.outcome import Failure, NotDone, Reason, Retryability
from function.core.values import Json, text
from function.deadline import Deadline
from function.hasura.graphql_answers import interpret, reword_for_query
from function.http.network import NetworkSettings
from function.http.reply import Reply
from function.http.session import (
    CALL_SECONDS_MIN,
    AnswerBroken,
    AnswerTooLarge,
    CallCancelled,
    HttpSession,
    NotConnected,
    explain_unreached,
)

# An answer holds what the mutation returns of a few rows.
BODY_BYTES_MAX: Final = 1024 * 1024
# Of so many threads, each finds its connection still open.
_CONNECTIONS_MAX: Final = 64
# What a header's value may hold; anything else is percent-encoded.
_IN_HEADERS: Final = "".join(map(chr, range(0x21, 0x7F))).replace("%", "")
_PROBE: Final = "query ServiceNowProbe { __typename }"


class HasuraError(NotDone):
    """Hasura did not do it, or perhaps did and its answer was lost."""


class GraphqlClient:
    """Sends mutations and queries to Hasura. Threads may share it.

    *url* is the address of GraphQL, *role* whom they are made as ("": the admin). Each
    takes *timeout_seconds* at most, answer included. (The look-up of the host's name alone is
    bounded by the system's resolver.)
    """

    def __init__(
        self,
        url: str,
        *,
        admin_secret: str = "",
        role: str = "",
        timeout_seconds: float = 10.0,
        network: NetworkSettings = NetworkSettings(),  # noqa: B008  # it is frozen
    ) -> None:
        self.url = url
        self._headers: dict[str, str | bytes] = {}
        if admin_secret:
            self._headers["x-hasura-admin-secret"] = admin_secret.encode()
        if role:
            self._headers["x-hasura-role"] = role.encode()
        self._timeout_seconds = timeout_seconds
        self._session = HttpSession(url, connections_max=_CONNECTIONS_MAX, network=network)

    def close(self) -> None:
        self._session.close()

    def execute(
        self,
        query: str,
        variables: Mapping[str, Json],
        *,
        operation_name: str = "",
        event: str = "",
        deadline: Deadline,
        is_query: bool = False,
    ) -> dict[str, Json]:
        """Make a mutation, or a query; the `data` of its answer. Raises HasuraError.

        *event* is what stands in the header `x-hasura-servicenow-event`, and so among the session
        variables of the events that the mutation causes.
        """
        content: dict[str, Json] = {"query": query, "variables": dict(variables)}
        if operation_name:
            content["operationName"] = operation_name
        headers = dict(self._headers)
        if event:
            headers["x-hasura-servicenow-event"] = quote(event, safe=_IN_HEADERS)
        left_seconds = min(self._timeout_seconds, deadline.left())
        if left_seconds < CALL_SECONDS_MIN:
            raise HasuraError(_NO_TIME)
        answer = self._exchange(text(content).encode(errors="replace"), headers, left_seconds)
        if isinstance(answer, Failure):
            raise HasuraError(reword_for_query(answer) if is_query else answer)
        return answer

    def probe(self, *, deadline: Deadline) -> None:
        """Find out whether Hasura answers, by what reads and changes nothing. Raises
        HasuraError."""
        self.execute(_PROBE, {}, deadline=deadline)

    def _exchange(
        self, body: bytes, headers: Mapping[str, str | bytes], left_seconds: float
    ) -> dict[str, Json] | Failure:
        """The data, or why there is none. The exception behind it is let go: its text may hold what
        was sent."""
        try:
            reply = self._session.exchange(
                "POST",
                data=body,
                headers=headers,
                left_seconds=left_seconds,
                body_bytes_max=BODY_BYTES_MAX,
            )
        except NotConnected as unreached:
            hint = explain_unreached(unreached, system="Hasura", setting="HASURA_GRAPHQL_URL")
            return Failure(Retryability.TRANSIENT, Reason.HASURA_UNREACHABLE, hint)
        except CallCancelled:
            return _NO_TIME
        except AnswerTooLarge as large:
            return Failure(
                Retryability.TRANSIENT, Reason.HASURA_BAD_ANSWER, _TOO_LARGE, status=large.status
            )
        except AnswerBroken as broken:
            if not _status_says_it(broken.reply.status):
                return _find_break(broken.reply, late=broken.late)
            reply = broken.reply
        return interpret(reply, now=time.time())


def _status_says_it(status: int) -> bool:
    """Whether the status alone is the answer, so that a body broken off does not matter."""
    return status in {401, 403, 404, 413, 429} or 300 <= status < 400 or status >= 500


def _find_break(reply: Reply, *, late: bool) -> Failure:
    if late:
        reason, hint = Reason.HASURA_TIMEOUT, _LATE
    elif reply.status:
        reason, hint = Reason.HASURA_BAD_ANSWER, "Hasura's answer broke off."
    else:
        reason, hint = Reason.HASURA_UNREACHABLE, _BROKEN
    return Failure(Retryability.TRANSIENT, reason, hint, status=reply.status)


_NO_TIME: Final = Failure(
    Retryability.TRANSIENT, Reason.DEADLINE, "There was no time left for a call to Hasura."
)
_LATE: Final = (
    "Hasura did not answer in time: look for a lock on the row, or a slow trigger of its table, "
    "and at HASURA_TIMEOUT_SECONDS."
)
_BROKEN: Final = (
    "The connection to Hasura broke before it answered: it may be restarting, or a proxy cuts "
    "connections."
)
_TOO_LARGE: Final = (
    "Hasura's answer is larger than 1 MiB, and was not read to its end: have it return less."
)
