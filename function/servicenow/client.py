"""A client of ServiceNow's Table API: a thin one, that says what became of each call."""

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final, Literal

from function.core.outcome import Failure, Reason
from function.http.network import BrokenNetwork, NetworkSettings, read_network
from function.http.reply import Reply
from function.servicenow.credentials import Basic, Credential
from function.servicenow.errors import InvalidArgument, error_of
from function.servicenow.instance import instance_url as parsed
from function.servicenow.oauth import RequestAuth, TokenCache
from function.servicenow.responses import Record, Request, interpret, rate_limit_per_hour
from function.servicenow.transport import Transport

log = logging.getLogger("function.servicenow")

# Three in fifteen minutes at most.
AUTH_PAUSE_SECONDS: Final = 300.0


class TableClient:
    """Gets, finds, creates and updates records of any table, at most *concurrency_max* at a time.

    Each method takes the bound of the whole call, waiting for its turn included; the client's own
    applies as well. (The look-up of the host's name alone is bounded by the system's resolver.)
    Each raises ServiceNowError, and ValueError for a table or sys_id that is none. Every record
    carries its ``sys_id`` beside the *fields* asked for. It signs in with *username* and
    *password*, or with a *credential*, which is asked for before each call where it is a function:
    it may change. *network* is the way there, by default what the environment says of proxies and
    certificates as the client is made; *ca_file* has the certificates to trust instead. Threads may
    share a client.

    A credential that ServiceNow refused is not sent again for *auth_pause_seconds*, unless it is
    another one by then: accounts lock after about five wrong passwords in fifteen minutes.
    """

    def __init__(
        self,
        instance_url: str,
        credential: Credential | Callable[[], Credential] | str | None = None,
        password: str = "",
        *,
        username: str = "",
        timeout_seconds: float = 20.0,
        concurrency_max: int = 4,
        ca_file: str | None = None,
        network: NetworkSettings | None = None,
        auth_pause_seconds: float = AUTH_PAUSE_SECONDS,
    ) -> None:
        try:
            self.instance_url = parsed(instance_url)
        except ValueError as error:
            raise InvalidArgument(f"instance_url {error}") from None
        try:
            network = read_network(os.environ) if network is None else network
        except BrokenNetwork as error:
            raise InvalidArgument(str(error)) from None
        self._credential = _credential(credential, username, password)
        self._timeout_seconds = timeout_seconds
        self._transport = Transport(
            self.instance_url, concurrency_max=concurrency_max, ca_file=ca_file, network=network
        )
        self._tokens = TokenCache(self._transport.post_form)
        self._rate_limit_per_hour: int | None = None
        self._auth_pause_seconds = auth_pause_seconds
        self._refusal: _CredentialRefusal | None = None

    @property
    def calls(self) -> int:
        """How many requests were sent, those for tokens too."""
        return self._transport.calls

    @property
    def rate_limit_per_hour(self) -> int | None:
        """The limit that the last answer named; None where no rate limit rule applies."""
        return self._rate_limit_per_hour

    def get(
        self,
        table: str,
        sys_id: str,
        *,
        fields: Sequence[str],
        timeout_seconds: float,
        shown: bool = False,
    ) -> Record:
        """The record *sys_id*; one that is not there, or hidden, is a Failure MISSING.

        *shown*: with what people see in the place of each value (see split_shown).
        """
        params = _params(fields, shown=shown)
        return self._call(_addressed("GET", table, sys_id), params, None, timeout_seconds)[0]

    def find(
        self,
        table: str,
        query: str,
        *,
        fields: Sequence[str],
        limit: int,
        timeout_seconds: float,
        shown: bool = False,
    ) -> list[Record]:
        """At most *limit* records that match the encoded *query*, which is made of *equals*s.

        ServiceNow drops a term that it does not understand and returns every row: check what comes
        back. *shown* as in get().
        """
        params = _params(fields, shown=shown) | {
            "sysparm_query": query,
            "sysparm_limit": str(limit),
            "sysparm_no_count": "true",  # KB0564204: a count costs as much as the query
            "sysparm_suppress_pagination_header": "true",
        }
        return self._call(Request("GET", table), params, None, timeout_seconds)

    def create(
        self,
        table: str,
        values: Mapping[str, str],
        *,
        fields: Sequence[str],
        timeout_seconds: float,
    ) -> Record:
        """Insert a record and return it as ServiceNow has it; compare its sys_id with the one asked
        for."""
        return self._call(Request("POST", table), _params(fields), values, timeout_seconds)[0]

    def update(
        self,
        table: str,
        sys_id: str,
        values: Mapping[str, str],
        *,
        fields: Sequence[str],
        timeout_seconds: float,
        shown: bool = False,
    ) -> Record:
        """Change some fields of a record and return it as ServiceNow has it then. *shown* as in
        get()."""
        params = _params(fields, shown=shown)
        return self._call(_addressed("PATCH", table, sys_id), params, values, timeout_seconds)[0]

    def close(self) -> None:
        self._transport.close()

    def _call(
        self,
        request: Request,
        params: Mapping[str, str],
        values: Mapping[str, str] | None,
        timeout_seconds: float,
    ) -> list[Record]:
        self._spare_the_account(request)
        started = time.monotonic()
        deadline = started + min(timeout_seconds, self._timeout_seconds)
        proof = RequestAuth(self._credential, self._tokens, deadline=deadline)
        reply = self._transport.send(
            request, params, values, headers=proof.headers, deadline=deadline
        )
        if proof.has_lapsed(reply):
            reply = self._transport.send(
                request, params, values, headers=proof.headers, deadline=deadline
            )
        if isinstance(reply, Reply):
            self._rate_limit_per_hour = rate_limit_per_hour(reply)
        answer = (
            reply
            if isinstance(reply, Failure)
            else proof.explained(interpret(request, reply, now=time.time()))
        )
        # A ticket that is not there is often the answer that was hoped for.
        bad = isinstance(answer, Failure) and answer.reason is not Reason.MISSING
        log.log(
            logging.WARNING if bad else logging.INFO,
            "ServiceNow %s %s: %s in %d ms, %s",
            request.method,
            request.table,
            f"HTTP {reply.status}" if reply.status else "no answer",
            (time.monotonic() - started) * 1000,
            f"{answer.retryability}, {answer.reason}" if isinstance(answer, Failure) else "done",
        )
        if isinstance(answer, Failure):
            if answer.reason is Reason.UNAUTHORIZED and proof.credential is not None:
                until = time.monotonic() + self._auth_pause_seconds
                self._refusal = _CredentialRefusal(proof.credential, answer, until)
            raise error_of(answer, call=f"{request.method} {request.table}")
        return answer

    def _spare_the_account(self, request: Request) -> None:
        """Raise what was raised for this credential, while it is not to be sent again."""
        refusal = self._refusal
        if refusal is None or (left_seconds := refusal.until - time.monotonic()) <= 0:
            return
        if refusal.credential == self._credential():
            hint = (
                f"{refusal.failure.hint} It is not sent again before "
                f"{left_seconds:.0f} s have passed."
            )
            raise error_of(
                replace(
                    refusal.failure, hint=hint, remote_message="", retry_after_seconds=left_seconds
                ),
                call=f"{request.method} {request.table}",
            )


def _credential(
    given: Credential | Callable[[], Credential] | str | None, username: str, password: str
) -> Callable[[], Credential]:
    """What to ask for the credential: *given*, which as a text is the user's name. Raises
    InvalidArgument."""
    if isinstance(given, str):
        if username:
            raise InvalidArgument("username is given twice")
        return _credential(None, given, password)
    if given is not None and (username or password):
        raise InvalidArgument("give username and password, or a credential, not both")
    if given is None and not (username and password):
        raise InvalidArgument(
            "username and password must both say something, or a credential be given"
        )
    if callable(given):
        return given
    known = Basic(username, password) if given is None else given
    return lambda: known


@dataclass(frozen=True, slots=True)
class _CredentialRefusal:
    """A *credential* that ServiceNow refused; *until* is of the monotonic clock."""

    credential: Credential
    failure: Failure
    until: float


def _addressed(method: Literal["GET", "PATCH"], table: str, sys_id: str) -> Request:
    if not sys_id:
        raise ValueError("that is not a sys_id")  # without one, a GET would return every record
    return Request(method, table, sys_id)


def _params(fields: Sequence[str], *, shown: bool = False) -> dict[str, str]:
    return {
        "sysparm_fields": ",".join(dict.fromkeys(["sys_id", *fields])),
        "sysparm_exclude_reference_link": "true",
        "sysparm_display_value": "all" if shown else "false",
    }
