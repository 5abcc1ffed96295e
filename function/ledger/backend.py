"""What SQLite and PostgreSQL are to the ledger alike, and how either fails.

LedgerUnavailable      it cannot be reached, or does not answer: 503
  LedgerNotMigrated    it lacks what this version needs
  LedgerUnfit          it cannot hold the ledger
LedgerRefused          it did not take a statement, or its values
"""

from collections.abc import Callable
from typing import Any, Final, Protocol, TypeAlias

from function.deadline import seconds_left

Record: TypeAlias = dict[str, Any]
# A statement here is short, and a ledger that does not answer is better told to Hasura than waited
# for.
STATEMENT_SECONDS: Final = 10
CONNECT_SECONDS: Final = 5


class LedgerUnavailable(Exception):  # noqa: N818  # a state to answer 503 for, not a mistake
    """The database cannot be reached or does not answer; this transaction changed nothing, or its
    end is not known."""


class LedgerNotMigrated(LedgerUnavailable):
    """The database lacks what this version needs, and LEDGER_MIGRATE is off."""


class LedgerUnfit(LedgerUnavailable):
    """The database cannot hold the ledger: *problem* says why, *remedy* what to do."""

    def __init__(self, problem: str, remedy: str) -> None:
        super().__init__(problem, remedy)
        self.problem = problem
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.problem}: {self.remedy}"


class LedgerRefused(Exception):  # noqa: N818  # what happened
    """The database is there and did not take a statement, or its values; nothing was changed by
    this transaction.

    The text names the error and quotes no value.
    """


Execute: TypeAlias = Callable[[str, Record], list[Record]]


class OutOfTime(Exception):  # noqa: N818  # what happened
    """The time was up before the database answered; the text says what was waited for."""


def bounded_wait(most: float, what: str) -> float:
    """How long to wait for *what*: *most*, or what is left. Raises OutOfTime where nothing is."""
    seconds = min(most, seconds_left())
    if seconds <= 0:
        raise OutOfTime(f"no time was left for {what}")
    return seconds


class DatabaseBackend(Protocol):
    dialect: str

    def identity(self) -> object: ...
    def gone(self) -> tuple[type[Exception], ...]: ...
    def may_do_better(self, error: Exception) -> bool: ...
    def words(self, error: Exception) -> str: ...
    def demand_fit(self, execute: Execute) -> None: ...  # raises LedgerUnfit
    def reading(
        self,
    ) -> Any: ...  # the same as transaction, for reading; None where there is no database yet
    def transaction(
        self, *, migrating: bool = False
    ) -> Any: ...  # a context manager giving an Execute
    def has_table(self, execute: Callable[..., list[Record]], name: str) -> bool: ...
    def close(self) -> None: ...
