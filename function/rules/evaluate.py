"""What an event means by a rule: for each key, where the row was, where it is, and what its ticket
should say.

Pure, and never at a loss: what cannot be rendered is a Failure that names the place in the rules
file and nothing of the row.
"""

from collections import ChainMap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final

from function.core import trail
from function.core.event import Event, Op
from function.core.finding import FileLocation
from function.core.outcome import Failure, Reason, Retryability
from function.core.step import STATE, DesiredState, Step
from function.core.values import Json, Row, canonical
from function.rules.budget import RenderBudget, RenderError
from function.rules.keys import KEY_CHARACTERS_MAX, render_key
from function.rules.model import RowTargetRule, Rule, evaluate_condition
from function.rules.template_values import RowImage

# Each element is a ticket, and each ticket a call: no delivery has time for more.
ELEMENTS_MAX: Final = 500
# Processor time granted beyond one row's; an element of ten fields takes a fraction of it.
ELEMENT_SECONDS: Final = 0.002


def evaluate(rule: Rule, event: Event) -> list[Step]:
    """What *event* means for each key of *rule*. Never raises: what cannot be rendered is a Step
    that wants a Failure.

    Its key is empty where the key itself could not be rendered; there is one such Step at most.
    """
    try:
        return _Evaluation(rule, event).steps()
    except RenderError as unsaid:
        failure = unsaid.failure
    except (RecursionError, MemoryError, ArithmeticError, ValueError):
        # Images that cannot even be compared: ten thousand lists in each other, a number without
        # end.
        failure = Failure(
            Retryability.PERMANENT,
            Reason.BAD_MAPPING,
            f"{rule.where}: the row is nested too deeply",
        )
    return [Step("", event.op, None, event.content, failure)]


def names_of(rule: Rule, event: Event, step: Step) -> tuple[dict[str, Any], RenderBudget]:
    """What templates see at *step*: see StepNames, which is for several of an event's."""
    return StepNames(rule, event).find(step)


@dataclass(frozen=True, slots=True)
class RowImages:
    """The row before and after an event, each with what templates see of it; None where there was
    none, or the event does not say."""

    old: "Row | None"
    new: "Row | None"
    old_image: RowImage
    new_image: RowImage


def read_images(event: Event, *, where: FileLocation) -> RowImages:
    """Raises RenderError where an image is no row; *where* is what of the rules file reads it."""
    old = new = None
    if event.op is Op.DELETE or (event.op is Op.UPDATE and event.old is not None):
        old = _read_row(event.old, "old", where)
    if event.op is not Op.DELETE:
        new = _read_row(event.new, "new", where)
    # A view of both: a row may have a million columns in a jsonb's stead.
    known = None if event.absent_is_null else ChainMap(old or {}, new or {})
    return RowImages(old, new, RowImage(old, known), RowImage(new, known))


def _read_row(image: Json, which: str, where: FileLocation) -> Row:
    if not isinstance(image, dict):
        what = f"the event's `{which}` is not a row but another JSON value"
        raise RenderError(what, Reason.NOT_A_ROW, where=where)
    return image


class StepNames:
    """What templates see at the steps of *event* under *rule*, worked out once for all of them."""

    def __init__(self, rule: Rule, event: Event) -> None:
        self.event = event
        self._rule = rule
        self._evaluation: _Evaluation | None = None

    def find(self, step: Step) -> tuple[dict[str, Any], RenderBudget]:
        """The names at *step*, which evaluate() gave of the event, and what its templates may take.

        `op` is what happened to the key: a row that went over to another key is deleted under its
        old one. Raises RenderError.
        """
        try:
            if self._evaluation is None:
                self._evaluation = _Evaluation(self._rule, self.event)
            names = {**self._evaluation.names_at(step), "op": step.op.value}
        except (RecursionError, MemoryError, ArithmeticError, ValueError):
            raise RenderError("the row is nested too deeply", where=self._rule.where) from None
        return names, RenderBudget()


class _Evaluation:
    """One event under one rule."""

    def __init__(self, rule: Rule, event: Event) -> None:
        self.rule = rule
        self.templates = rule.templates
        assert isinstance(rule.target, RowTargetRule)  # noqa: S101  # for the type checker: a rule from a table of the app's has one
        self._target = rule.target
        self.event = event
        self.budget = RenderBudget()
        images = read_images(event, where=rule.where)
        self.old, self.new = images.old, images.new
        # Each rule would work it out anew, and of a large image that takes a second.
        self.old_place = event.old_place or trail.place(self.old)
        self.new_place = event.new_place or trail.place(self.new)
        self.old_image, self.new_image = images.old_image, images.new_image
        self.names = {
            "old": self.old_image,
            "new": self.new_image,
            "op": event.op.value,
            "changed": _changed(self.old, self.new) if self._asks("changed") else [],
            "event": describe_event(event),
            "env": rule.env,
        }

    def steps(self) -> list[Step]:
        before, failure = self._keys_before
        after: dict[str, list[Json]] = {}
        if self.new is not None:
            # An old image whose key cannot be rendered never had a ticket: only the new one's
            # failure counts.
            after, failure = self._keys_after
        steps = []
        if self.old is not None and (self.new is None or failure is None):
            steps = [
                self._left(key, items, self.old)
                for key, items in before.items()
                if key not in after
            ]
        if self.new is not None:
            steps += [self._entered(key, items, self.new, before) for key, items in after.items()]
        if failure is not None:
            steps.append(Step("", self.event.op, None, self.event.content, failure))
        return steps

    def names_at(self, step: Step) -> dict[str, Any]:
        """The names for *step*'s key, at the place that it entered, or left for good."""
        left = step.op is Op.DELETE or self.new is None
        image, (items, _) = (self.old, self._keys_before) if left else (self.new, self._keys_after)
        if image is not None and step.key in items:
            return self._scopes(image, items[step.key])[0]
        raise RenderError("the key is not in the row any more", where=self.rule.where)

    def _asks(self, name: str) -> bool:
        return any(
            name in rule_template.syntax.names for rule_template in self.rule.all_templates()
        )

    def _scope(self, image: Row, item: Json) -> dict[str, Any]:
        return {
            **self.names,
            "row": self.old_image if image is self.old else self.new_image,
            "item": item,
        }

    def _place(self, place: str, items: Sequence[Json]) -> str:
        """The place of an element is its row's and its own: an order_by may be the row's, and so
        may any field."""
        return place if self.templates.each is None else trail.place(place, *items)

    @cached_property
    def _keys_before(self) -> tuple[dict[str, list[Json]], Failure | None]:
        return self._keys(self.old)

    @cached_property
    def _keys_after(self) -> tuple[dict[str, list[Json]], Failure | None]:
        return self._keys(self.new)

    def _keys(self, image: "Row | None") -> tuple[dict[str, list[Json]], Failure | None]:
        """The image's keys, each with its elements (None without `each`), and why one that there
        should be is not.

        More than one element is a fault of the row's, unless the ticket is shared.
        """
        found: dict[str, list[Json]] = {}
        failure = None
        if image is None:
            return found, failure
        try:
            elements = self._elements(image)
        except RenderError as unsaid:
            return {}, unsaid.failure
        for item in elements:
            names = self._scope(image, item)
            try:
                found.setdefault(self._key(names), []).append(item)
            except RenderError as unsaid:
                # A row that is to have no ticket needs no key.
                if failure is None and self._is_wanted(names):
                    failure = unsaid.failure
        return found, failure

    def _elements(self, image: Row) -> list[Json]:
        each = self.templates.each
        if each is None:
            return [None]
        elements = each.value(self._scope(image, None), self.budget)
        if elements is None:
            return []
        if not isinstance(elements, list):
            raise RenderError("is not a list", where=each.where)
        if len(elements) > ELEMENTS_MAX:
            raise RenderError(
                f"has more than {ELEMENTS_MAX} elements, too many {self._target.kind}s for one "
                "event",
                where=each.where,
            )
        self.budget.seconds_left += len(elements) * ELEMENT_SECONDS
        return elements

    def _key(self, names: Mapping[str, Any]) -> str:
        return render_key(
            self.templates.key,
            names,
            self.budget,
            where=self._target.locations["key"],
            called="the key",
            needed=f"a row without a key can have no {self._target.kind}",
        )

    def _scopes(self, image: Row, items: Sequence[Json]) -> list[dict[str, Any]]:
        """The names for each of the elements under one key; of a ticket that they share, first
        those for one that is to have it."""
        scopes = [self._scope(image, item) for item in items]
        if not self._target.follows and len(scopes) > 1:
            scopes.sort(key=lambda names: not self._is_wanted(names))
        return scopes

    def _is_wanted(self, names: Mapping[str, Any], *, unsaid: bool = True) -> bool:
        return evaluate_condition(
            self.templates.when, names, self.budget, without=True, unsaid=unsaid
        )

    def _one_key_twice(self, scopes: Sequence[Mapping[str, Any]]) -> Failure | None:
        """Why no ticket can be for all of the elements under one key, where one of them is to have
        it."""
        if len(scopes) == 1 or not self._target.follows or not any(map(self._is_wanted, scopes)):
            return None
        what = (
            f"two elements of the list have this key, and a {self._target.kind} is for one; name "
            "what tells them apart"
        )
        return Failure(
            Retryability.PERMANENT, Reason.BAD_KEY, f"{self._target.locations['key']}: {what}"
        )

    def _entered(
        self, key: str, items: Sequence[Json], image: Row, before: Mapping[str, Sequence[Json]]
    ) -> Step:
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
        return self._step(
            key, Op.DELETE, left, trail.GONE, names, was=names, gone=True, carried=carried
        )

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
        except RenderError as unsaid:
            if isinstance(wants, DesiredState) and wants.when and not gone:
                wants = unsaid.failure
        return Step(
            key,
            op,
            left,
            entered,
            wants,
            was_resolved=was is not None and self._target.is_resolved(was, self.budget),
            was_wanted=was is not None and self._is_wanted(was, unsaid=False),
            order=order,
            fields_before=self._target.desired_before(was, self.budget) if was else {},
            progress=self._progress(was, wants),
        )

    def _progress(
        self, was: Mapping[str, Any] | None, wants: DesiredState | Failure
    ) -> frozenset[str]:
        """What the row changed, where it named the same ticket before, whether or not it was to
        have one: see Step."""
        if was is None or isinstance(wants, Failure) or not wants.sys_id:
            return frozenset()
        try:
            before = self._target.desired(was, self.budget, op=self.event.op, when=True, gone=False)
        except RenderError:
            return frozenset()
        if before.sys_id != wants.sys_id:
            return frozenset()
        changed = {
            field for field, value in wants.fields.items() if before.fields.get(field) != value
        }
        return frozenset(changed | ({STATE} if wants.resolved and not before.resolved else set()))

    def _wants(self, names: Mapping[str, Any], *, gone: bool) -> DesiredState | Failure:
        """What the rule wants where the row is."""
        try:
            when = evaluate_condition(
                self.templates.when,
                names,
                self.budget,
                without=True,
                unsaid=False if gone else None,
            )
            return self._target.desired(names, self.budget, op=self.event.op, when=when, gone=gone)
        except RenderError as why:
            return why.failure

    def _order(self, names: Mapping[str, Any]) -> Json:
        rule_template = self.templates.order_by
        order: Json = None if rule_template is None else rule_template.value(names, self.budget)
        if rule_template is not None and (
            isinstance(order, list | dict) or len(str(order)) > KEY_CHARACTERS_MAX
        ):
            raise RenderError(
                "is neither a number nor a short text, so it orders nothing",
                where=rule_template.where,
            )
        return order


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


def describe_event(event: Event) -> dict[str, Json]:
    """What templates read of the *event* itself."""
    schema, _, table = (
        event.source.removeprefix("hasura/").partition(".")
        if event.source[:7] == "hasura/"
        else [""] * 3
    )
    return {
        "id": event.id,
        "correlation_id": event.correlation_id,
        "op": event.op.value,
        "created_at": event.created_at.isoformat() if event.created_at else None,
        "schema": schema,
        "table": table,
        "trigger": event.trigger,
        "session_variables": dict(event.session_variables),
        "trace_id": event.trace_id,
    }
