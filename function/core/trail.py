"""Where a row is, from the steps that were recorded, in whatever order they arrived.

A row's images are places, an event is a step from one to another, and a row is where its trail
ends: the place with more arrivals than departures. Pure: a trail is a value; recording a step gives
a new one.
"""

import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from decimal import Decimal
from typing import Final

from function.core.step import DesiredState, Step
from function.core.values import Json, digest_values, instant

# Before its INSERT a row is not yet; after its DELETE it is no more. They are two places, so that a
# step that we were never told of cannot hide a deletion. No digest is spelled like them.
NOT_YET: Final = "not yet"
GONE: Final = "gone"

# A trigger that does not listen to every column leaves gaps, hence places left over. 32 outlives
# any burst of reordered events and keeps a row's evidence at a few kilobytes. NOT_YET and GONE come
# on top: they count its lives.
PLACES_MAX: Final = 32


_NUMBER = re.compile(r"-?\d{1,100}(\.\d{1,100})?", re.ASCII)


def place(*images: Json) -> str:
    """The digest of a place: the same for every spelling of the same image."""
    return digest_values((), images)


@dataclass(frozen=True, slots=True)
class Entered:
    """When a place was entered, by each of the clocks there are.

    *order* is what the rule's ``order_by`` gave (None without one), *sent_at* the event's
    ``created_at`` in UNIX seconds (None when unreadable), *step_count* the number of steps recorded
    on this trail before.
    """

    order: Json
    sent_at: float | None
    step_count: int


@dataclass(frozen=True, slots=True)
class Place:
    """A place on the trail. *balance* is arrivals less departures; *wants* is what the rule wants
    said there, as JSON text, rendered when the step arrived; *asserted* marks a place that a MANUAL
    named without a step; *last_step* is the number of the last step that entered or left it.
    *belongs_to_predecessor*: a ticket under this key is that of a row before this one, which was
    never to have a ticket so far. None where no step so far tells: see current_place().
    """

    digest: str
    balance: int = 0
    entered: Entered | None = None
    wants: str = ""
    asserted: bool = False
    last_step: int = 0
    belongs_to_predecessor: bool | None = None


@dataclass(frozen=True, slots=True)
class FirstSteps:
    """The steps of the earliest transaction that is known: its ``created_at`` in UNIX seconds (None
    when unreadable), and arrivals less departures of each place in it, where that is not zero."""

    at: float | None
    balances: Mapping[str, int]

    @property
    def existed(self) -> bool:
        """Whether a row lived under the key before: its INSERT did not arrive (the row is older
        than the trigger).

        Where the transaction did both, insert and delete, what was deleted from a place that
        nothing entered is taken for a former row: to replace a row is common, to insert, change and
        delete one at once is not.
        """
        if NOT_YET not in self.balances:
            return True
        left = any(balance < 0 for name, balance in self.balances.items() if name != NOT_YET)
        return GONE in self.balances and left


@dataclass(frozen=True, slots=True)
class Trail:
    """All that is remembered of a row's steps. *step_count* counts them; *wanted_at_last* is the
    ``created_at`` of the last one before or after which the rule wanted a ticket, in UNIX seconds
    (None for never)."""

    places: tuple[Place, ...] = ()
    step_count: int = 0
    first: FirstSteps | None = None
    wanted_at_last: float | None = None

    def find(self, name: str) -> Place | None:
        return next((known for known in self.places if known.digest == name), None)

    @property
    def lives(self) -> int:
        """How many rows live under the key, by the INSERTs and DELETEs alone: 1 or 0 once all have
        arrived."""
        born, died = self.find(NOT_YET), self.find(GONE)
        existed = self.first is not None and self.first.existed
        return existed - (born.balance if born else 0) - (died.balance if died else 0)


def record_step(trail: Trail, step: Step, wants: str, *, sent_at: datetime | None) -> Trail:
    """Count *step* into *trail*. The caller sees to it that one event is counted once.

    *wants* is what the rule wants said at the place entered. MANUAL (a step without a place left)
    moves no balance: it states where the row is.
    """
    entered = Entered(step.order, sent_at.timestamp() if sent_at else None, trail.step_count)
    places = {known.digest: known for known in trail.places}
    belongs_to_predecessor = _belongs_to_predecessor(trail, step)
    if step.left is not None:
        left = places.get(step.left, Place(step.left))
        # Leaving a place uses up the statement that the row is there.
        places[step.left] = replace(
            left, balance=left.balance - 1, asserted=False, last_step=trail.step_count
        )
    reached = places.get(step.entered, Place(step.entered))
    # Entered twice: the later time counts, whichever arrived first.
    latest = (
        entered if reached.entered is None or _later(entered, reached.entered) else reached.entered
    )
    places[step.entered] = replace(
        reached,
        balance=reached.balance + (step.left is not None),
        entered=latest,
        wants=wants,
        asserted=reached.asserted or step.left is None,
        last_step=trail.step_count,
        belongs_to_predecessor=belongs_to_predecessor
        if latest is entered
        else reached.belongs_to_predecessor,
    )
    first, wanted_at_last = (
        _first(trail.first, step, entered.sent_at),
        _wanted_at_last(trail, step, entered.sent_at),
    )
    return _tidy(Trail(tuple(places.values()), trail.step_count + 1, first, wanted_at_last))


def _belongs_to_predecessor(trail: Trail, step: Step) -> bool | None:
    """Whether the place that *step* enters is unwanted: see Place."""
    if not isinstance(step.wants, DesiredState) or step.wants.when or step.was_wanted:
        return False
    if step.left == NOT_YET:
        return bool(trail.places)
    if step.left is None:
        here = trail.find(step.entered)
        return (
            here.belongs_to_predecessor
            if here is not None and (here.balance > 0 or here.asserted)
            else None
        )
    before = trail.find(step.left)
    return before.belongs_to_predecessor if before is not None else None


def _wanted_at_last(trail: Trail, step: Step, sent_at: float | None) -> float | None:
    wanted = step.was_wanted or (isinstance(step.wants, DesiredState) and step.wants.when)
    if step.entered == GONE or not wanted or sent_at is None:
        return trail.wanted_at_last
    return sent_at if trail.wanted_at_last is None else max(sent_at, trail.wanted_at_last)


def _first(known: FirstSteps | None, step: Step, at: float | None) -> FirstSteps:
    """The earliest transaction's steps, *step* at *at* among them if it is of it."""
    if known is not None and _time(at) > _time(known.at):
        return known
    balances = dict(known.balances) if known is not None and known.at == at else {}
    if step.left is not None:
        for name, change in ((step.left, -1), (step.entered, 1)):
            balances[name] = balances.get(name, 0) + change
    places = [(name, balance) for name, balance in balances.items() if balance]
    return FirstSteps(at, dict(places[:PLACES_MAX]))


def _time(at: float | None) -> float:
    return math.inf if at is None else at


def replace_desired(trail: Trail, name: str, wants: str) -> Trail:
    """Replace what is wanted at the place *name*: an event already counted was rendered anew (the
    rules changed)."""
    return replace(
        trail,
        places=tuple(
            replace(known, wants=wants) if known.digest == name and known.entered else known
            for known in trail.places
        ),
    )


def current_place(trail: Trail) -> Place | None:
    """The place where the row is, None when no step is known.

    Where no step tells whether a ticket under this key belongs to a row before this one, it does if
    a row was deleted under the key and no later one was to have a ticket.
    """
    place = _current_place(trail)
    if place is None or place.belongs_to_predecessor is not None:
        return place
    gone = trail.find(GONE)
    deleted_at = gone.entered.sent_at if gone is not None and gone.entered is not None else None
    belongs_to_predecessor = (
        place is not gone
        and deleted_at is not None
        and deleted_at > (trail.wanted_at_last or -math.inf)
    )
    return replace(place, belongs_to_predecessor=belongs_to_predecessor)


def is_overtaken(place: Place, step: Step, *, sent_at: datetime | None) -> bool:
    """Whether the row came back to *place*, which *step* of *sent_at* entered, by a later step."""
    if place.entered is None:
        return False
    own = Entered(step.order, sent_at.timestamp() if sent_at else None, place.entered.step_count)
    return _later(place.entered, own)


def lacks_step(trail: Trail) -> bool:
    """Whether a step is missing, which may still arrive: the row left a place more often than it
    came there. A row that is older than its trail was somewhere when that began."""
    first = trail.first
    at_first = first.balances if first is not None and first.existed else {}
    return any(
        known.balance < min(0, at_first.get(known.digest, 0))
        for known in trail.places
        if known.digest != NOT_YET
    )


def _current_place(trail: Trail) -> Place | None:
    """The place where the row is.

    One place with a surplus is the answer, whatever the clocks say. Several (a step that has not
    arrived, or never will), none (a round trip) or a later statement: the latest entered. Where a
    row was deleted and entered another place in one transaction, the INSERTs and DELETEs say
    whether one lives under its key: a key exists once.
    """
    surplus = [known for known in trail.places if known.balance > 0]
    asserted = [known for known in trail.places if known.asserted]
    candidates = surplus + asserted or [known for known in trail.places if known.entered]
    gone = next((known for known in candidates if known.digest == GONE), None)
    latest = _latest([known for known in candidates if known is not gone])
    if gone is None or latest is None:
        return latest or gone
    if _same_time(gone, latest):
        return latest if trail.lives > 0 else gone
    return _latest([latest, gone])


def _latest(places: Iterable[Place]) -> Place | None:
    """The place entered last, None where there are no places."""
    latest: Place | None = None
    for known in places:
        if latest is None or _later_place(known, latest):
            latest = known
    return latest


def _same_time(one: Place, other: Place) -> bool:
    """Whether both were entered by one transaction, as far as its clock tells."""
    return (
        one.entered is not None
        and other.entered is not None
        and one.entered.sent_at == other.entered.sent_at
    )


def _later_place(one: Place, other: Place) -> bool:
    if one.entered is None or other.entered is None:
        return one.entered is not None
    return _later(one.entered, other.entered)


def _later(one: Entered, other: Entered) -> bool:
    """Whether *one* is after *other*: by ``order_by`` where both have it, else by ``created_at``,
    else by arrival."""
    for mine, theirs in (
        (_sortable(one.order), _sortable(other.order)),
        (one.sent_at, other.sent_at),
    ):
        if (
            mine is not None
            and theirs is not None
            and type(mine) is type(theirs)
            and mine != theirs
        ):
            return bool(mine > theirs)  # type: ignore[operator]  # same type, and sortable by construction
    return one.step_count > other.step_count


def _sortable(order: Json) -> float | Decimal | datetime | str | None:
    """``order_by`` as what it is, not as text: 10 is after 9, and 08:00+02:00 before 07:00Z."""
    match order:
        case bool() | None:
            return None
        case int() | Decimal() | float():
            return Decimal(str(order))
        case str():
            # A bigint arrives as text where Hasura stringifies numbers.
            return instant(order) or (Decimal(order) if _NUMBER.fullmatch(order) else order)
        case _:
            return None


def _tidy(trail: Trail) -> Trail:
    """Drop what no longer matters: balanced places but those that the latest transaction entered
    (the row may be back at one of them), and all but the newest PLACES_MAX."""
    last = _latest(known for known in trail.places if known.entered)
    newest_statement = _latest(known for known in trail.places if known.asserted)
    kept = []
    for known in trail.places:
        asserted = (
            known.asserted
            and newest_statement is not None
            and known.digest == newest_statement.digest
        )
        if known.balance or asserted or (last is not None and _same_time(known, last)):
            kept.append(replace(known, asserted=asserted))
    counters = (NOT_YET, GONE)
    others = [known for known in kept if known.digest not in counters]
    others.sort(key=lambda known: (known.balance != 0 or known.asserted, known.last_step))
    newest = {known.digest for known in others[-PLACES_MAX:]}.union(counters)
    return replace(trail, places=tuple(known for known in kept if known.digest in newest))


def trail_to_json(trail: Trail) -> str:
    """Write *trail* for the ledger."""
    places = [
        {
            "digest": known.digest,
            "balance": known.balance,
            "entered": known.entered
            and [_tagged(known.entered.order), known.entered.sent_at, known.entered.step_count],
            "wants": known.wants,
            "stated": known.asserted,
            "touched": known.last_step,
            "unwanted": known.belongs_to_predecessor,
        }
        for known in trail.places
    ]
    first = trail.first and [trail.first.at, trail.first.balances]
    written = {
        "heard": trail.step_count,
        "places": places,
        "first": first,
        "deserved_at": trail.wanted_at_last,
    }
    return json.dumps(written, separators=(",", ":"))


def trail_from_json(written: str) -> Trail:
    """Read what to_json wrote; an empty text is an empty trail."""
    if not written:
        return Trail()
    read = json.loads(written)
    return Trail(
        tuple(
            Place(
                entry["digest"],
                entry["balance"],
                entry["entered"]
                and Entered(
                    _untagged(entry["entered"][0]), entry["entered"][1], entry["entered"][2]
                ),
                entry["wants"],
                entry["stated"],
                entry["touched"],
                entry.get("unwanted", False),  # a ledger of before has none
            )
            for entry in read["places"]
        ),
        read["heard"],
        FirstSteps(*read["first"]) if read.get("first") else None,  # a ledger of before has none
        read.get("deserved_at"),  # nor this
    )


def _tagged(order: Json) -> dict[str, str] | str | None:
    """An ``order_by`` value as JSON that keeps a number exact."""
    if isinstance(order, int | float | Decimal) and not isinstance(order, bool):
        return {"number": str(order)}
    return order if isinstance(order, str) else None


def _untagged(tagged: dict[str, str] | str | None) -> Json:
    return Decimal(tagged["number"]) if isinstance(tagged, dict) else tagged
