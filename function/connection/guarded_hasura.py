"""Hasura's GraphQL behind a circuit breaker."""

from collections.abc import Mapping

from function.connection.breaker import HASURA, CallVerdict, CircuitBreaker
from function.connection.system_guard import ASK_SECONDS, CallStart, SystemGuard
from function.core.outcome import CircuitOpen, Failure, NotDone
from function.core.values import Json, digest, digest_secret
from function.deadline import Deadline
from function.hasura.graphql import GraphqlClient, HasuraError
from function.ledger.holds import PROBE_SECONDS, HoldRepository


class HasuraHeld(CircuitOpen, HasuraError):  # noqa: N818  # a state, not a mistake
    """Hasura as a whole does not work."""


class GuardedGraphql:
    """Makes mutations and queries while Hasura works. Threads may share it.

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
        breaker = CircuitBreaker(
            holds, client.url, profile=HASURA, auth_hold_seconds=auth_hold_seconds
        )

        def credential() -> str:
            return digest_secret(admin_secret, salt=digest(client.url, "admin secret"))

        self._guard = SystemGuard(breaker, credential=credential, ask_seconds=ask_seconds)

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
        is_query: bool = False,
    ) -> dict[str, Json]:
        """As GraphqlClient has it. Raises HasuraError, HasuraHeld where nothing is sent now, and
        LedgerUnavailable.

        What *deadline* keeps of a row's calls is of the system that is written to; a query for it
        leaves that as it is.
        """
        own = Deadline(deadline.at) if is_query else deadline
        self._await_permit(own)
        call = self._guard.begin_call()
        own.called = True
        try:
            answer = self._client.execute(
                query,
                variables,
                operation_name=operation_name,
                event=event,
                deadline=own,
                is_query=is_query,
            )
        except HasuraError as error:
            verdict = HASURA.judge_failure(error.failure)
            if verdict is CallVerdict.FAILING:
                held = self._count_failure(error.failure, call, own)
                if held is not None:
                    raise held from error
            else:
                own.note_call()
                if verdict is CallVerdict.WORKING:
                    self._guard.count_success(call, claimed=False)
            raise
        own.note_call()
        self._guard.count_success(call, claimed=False)
        return answer

    def _await_permit(self, deadline: Deadline) -> None:
        try:
            permit = self._guard.await_permit(deadline)
        except CircuitOpen as held:
            raise _held(held) from held
        except NotDone as refused:
            raise HasuraError(refused.failure) from refused
        if permit is not None and permit.held:
            self._probe(deadline)

    def _probe(self, deadline: Deadline) -> None:
        """Find out, for all, whether a hold is over: a mutation may fail for its row's sake. Raises
        HasuraError where it is not, or nobody knows."""
        call = self._guard.begin_call()
        # Over before another may take it for lost.
        bound = Deadline.after(min(deadline.left(), PROBE_SECONDS / 2))
        try:
            self._client.probe(deadline=bound)
        except HasuraError as error:
            match HASURA.judge_failure(error.failure):
                case CallVerdict.FAILING:
                    held = self._guard.count_failure(error.failure, call, claimed=True)
                    if held is not None:
                        raise _held(held) from error
                    raise
                case CallVerdict.UNKNOWN:
                    self._guard.release_probe()
                    raise
        self._guard.count_probe_success(call)

    def _count_failure(
        self, failure: Failure, call: CallStart, deadline: Deadline
    ) -> HasuraHeld | None:
        """Remember that a call failed; the error to raise where they are held now."""
        if failure.reason not in HASURA.whole_system:
            deadline.note_call(failed=True)
            if deadline.alone:
                # Whoever has failed before closes no line: it may be for its row's sake.
                self._guard.count_row_failure(failure)
                return None
        held = self._guard.count_failure(failure, call, claimed=False)
        return None if held is None else _held(held)


def _held(circuit: CircuitOpen) -> HasuraHeld:
    return HasuraHeld(circuit.failure, kind=circuit.kind, since=circuit.since)
