"""One field mapped both ways, as a model: every interleaving of a small history, to its ends.

A row has a value that both sides change, and one of its own that the ticket is told of. The app
edits the row, a person edits the ticket. Hasura's events arrive in any order, at least once; a
notification says that the ticket changed, and may be lost; a worker may die at each of its steps,
and a PATCH that was under way then may commit later, or never. In the end `sync` looks at the
ticket once.

What the function remembers is what it remembers in function/inbound and
function/targets/ticket: `last_sent`, `known`, `shadow`. `Algorithm` has a switch for each rule that
keeps the ends equal; a test turns off one after the other.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final, NamedTuple

UNKNOWN: Final = -1
ANOTHER: Final = -2  # a person edits a field of the ticket that the row has not
STATES_MAX: Final = 1_500_000
EVENTS_MAX: Final = 10


class Image(NamedTuple):
    """A row: the value that both sides change, and one that the app alone does."""

    shared: int
    own: int


class RowEvent(NamedTuple):
    """What Hasura sends. *mark*: the ticket's count of changes when our mutation made this step; -1
    where the app made it."""

    number: int
    old: Image
    new: Image
    mark: int


class Worker(NamedTuple):
    """Whoever has the lease. *kind* is what it does, *done* whether its call was made, *event* the
    number of the event that is answered then (-1 for none), *kept* whether its work comes again
    after a crash."""

    kind: str  # patch, mutate
    value: int
    mod_count: int
    done: bool
    event: int
    kept: bool


class Memory(NamedTuple):
    """What the ledger holds of the field. *mod_count* is the ticket's count of changes, *written*
    what it was after the last write of ours; *own* is what was last sent of the row's own value."""

    last_sent: int
    known: int
    shadow: int
    mod_count: int
    written: int
    own: int


class World(NamedTuple):
    row: Image
    ticket: int
    mod_count: int
    events: frozenset[RowEvent]
    numbers: int
    notified: int  # notifications under way
    inbox: int  # notifications that the inbox keeps
    late: int  # a PATCH under way whose sender died
    memory: Memory
    worker: Worker | None
    arrivals: tuple[tuple[Image, int, int], ...]  # image, arrivals less departures, last event
    heard: frozenset[int]
    app: tuple[tuple[str, int], ...]  # edits to come
    person: tuple[int, ...]
    crashes: int
    losses: int
    looks: int  # answers to other writes that tell of the ticket
    sent: tuple[int, ...]  # values in doubt
    app_said: int
    person_said: int
    synced: bool


@dataclass(frozen=True)
class Algorithm:
    """Which rules are kept."""

    shadow: bool = True  # a base of its own; without it, `known` is the only one
    forgets_before: bool = True  # before a mutation, the shadow of what is sent is unknown
    knows_before: bool = True  # before a mutation, known is what was seen
    settles_first: bool = True  # a ticket in doubt is settled, then compared
    keeps_sent: bool = True  # what was sent in doubt and is found in the ticket is ours
    records_writes: bool = True  # a PATCH that was answered sets the shadow
    knows_marks: bool = True  # an event of our own mutation asserts nothing
    asserts_changes: bool = True  # an app's change away from what the ticket says is sent
    counts_fields: bool = True  # a mark is too old where the same field was written since
    waits_for_steps: bool = True  # what a step changed that is not heard yet is not sent
    raises_marks: bool = True  # an own step that was heard is too old from then on for older ones
    doubts_agreement: bool = True  # what both say without a PATCH is unknown to the shadow
    takes_seen: bool = False  # instead of the two above: what the app was given counts as sent
    # The value that a row is given for a ticket's, and back.
    to_row: Callable[[int], int] = field(default=lambda value: value)


@dataclass
class Ends:
    """What became of a history: how many *ends* it has, and the first path to each wrong one."""

    states: int = 0
    ends: int = 0
    wrong: dict[str, list[str]] = field(default_factory=dict)


Step = tuple[str, World]


def begin(
    *,
    app: tuple[tuple[str, int], ...] = (),
    person: tuple[int, ...] = (),
    crashes: int = 0,
    losses: int = 0,
    looks: int = 0,
) -> World:
    """A row and its ticket that agree. *app*: ("shared" | "own", value), one after the other."""
    image = Image(0, 0)
    return World(
        row=image,
        ticket=0,
        mod_count=0,
        events=frozenset(),
        numbers=1,
        notified=0,
        inbox=0,
        late=UNKNOWN,
        memory=Memory(0, 0, 0, 0, 0, 0),
        worker=None,
        arrivals=((image, 1, 0),),
        heard=frozenset(),
        app=app,
        person=person,
        crashes=crashes,
        losses=losses,
        looks=looks,
        sent=(),
        app_said=UNKNOWN,
        person_said=UNKNOWN,
        synced=False,
    )


def explore(start: World, algorithm: Algorithm) -> Ends:
    """Follow every interleaving from *start*."""
    came_from: dict[World, Step | None] = {start: None}
    todo = [start]
    found = Ends()
    while todo:
        world = todo.pop()
        following = list(steps(world, algorithm))
        if not following:
            found.ends += 1
            if (why := judge(world, algorithm)) and why not in found.wrong:
                found.wrong[why] = _path(came_from, world)
        for what, then in following:
            if then.numbers > EVENTS_MAX:
                found.wrong.setdefault("it runs away", [*_path(came_from, world), what])
            elif then not in came_from:
                came_from[then] = (what, world)
                todo.append(then)
        if len(came_from) > STATES_MAX:
            raise AssertionError("this history is too long to be followed to its ends")
    found.states = len(came_from)
    return found


def _path(came_from: dict[World, Step | None], world: World) -> list[str]:
    path: list[str] = []
    step = came_from[world]
    while step is not None:
        path.append(step[0])
        step = came_from[step[1]]
    return path[::-1]


def judge(world: World, algorithm: Algorithm) -> str:
    """What is wrong with an end; "" where nothing is."""
    if world.row.shared != algorithm.to_row(world.ticket):
        return "the ends differ"
    if world.app_said == UNKNOWN and world.person_said not in (UNKNOWN, world.ticket):
        return "a person's edit was lost, though nobody else edited"
    if world.person_said == UNKNOWN and world.app_said not in (UNKNOWN, world.row.shared):
        return "the app's edit was lost, though nobody else edited"
    return ""


def steps(world: World, algorithm: Algorithm) -> Iterator[Step]:
    """All that may happen next."""
    yield from _edits(world)
    yield from _late_write(world)
    if world.worker is not None:
        yield from _work(world, world.worker, algorithm)
        return
    for event in sorted(world.events):
        yield _hear(world, event, algorithm)
    yield from _settle(world, algorithm)
    if world.looks and not world.sent:
        memory = world.memory._replace(known=world.ticket, mod_count=world.mod_count)
        yield (
            "another write's answer tells of the ticket",
            world._replace(memory=memory, looks=world.looks - 1),
        )
    if not world.sent or not algorithm.settles_first:
        if world.notified:
            yield _look(world._replace(notified=world.notified - 1), algorithm, kept=False)
        if world.inbox:
            yield _look(world._replace(inbox=world.inbox - 1), algorithm, kept=True)
    left = (world.app, world.person, world.events, world.notified, world.inbox, world.sent)
    if not any((*left, world.synced, world.late != UNKNOWN)):
        yield "sync", world._replace(synced=True, inbox=1)


def _edits(world: World) -> Iterator[Step]:
    if world.app:
        which, value = world.app[0]
        new = world.row._replace(**{which: value})
        said = value if which == "shared" else world.app_said
        left = world._replace(app=world.app[1:], app_said=said)
        yield f"the app sets {which} to {value}", _write_row(left, new, mark=UNKNOWN)
    if world.person:
        value = world.person[0]
        left = world._replace(person=world.person[1:])
        if value == ANOTHER:
            yield (
                "a person edits another field",
                left._replace(mod_count=world.mod_count + 1, notified=world.notified + 1),
            )
            return
        left = left._replace(person_said=value)
        if value == world.ticket:
            yield "a person saves what is there", left
            return
        changed = left._replace(ticket=value, mod_count=world.mod_count + 1)
        yield f"a person sets {value}", changed._replace(notified=world.notified + 1)
        if world.losses:
            yield (
                f"a person sets {value}; the notification is lost",
                changed._replace(losses=world.losses - 1),
            )


def _write_row(world: World, new: Image, *, mark: int) -> World:
    if new == world.row:
        return world
    event = RowEvent(world.numbers, world.row, new, mark)
    return world._replace(row=new, events=world.events | {event}, numbers=world.numbers + 1)


def _late_write(world: World) -> Iterator[Step]:
    if world.late == UNKNOWN:
        return
    yield "the late PATCH never commits", world._replace(late=UNKNOWN)
    changed = world.late != world.ticket
    yield (
        f"the late PATCH commits {world.late}",
        world._replace(ticket=world.late, mod_count=world.mod_count + changed, late=UNKNOWN),
    )


def _hear(world: World, event: RowEvent, algorithm: Algorithm) -> Step:
    """An event arrives, and is decided upon."""
    if event.number not in world.heard:
        world = world._replace(
            arrivals=_count(world.arrivals, event), heard=world.heard | {event.number}
        )
    memory, wanted = world.memory, _end(world)
    value = wanted.shared
    if event.old.shared != event.new.shared:
        if event.mark != UNKNOWN and algorithm.knows_marks:
            if event.mark >= memory.written:
                memory = memory._replace(last_sent=event.new.shared)
                if algorithm.raises_marks:
                    memory = memory._replace(written=event.mark)
        elif algorithm.asserts_changes and (
            wanted == event.new or memory.known == event.old.shared
        ):
            memory = memory._replace(last_sent=UNKNOWN)
    named = f"event {event.number} ({event.old.shared} to {event.new.shared})"
    world = _send_own(world._replace(memory=memory), wanted.own, algorithm)
    memory = world.memory
    done = world._replace(events=world.events - {event})
    waits = algorithm.waits_for_steps and _lacks_step(world)
    made_here = event.old.shared != event.new.shared and event.new.shared == value
    if waits and not made_here and memory.last_sent != UNKNOWN:
        return f"{named}: waits for another step", done
    if memory.last_sent == value:
        return f"{named}: nothing", done
    if memory.known == value:
        return f"{named}: known", done._replace(memory=_agree(memory, value, algorithm))
    return f"{named}: sends {value}", _intend(world, value, event.number)


def _agree(memory: Memory, value: int, algorithm: Algorithm) -> Memory:
    """Nothing is sent, because the ticket says *value* already. Somebody else wrote it: of that,
    the app was perhaps not told."""
    shadow = UNKNOWN if algorithm.doubts_agreement and memory.shadow != value else memory.shadow
    return memory._replace(last_sent=value, shadow=shadow)


def _send_own(world: World, value: int, algorithm: Algorithm) -> World:
    """The ticket is told of the row's own value, by a PATCH that is answered: what it says of the
    other is known then."""
    if value == world.memory.own or world.sent:
        return world
    count = world.mod_count + 1
    memory = world.memory._replace(own=value, mod_count=count, known=world.ticket)
    if not algorithm.counts_fields:
        memory = memory._replace(written=count)
    return world._replace(mod_count=count, memory=memory)


def _lacks_step(world: World) -> bool:
    """Whether the row left an image that no event is known to have brought."""
    return any(balance < 0 for _, balance, _ in world.arrivals)


def _intend(world: World, value: int, event: int) -> World:
    memory = world.memory._replace(last_sent=UNKNOWN, known=UNKNOWN)
    worker = Worker("patch", value, 0, done=False, event=event, kept=False)
    return world._replace(memory=memory, worker=worker)


def _count(
    arrivals: tuple[tuple[Image, int, int], ...], event: RowEvent
) -> tuple[tuple[Image, int, int], ...]:
    balances = {image: (balance, last) for image, balance, last in arrivals}
    balance, last = balances.get(event.old, (0, -1))
    balances[event.old] = balance - 1, last
    balance, last = balances.get(event.new, (0, -1))
    balances[event.new] = balance + 1, max(last, event.number)
    return tuple(sorted((image, *counts) for image, counts in balances.items()))


def _end(world: World) -> Image:
    """Where the row's trail ends."""
    entered = [(last, image) for image, balance, last in world.arrivals if balance > 0]
    return max(entered or [(last, image) for image, _, last in world.arrivals if last >= 0])[1]


def _settle(world: World, algorithm: Algorithm) -> Iterator[Step]:
    """A write in doubt is looked for once it cannot commit any more."""
    if not world.sent or world.late != UNKNOWN:
        return
    seen, value = world.ticket, _end(world).shared
    memory = world.memory._replace(known=seen, mod_count=world.mod_count)
    if algorithm.keeps_sent and seen in world.sent:
        memory = memory._replace(shadow=seen, written=world.mod_count)
    settled = world._replace(memory=memory, sent=())
    if seen == value:
        agreed = settled._replace(memory=_agree(memory, value, algorithm))
        yield "settled: the ticket says what the row says", agreed
    else:
        yield f"settled: sends {value}", _intend(settled, value, UNKNOWN)


def _look(world: World, algorithm: Algorithm, *, kept: bool) -> Step:
    """The ticket is looked at, and compared with what the app was last given."""
    memory, seen = world.memory, world.ticket
    base = memory.shadow if algorithm.shadow else memory.known
    if seen == base:
        same = memory._replace(known=seen, mod_count=world.mod_count)
        return "a look: nothing new", world._replace(memory=same)
    shadow = UNKNOWN if algorithm.forgets_before else memory.shadow
    known = seen if algorithm.knows_before else memory.known
    memory = memory._replace(known=known, shadow=shadow, mod_count=world.mod_count)
    worker = Worker("mutate", seen, world.mod_count, done=False, event=UNKNOWN, kept=kept)
    return f"a look: sees {seen}", world._replace(memory=memory, worker=worker)


def _work(world: World, worker: Worker, algorithm: Algorithm) -> Iterator[Step]:
    calls = _patch if worker.kind == "patch" else _mutate
    yield from calls(world, worker, algorithm)


def _patch(world: World, worker: Worker, algorithm: Algorithm) -> Iterator[Step]:
    value = worker.value
    died = world._replace(worker=None, crashes=world.crashes - 1, sent=(*world.sent, value))
    if not worker.done:
        changed = value != world.ticket
        answered = worker._replace(done=True, value=value, mod_count=world.mod_count + changed)
        yield (
            f"PATCH {value}",
            world._replace(ticket=value, mod_count=answered.mod_count, worker=answered),
        )
        if world.crashes:
            yield "a crash before the PATCH", died
            if world.late == UNKNOWN:
                yield "a crash, the PATCH under way", died._replace(late=value)
        return
    shadow = value if algorithm.records_writes else world.memory.shadow
    mod_count = max(world.memory.mod_count, worker.mod_count)
    memory = Memory(value, value, shadow, mod_count, mod_count, world.memory.own)
    events = frozenset(event for event in world.events if event.number != worker.event)
    yield "the PATCH is recorded", world._replace(worker=None, memory=memory, events=events)
    if world.crashes:
        yield "a crash after the PATCH", died


def _mutate(world: World, worker: Worker, algorithm: Algorithm) -> Iterator[Step]:
    died = world._replace(worker=None, crashes=world.crashes - 1)
    again = died._replace(inbox=died.inbox + 1)
    if not worker.done:
        new = world.row._replace(shared=algorithm.to_row(worker.value))
        given = _write_row(world, new, mark=worker.mod_count)
        yield f"the row is given {worker.value}", given._replace(worker=worker._replace(done=True))
    else:
        last_sent = worker.value if algorithm.takes_seen else world.memory.last_sent
        memory = world.memory._replace(shadow=worker.value, last_sent=last_sent)
        yield "the mutation is recorded", world._replace(worker=None, memory=memory)
    if world.crashes:
        # A notification is not sent again, but `sync` comes; what the inbox has stays there.
        when = "after" if worker.done else "before"
        yield f"a crash {when} the mutation", again if worker.kept or world.synced else died
