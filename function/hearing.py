"""What an event means by a rule: for each key, where the row was, where it is, and what its ticket should say.

Pure, and never at a loss: what cannot be rendered is a Failure that names the place in the rules file and nothing of
the row.
"""

import json
import re
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from function import trail
from function.choices import not_a_choice
from function.event import (
    Event,
    Failure,
    Json,
    Kind,
    Op,
    Reason,
    Row,
    Step,
    Wants,
    canonical,
    fitted,
    settle_value,
)
from function.states import States
from function.templates import Image, RenderBudget, RenderError, Template

# A key stands in the ledger's primary key, in answers and in mails.
KEY_CHARACTERS_MAX: Final = 255
# Between the parts of a key that is a list; in a part, it and a backslash stand behind a backslash.
KEY_SEPARATOR: Final = "/"
# Each element is a ticket, and each ticket a call: no delivery has time for more.
ELEMENTS_MAX: Final = 500
# Processor time granted beyond one row's; an element of ten fields takes a fraction of it.
ELEMENT_SECONDS: Final = 0.002

# The column that names the template of a standard change.
TEMPLATE: Final = "std_change_producer_version"
CLOSE_NOTES_RESOLVED: Final = "Resolved in the app"
CLOSE_NOTES_GONE: Final = "The row was deleted in the app"


@dataclass(frozen=True, slots=True)
class Saying:
    """A template and where it stands, as ``rules.yaml:17: rules[0].ticket.key``."""

    template: Template
    where: str

    def value(self, names: Mapping[str, Any], budget: RenderBudget) -> Any:
        try:
            return self.template.value(names, budget)
        except RenderError as error:
            raise RenderError(error.sentence, error.reason, where=self.where) from None

    def text(self, names: Mapping[str, Any], budget: RenderBudget, *, in_key: bool = False) -> str:
        try:
            return self.template.text(names, budget, in_key=in_key)
        except RenderError as error:
            raise RenderError(error.sentence, error.reason, where=self.where) from None


@dataclass(frozen=True, slots=True)
class TicketRule:
    """How a rule's tickets live. *resolves*: the rule says when a row is well again.

    *fields* are the columns that the rule writes, *opening* those among them that are written at creation only.
    *closing* are the columns that go with the state of a ticket that ends.
    *leave_empty* are those that are left empty where the row names nobody whom ServiceNow knows.
    *choices* are the values, with labels, that a column takes; of other columns they are not known.
    *where* is the place of each of its keys in the rules file, as ``rules.yaml:17: rules[0].ticket.table``; of one that
    is left out, and of "", the ticket's own.
    """

    table: str
    states: States
    shared: bool
    creates: frozenset[Op]
    after_close: str
    on_delete: str
    on_missing: str
    fields: tuple[str, ...]
    opening: frozenset[str]
    leave_empty: frozenset[str]
    closing: tuple[str, ...]
    choices: Mapping[str, Mapping[str, str]]
    resolves: bool
    where: Mapping[str, str] = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sayings:
    """What a rule gives for a row. *key* has one part, or several where the rule gives a list."""

    key: tuple[Saying, ...]
    fields: Mapping[str, Saying]
    when: Saying | None
    each: Saying | None
    resolve_when: Saying | None
    close_code: Saying | None
    close_notes: Saying | None
    order_by: Saying | None
    template: Saying | None

    def all(self) -> Iterator[Saying]:
        closing = (self.resolve_when, self.close_code, self.close_notes)
        others = (self.when, self.each, *closing, self.order_by, self.template)
        yield from (*self.key, *self.fields.values())
        yield from (saying for saying in others if saying is not None)


@dataclass(frozen=True, slots=True)
class Rule:
    """Which rows become which tickets. *line* is where it stands, *where* says so in words."""

    name: str
    id: str
    source: str
    trigger: str
    ops: frozenset[Op]
    line: int
    where: str
    ticket: TicketRule
    sayings: Sayings = field(repr=False)
    env: Mapping[str, str] = field(repr=False)  # may hold secrets

    def steps(self, event: Event) -> list[Step]:
        """What *event* means for each key. Never raises: what cannot be rendered is a Step that wants a Failure.

        Its key is empty where the key itself could not be rendered; there is one such Step at most.
        """
        try:
            return _Hearing(self, event).steps()
        except RenderError as error:
            failure = error.failure
        except (RecursionError, MemoryError, ArithmeticError, ValueError):
            # Images that cannot even be compared: ten thousand lists in each other, a number without end.
            failure = Failure(Kind.PERMANENT, Reason.BAD_MAPPING, f"{self.where}: the row is nested too deeply")
        return [Step("", event.op, None, event.content, failure)]


@dataclass(frozen=True, slots=True)
class Rules:
    """The rules of a file. *digest* stands for its text and the values of the variables that it names.

    *warnings* are sentences with the file's name and line: what is allowed, and seldom meant.
    """

    rules: tuple[Rule, ...]
    digest: str
    warnings: tuple[str, ...] = ()

    def concerning(self, event: Event) -> tuple[Rule, ...]:
        """The rules whose `from` and `trigger` fit; which of them hear this op is not asked here."""
        return tuple(rule for rule in self.rules if rule.source == event.source and rule.trigger in ("", event.trigger))


class _Hearing:
    """One event as one rule hears it."""

    def __init__(self, rule: Rule, event: Event) -> None:
        self.rule = rule
        self.sayings = rule.sayings
        self.event = event
        self.budget = RenderBudget()
        self.old: Row | None = None
        self.new: Row | None = None
        if event.op is Op.DELETE or (event.op is Op.UPDATE and event.old is not None):
            self.old = self._row(event.old, "old")
        if event.op is not Op.DELETE:
            self.new = self._row(event.new, "new")
        # Each rule would work it out anew, and of a large image that takes a second.
        self.old_place = event.old_place or trail.place(self.old)
        self.new_place = event.new_place or trail.place(self.new)
        # A view of both: a row may have a million columns in a jsonb's stead.
        known = None if event.absent_is_null else ChainMap(self.old or {}, self.new or {})
        self.old_image, self.new_image = Image(self.old, known), Image(self.new, known)
        self.names = {
            "old": self.old_image,
            "new": self.new_image,
            "op": event.op.value,
            "changed": _changed(self.old, self.new) if self._asks("changed") else [],
            "event": _described(event),
            "env": rule.env,
        }

    def steps(self) -> list[Step]:
        before: dict[str, list[Json]] = {}
        failure = None
        if self.old is not None:
            before, failure = self._keys(self.old)
        after: dict[str, list[Json]] = {}
        if self.new is not None:
            # An old image whose key cannot be rendered never had a ticket: only the new one's failure counts.
            after, failure = self._keys(self.new)
        steps = []
        if self.old is not None and (self.new is None or failure is None):
            steps = [self._left(key, items, self.old) for key, items in before.items() if key not in after]
        if self.new is not None:
            steps += [self._entered(key, items, self.new, before) for key, items in after.items()]
        if failure is not None:
            steps.append(Step("", self.event.op, None, self.event.content, failure))
        return steps

    def _row(self, image: Json, which: str) -> Row:
        if not isinstance(image, dict):
            what = f"the event's `{which}` is not a row but another JSON value"
            raise RenderError(what, Reason.NOT_A_ROW, where=self.rule.where)
        return image

    def _asks(self, name: str) -> bool:
        return any(name in saying.template.names for saying in self.sayings.all())

    def _scope(self, image: Row, item: Json) -> dict[str, Any]:
        return {**self.names, "row": self.old_image if image is self.old else self.new_image, "item": item}

    def _place(self, place: str, items: Sequence[Json]) -> str:
        """The place of an element is its row's and its own: an order_by may be the row's, and so may any field."""
        return place if self.sayings.each is None else trail.place(place, *items)

    def _keys(self, image: Row) -> tuple[dict[str, list[Json]], Failure | None]:
        """The image's keys, each with its elements (None without `each`), and why one that there should be is not.

        More than one element is a fault of the row's, unless the ticket is shared.
        """
        found: dict[str, list[Json]] = {}
        failure = None
        try:
            elements = self._elements(image)
        except RenderError as error:
            return {}, error.failure
        for item in elements:
            names = self._scope(image, item)
            try:
                found.setdefault(self._key(names), []).append(item)
            except RenderError as error:
                # A row that deserves no ticket needs no key.
                if failure is None and self._is(self.sayings.when, names, without=True, unsaid=True):
                    failure = error.failure
        return found, failure

    def _elements(self, image: Row) -> list[Json]:
        each = self.sayings.each
        if each is None:
            return [None]
        elements = each.value(self._scope(image, None), self.budget)
        if elements is None:
            return []
        if not isinstance(elements, list):
            raise RenderError("is not a list", where=each.where)
        if len(elements) > ELEMENTS_MAX:
            what = f"has more than {ELEMENTS_MAX} elements, too many tickets for one event"
            raise RenderError(what, where=each.where)
        self.budget.seconds += len(elements) * ELEMENT_SECONDS
        return elements

    def _key(self, names: Mapping[str, Any]) -> str:
        names = {**names, "item": settle_value(names["item"])}
        key = join_key([self._key_part(saying, names) for saying in self.sayings.key])
        if len(key) > KEY_CHARACTERS_MAX:
            what = f"the key is over {KEY_CHARACTERS_MAX} characters"
            raise RenderError(what, Reason.BAD_KEY, where=self.rule.ticket.where["key"])
        return key

    def _key_part(self, saying: Saying, names: Mapping[str, Any]) -> str:
        part = saying.text(names, self.budget, in_key=True)
        if not part.strip():
            what = "the key" if len(self.sayings.key) == 1 else "a part of the key"
            sentence = f"{what} is empty; a row without a key can have no ticket"
            raise RenderError(sentence, Reason.BAD_KEY, where=saying.where)
        if _UNSTORABLE.search(part):
            what = "the key holds a character that no database stores"
            raise RenderError(what, Reason.BAD_KEY, where=saying.where)
        return part

    def _scopes(self, image: Row, items: Sequence[Json]) -> list[dict[str, Any]]:
        """The names for each of the elements under one key; of a ticket that they share, first those for one that
        deserves it."""
        scopes = [self._scope(image, item) for item in items]
        if self.rule.ticket.shared and len(scopes) > 1:
            scopes.sort(key=lambda names: not self._deserves(names))
        return scopes

    def _deserves(self, names: Mapping[str, Any]) -> bool:
        return self._is(self.sayings.when, names, without=True, unsaid=True)

    def _one_key_twice(self, scopes: Sequence[Mapping[str, Any]]) -> Failure | None:
        """Why no ticket can be for all of the elements under one key, where one of them deserves it."""
        if len(scopes) == 1 or self.rule.ticket.shared or not any(map(self._deserves, scopes)):
            return None
        what = "two elements of the list have this key, and a ticket is for one; name what tells them apart"
        return Failure(Kind.PERMANENT, Reason.BAD_KEY, f"{self.rule.ticket.where['key']}: {what}")

    def _entered(self, key: str, items: Sequence[Json], image: Row, before: Mapping[str, Sequence[Json]]) -> Step:
        scopes = self._scopes(image, items)
        names = scopes[0]
        twice = self._one_key_twice(scopes)
        entered = self._place(self.new_place, items)
        if self.event.op is Op.MANUAL:
            return self._step(key, Op.MANUAL, None, entered, names, failure=twice)
        if self.old is None:
            return self._step(key, self.event.op, trail.NOT_YET, entered, names, failure=twice)
        if key not in before:
            return self._step(key, Op.INSERT, trail.NOT_YET, entered, names, failure=twice)
        left = self._place(self.old_place, before[key])
        was = self._scopes(self.old, before[key])[0]
        return self._step(key, Op.UPDATE, left, entered, names, was=was, failure=twice)

    def _left(self, key: str, items: Sequence[Json], image: Row) -> Step:
        names = self._scopes(image, items)[0]
        # Where the row lives on under another key, its new image says when it left this one.
        carried = names if self.new is None else self._scope(self.new, names["item"])
        left = self._place(self.old_place, items)
        return self._step(key, Op.DELETE, left, trail.GONE, names, was=names, gone=True, carried=carried)

    def _step(
        self,
        key: str,
        op: Op,
        left: str | None,
        entered: str,
        names: Mapping[str, Any],
        *,
        was: Mapping[str, Any] | None = None,
        gone: bool = False,
        carried: Mapping[str, Any] | None = None,
        failure: Failure | None = None,
    ) -> Step:
        wants = failure or self._wants(names, gone=gone)
        order = None
        try:
            order = self._order(carried or names)
        except RenderError as error:
            if isinstance(wants, Wants) and wants.when and not gone:
                wants = error.failure
        return Step(
            key,
            op,
            left,
            entered,
            wants,
            was_resolved=was is not None and self._is(self.sayings.resolve_when, was, without=False, unsaid=False),
            was_wanted=was is not None and self._is(self.sayings.when, was, without=True, unsaid=False),
            order=order,
        )

    def _wants(self, names: Mapping[str, Any], *, gone: bool) -> Wants | Failure:
        """What the rule wants said of the row.

        A field that cannot be rendered is a failure only where the row deserves a ticket. Of a row that no longer
        deserves its own, or is gone (Hasura may send but its key then), the ticket keeps what it says there.
        """
        sayings = self.sayings
        strict = not gone
        try:
            when = self._is(sayings.when, names, without=True, unsaid=None if strict else False)
            strict = strict and when
            unsaid = None if when or self.event.op is not Op.INSERT else False
            resolved = not gone and self._is(sayings.resolve_when, names, without=False, unsaid=unsaid)
            fields = self._fields(names, strict=strict)
            close = self._close(names, strict=strict and resolved, gone=gone)
        except RenderError as error:
            return error.failure
        return Wants(when=when, resolved=resolved, gone=gone, fields=fields, close=close)

    def _fields(self, names: Mapping[str, Any], *, strict: bool) -> dict[str, str]:
        fields = {}
        for column, saying in self.sayings.fields.items():
            said = self._text(column, saying, names, strict=strict)
            if said is not None:
                fields[column] = fitted(column, said)
        template = self._text(TEMPLATE, self.sayings.template, names, strict=strict)
        if template is not None:
            if not template.strip() and strict and self.sayings.template is not None:
                what = "names no template for this row"
                raise RenderError(what, Reason.UNKNOWN_VALUE, where=self.sayings.template.where)
            # The instance copies the template's own values into what the rule leaves empty.
            fields |= {"type": "standard", TEMPLATE: template}
        if self.rule.ticket.table == "change_request" and "chg_model" not in self.sayings.fields and "type" in fields:
            # The models that ship are called as the types are (change-management-api).
            fields["chg_model"] = fields["type"]
        return fields

    def _close(self, names: Mapping[str, Any], *, strict: bool, gone: bool) -> dict[str, str]:
        """What goes with the state of a ticket that ends, of what its table has."""
        sayings, ticket = self.sayings, self.rule.ticket
        notes = CLOSE_NOTES_GONE if gone else CLOSE_NOTES_RESOLVED
        said = {
            "close_code": self._text("close_code", sayings.close_code, names, strict=strict)
            or ticket.states.close_code,
            "close_notes": self._text("close_notes", sayings.close_notes, names, strict=strict) or notes,
        }
        return {column: fitted(column, said[column]) for column in ticket.closing if said[column]}

    def _text(self, column: str, saying: Saying | None, names: Mapping[str, Any], *, strict: bool) -> str | None:
        """What *saying* gives for *column*; None where it gives nothing, or nothing that the column takes."""
        if saying is None:
            return None
        try:
            said = saying.text(names, self.budget)
            if wrong := not_a_choice(self.rule.ticket.choices.get(column), said):
                what = f"for this row it is none of ServiceNow's choices; it {wrong}"
                raise RenderError(what, Reason.UNKNOWN_VALUE, where=saying.where)
        except RenderError:
            if strict:
                raise
            return None
        return said

    def _is(self, saying: Saying | None, names: Mapping[str, Any], *, without: bool, unsaid: bool | None) -> bool:
        """Whether *saying* holds. *without* is the answer where the rule has none, *unsaid* where it cannot be said.

        Raises RenderError where *unsaid* is None.
        """
        if saying is None:
            return without
        try:
            return bool(saying.value(names, self.budget))
        except RenderError:
            if unsaid is None:
                raise
            return unsaid

    def _order(self, names: Mapping[str, Any]) -> Json:
        saying = self.sayings.order_by
        order: Json = None if saying is None else saying.value(names, self.budget)
        if saying is not None and (isinstance(order, list | dict) or len(str(order)) > KEY_CHARACTERS_MAX):
            raise RenderError("is neither a number nor a short text, so it orders nothing", where=saying.where)
        return order


def join_key(parts: Sequence[str]) -> str:
    """The key of several *parts*, which no other parts have; one part alone is the key."""
    if len(parts) == 1:
        return parts[0]
    return KEY_SEPARATOR.join(part.replace("\\", "\\\\").replace(KEY_SEPARATOR, f"\\{KEY_SEPARATOR}") for part in parts)


# PostgreSQL stores no NUL, and nobody stores half a character.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def _changed(old: "Row | None", new: "Row | None") -> list[str]:
    """The columns that changed; all of them where there is but one image."""
    if old is None or new is None:
        return list(old or new or ())
    columns = dict.fromkeys([*new, *old])
    return [column for column in columns if not _is_same(old.get(column), new.get(column))]


def _is_same(one: Json, other: Json) -> bool:
    if isinstance(one, str) and isinstance(other, str) and one == other:
        return True
    if isinstance(one, dict | list) and isinstance(other, dict | list):
        return trail.place(one) == trail.place(other)  # their canonical forms may be long
    return canonical(one) == canonical(other)


def _described(event: Event) -> dict[str, Json]:
    schema, _, table = (
        event.source.removeprefix("hasura/").partition(".") if event.source[:7] == "hasura/" else [""] * 3
    )
    return {
        "id": event.id,
        "correlation_id": event.id,
        "op": event.op.value,
        "created_at": event.entered_at.isoformat() if event.entered_at else None,
        "schema": schema,
        "table": table,
        "trigger": event.trigger,
        "session_variables": dict(event.session_variables),
        "trace_id": event.trace_id,
    }


def wants_to_json(wants: Wants) -> str:
    """Write *wants* for the ledger."""
    return json.dumps(
        {
            "when": wants.when,
            "resolved": wants.resolved,
            "gone": wants.gone,
            "fields": dict(wants.fields),
            "close": dict(wants.close),
        },
        separators=(",", ":"),
    )


def wants_from_json(written: str) -> Wants:
    """Read what wants_to_json wrote."""
    return Wants(**json.loads(written))
