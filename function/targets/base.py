"""What a target is: one kind of thing that rules bring about, such as a ticket.

The engine knows targets by this alone. It leases a key, gives the target a Task, and records what
the task knows then.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from function.core.event import Event
from function.core.outcome import Reason, Status
from function.core.step import DesiredState, Step
from function.deadline import Deadline
from function.ledger.records import TableTraits, Ticket
from function.rules.model import Rule


class LeaseLost(Exception):  # noqa: N818  # a state, not a mistake
    """Somebody else took the key over while we were away; all that we wrote down is doubt."""


@dataclass(slots=True)
class Task:
    """One rule's work for one key, under its lease.

    *event* is the one that came, *step* what it did; both are None where only a look is due.
    *desired* is what the rule wants where the row is (None: that cannot be said). *moved*: the step
    took the row there. *overtaken*: a
    later step took it there again. *record* is
    always what is known by now, also after NotDone: the engine writes it down. *now* is the
    ledger's clock when the work began, in UNIX seconds. *save* writes the record down before a
    call, and raises LeaseLost. *traits*: what is known of its table. *replayed*: somebody has
    looked for what a dead letter in doubt may have made, and sent it again. *attempt* counts from
    1, and the first one was at *first_seen*, UNIX seconds; *last_reason* is why the one before this
    was not done, "" for the first.

    What the record means to the engine and the ledger, whatever the target: `sys_id` is not empty
    once the thing exists, and `row_resolved` true once its end was told. `pending_write` is what
    was begun; after a holder that vanished, one of kind update comes back as `suspect_until` and
    `suspect_fields`. While `suspect_until` is set, the event comes again, and the housekeeping
    looks; a look clears it. `written_fields` must be set before *save*: where the lease is lost,
    they are all that is known of what was written.

    The target adds *mismatched_fields*, which came back different or empty, and *left_empty* and
    *left_alone* (what another system wrote), by field, why.
    """

    rule: Rule
    event: Event | None
    step: Step | None
    desired: DesiredState | None
    record: Ticket
    now: float
    deadline: Deadline
    save: Callable[[Ticket], None]
    traits: TableTraits
    replayed: bool = False
    moved: bool = False
    overtaken: bool = False
    attempt: int = 1
    first_seen: float = 0.0
    last_reason: str = ""
    mismatched_fields: frozenset[str] = frozenset()
    left_empty: dict[str, str] = field(default_factory=dict)
    left_alone: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Result:
    """What was done for one key."""

    status: Status
    reason: Reason | None


class TargetSession(Protocol):
    """A target on the connection that one delivery began with, and ends on.

    *system* is what people call the other system. *instance* is a part of a record's key: where
    what it makes stands. *version* is that of the stored connection to ServiceNow, "" where none is
    stored; None where the target does not use it. *settings_digest* stands for the settings that
    decide what becomes of an event: under others, a dead letter may live.
    """

    @property
    def system(self) -> str: ...

    @property
    def instance(self) -> str: ...

    @property
    def version(self) -> str | None: ...

    @property
    def settings_digest(self) -> str: ...

    def for_rule(self, rule: Rule) -> "TargetSession":
        """The same for *rule*, where each rule has a system of its own."""

    def find_system(self, reason: Reason) -> tuple[str, str]:
        """What people call the system that fails for *reason*, and where it is."""

    @property
    def unverified(self) -> str | None:
        """The digest of the credential for which the next call needs leave; None where it needs
        none."""

    def apply(self, task: Task) -> Result:
        """Bring about what is desired. Raises NotDone, LeaseLost, LedgerUnavailable."""

    def settle(self, task: Task) -> None:
        """Find out what became of a call that was left in doubt. Raises as apply does."""


class Target(Protocol):
    """One kind of thing that rules bring about; threads share it. *kind* is its key in the rules
    file."""

    @property
    def kind(self) -> str: ...

    def connect(self, *, at_once: bool = False) -> TargetSession:
        """The session on the connection that is in force, now if *at_once*. Raises
        LedgerUnavailable."""


Targets = Mapping[str, Target]
