"""The trail of a row: where it ends, in whatever order its steps are heard."""

from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import pairwise, permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from function.core.event import Op
from function.core.step import DesiredState, Step
from function.core.trail import (
    GONE,
    NOT_YET,
    PLACES_MAX,
    Trail,
    current_place,
    is_overtaken,
    lacks_step,
    place,
    record_step,
    replace_desired,
    trail_from_json,
    trail_to_json,
)
from function.core.values import Json

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
NO_WANTS = DesiredState(when=True, resolved=False, gone=False, fields={}, close={})


def step(left: str | None, entered: str, order: Json = None) -> Step:
    return Step("1", Op.UPDATE, left, entered, NO_WANTS, order=order)


def step_count(*steps: tuple[Step, datetime | None]) -> Trail:
    trail = Trail()
    for one, at in steps:
        trail = record_step(trail, one, f"wants of {one.entered}", sent_at=at)
    return trail


def where(trail: Trail) -> str | None:
    reached = current_place(trail)
    return reached.digest if reached else None


def history(*places: str) -> list[tuple[Step, datetime]]:
    """The steps of a row through *places*, a second apart."""
    return [
        (step(left, entered), NOON + timedelta(seconds=number))
        for number, (left, entered) in enumerate(pairwise(places))
    ]


HISTORIES = [
    (NOT_YET, "a"),
    (NOT_YET, "a", "b", "c"),
    (NOT_YET, "a", "b", "a"),
    (NOT_YET, "open", "fixed", "ack", "open"),
    (NOT_YET, "a", "b", GONE),
    (NOT_YET, "a", GONE),
    (NOT_YET, "a", "b", "a", "b"),
    (NOT_YET, "a", "b", "c", "d", "e"),
    ("a", "b", "c"),
]


@pytest.mark.parametrize("places", HISTORIES, ids="-".join)
def test_a_row_is_where_its_history_ends_in_every_order_of_hearing(places: tuple[str, ...]) -> None:
    wrong = [
        order for order in permutations(history(*places)) if where(step_count(*order)) != places[-1]
    ]

    assert not wrong


@pytest.mark.parametrize("places", HISTORIES, ids="-".join)
def test_equal_created_at_changes_nothing_where_the_row_never_came_back_to_its_start(
    places: tuple[str, ...],
) -> None:
    steps = [(one, NOON) for one, _ in history(*places)]

    assert {where(step_count(*order)) for order in permutations(steps)} == {places[-1]}


@pytest.mark.parametrize("places", HISTORIES, ids="-".join)
def test_clocks_that_contradict_the_trail_change_nothing(places: tuple[str, ...]) -> None:
    steps = history(*places)
    backwards = [(one, NOON - (at - NOON)) for one, at in steps]

    assert {where(step_count(*order)) for order in permutations(backwards)} == {places[-1]}


def test_created_at_alone_would_end_wrong_on_the_same_histories() -> None:
    """What the trail is for: the rule that many use, the newest created_at wins, on equal and on
    skewed clocks."""

    def newest(steps: tuple[tuple[Step, datetime], ...]) -> str:
        best = steps[0]
        for candidate in steps[1:]:
            if candidate[1] > best[1]:
                best = candidate
        return best[0].entered

    wrong = right = 0
    for places in HISTORIES:
        for clock in (timedelta(0), -timedelta(seconds=1)):
            steps = [
                (one, NOON + clock * number) for number, (one, _) in enumerate(history(*places))
            ]
            for order in permutations(steps):
                assert where(step_count(*order)) == places[-1]
                if newest(order) == places[-1]:
                    right += 1
                else:
                    wrong += 1

    assert (wrong, right) == (292, 90)


def test_a_delete_and_a_later_insert_end_at_the_new_row_when_clocks_are_right() -> None:
    steps = [*history(NOT_YET, "a", GONE), (step(NOT_YET, "b"), NOON + timedelta(seconds=5))]

    assert {where(step_count(*order)) for order in permutations(steps)} == {"b"}


def transactions(*histories: list[tuple[str, str]]) -> list[tuple[Step, datetime]]:
    """The steps of a row, each list of (left, entered) one transaction, a second apart: its steps
    share a time."""
    return [
        (step(left, entered), NOON + timedelta(seconds=number))
        for number, steps in enumerate(histories)
        for left, entered in steps
    ]


BORN, REPLACED = [(NOT_YET, "a")], [("a", GONE), (NOT_YET, "b")]


@pytest.mark.parametrize(
    ("steps", "last"),
    [
        (transactions(BORN, REPLACED), "b"),
        (transactions(REPLACED), "b"),
        (transactions([*BORN, *REPLACED]), "b"),
        (transactions(BORN, [*REPLACED, ("b", "c")]), "c"),
        (transactions(BORN, [("a", "b"), ("b", GONE), (NOT_YET, "c")]), "c"),
        (transactions(BORN, [*REPLACED, ("b", GONE), (NOT_YET, "c")]), "c"),
        (transactions(BORN, REPLACED, [("b", GONE), (NOT_YET, "c")]), "c"),
        (transactions(BORN, [("a", GONE), (NOT_YET, "a")]), "a"),
        (transactions(BORN, [("a", "b")], [("b", GONE), (NOT_YET, "a")]), "a"),
        (transactions(BORN, [*REPLACED, ("b", GONE)]), GONE),
        (transactions(BORN, REPLACED, [("b", GONE)]), GONE),
        (transactions(BORN, REPLACED, [("b", "c"), ("c", GONE)]), GONE),
        (transactions([("z", "a")], REPLACED), "b"),
        # A column that the trigger does not listen to was changed in between, so that no step leads
        # from a to x.
        (transactions(BORN, [("x", GONE), (NOT_YET, "b")]), "b"),
        (transactions(BORN, [("x", GONE)]), GONE),
        (transactions(BORN, [("a", "b"), ("x", GONE)]), GONE),
        (transactions(BORN, [("x", "b"), ("y", GONE)]), GONE),
        (transactions([("z", "a"), ("x", GONE)]), GONE),
        (transactions(BORN, REPLACED, [("b", "c"), ("x", GONE)]), GONE),
    ],
    ids=lambda value: (
        " ".join(f"{at.second}:{one.left}>{one.entered}" for one, at in value)
        if isinstance(value, list)
        else value
    ),
)
def test_a_row_replaced_in_one_transaction_lives_and_a_deleted_one_does_not(
    steps: list[tuple[Step, datetime]], last: str
) -> None:
    assert {where(step_count(*order)) for order in permutations(steps)} == {last}


def test_an_order_by_that_starts_again_with_the_new_row_hides_no_replacement() -> None:
    steps = [
        (step(NOT_YET, "a", 1), NOON),
        (step("a", GONE, 7), NOON + timedelta(seconds=1)),
        (step(NOT_YET, "b", 1), NOON + timedelta(seconds=1)),
    ]

    assert {where(step_count(*order)) for order in permutations(steps)} == {"b"}


def test_a_row_is_known_to_live_however_many_places_were_left_over_since_its_insert() -> None:
    gaps = [(step(f"from {n}", f"to {n}"), NOON + timedelta(seconds=n + 1)) for n in range(100)]
    replaced = [
        (step("x", GONE), NOON + timedelta(hours=1)),
        (step(NOT_YET, "b"), NOON + timedelta(hours=1)),
    ]
    trails = [
        step_count((step(NOT_YET, "a"), NOON), *gaps, *order) for order in permutations(replaced)
    ]

    assert [where(trail) for trail in trails] == ["b", "b"]


def test_a_round_trip_without_a_beginning_ends_at_the_latest_arrival() -> None:
    steps = [(step("a", "b"), NOON), (step("b", "a"), NOON + timedelta(seconds=1))]

    assert {where(step_count(*order)) for order in permutations(steps)} == {"a"}


def test_order_by_settles_what_equal_clocks_leave_open() -> None:
    steps = [(step("a", "b", 9), NOON), (step("b", "a", 10), NOON)]

    assert {where(step_count(*order)) for order in permutations(steps)} == {"a"}


@pytest.mark.parametrize(
    ("earlier", "later"),
    [
        (9, 10),
        (Decimal("9.5"), 10),
        ("9", "10"),
        ("2026-01-01T08:00:00+02:00", "2026-01-01T07:00:00Z"),
        ("2026-01-01T08:00:00.9", "2026-01-01T08:00:01"),
        ("a", "b"),
    ],
)
def test_order_by_compares_a_value_as_what_it_is(earlier: Json, later: Json) -> None:
    steps = [(step("a", "b", earlier), NOON), (step("b", "a", later), NOON)]

    assert {where(step_count(*order)) for order in permutations(steps)} == {"a"}


def test_manual_says_where_the_row_is_until_it_is_left() -> None:
    asserted = step_count(*history(NOT_YET, "a"), (step(None, "b"), NOON + timedelta(hours=1)))
    left = record_step(asserted, step("b", "c"), "", sent_at=NOON + timedelta(hours=2))

    assert (where(asserted), where(left)) == ("b", "c")


def test_an_older_manual_does_not_move_the_row_back() -> None:
    trail = step_count(*history(NOT_YET, "a", "b"), (step(None, "a"), NOON - timedelta(hours=1)))

    assert where(trail) == "b"


def test_nothing_heard_is_nowhere() -> None:
    assert current_place(Trail()) is None


def test_gaps_leave_no_more_than_a_fixed_number_of_places_and_the_newest_wins() -> None:
    gaps = [(step(f"from {n}", f"to {n}"), NOON + timedelta(seconds=n)) for n in range(200)]
    trail = step_count(*gaps)

    assert (len(trail.places), where(trail)) == (PLACES_MAX, "to 199")


def test_what_is_wanted_at_a_place_can_be_said_anew() -> None:
    trail = replace_desired(step_count(*history(NOT_YET, "a")), "a", "better")

    reached = current_place(trail)
    assert reached is not None
    assert reached.wants == "better"


@given(
    st.lists(st.sampled_from("abcde"), min_size=1, max_size=7, unique=True),
    st.booleans(),
    st.randoms(use_true_random=False),
)
def test_any_history_without_a_repeated_place_ends_right_in_any_order_on_any_clock(
    places: list[str], deleted: bool, random: st.DataObject
) -> None:
    names = [NOT_YET, *places, *([GONE] if deleted else [])]
    steps = [(one, NOON + timedelta(seconds=random.randint(-3, 3))) for one, _ in history(*names)]  # type: ignore[attr-defined]  # random.Random
    random.shuffle(steps)  # type: ignore[attr-defined]  # random.Random

    assert where(step_count(*steps)) == names[-1]


@given(st.lists(st.sampled_from("abc"), min_size=1, max_size=8), st.randoms(use_true_random=False))
def test_any_history_ends_right_in_any_order_when_clocks_are_right(
    places: list[str], random: st.DataObject
) -> None:
    names = [NOT_YET]
    for name in places:
        if name != names[-1]:
            names.append(name)
    steps = history(*names)
    random.shuffle(steps)  # type: ignore[attr-defined]  # random.Random

    assert where(step_count(*steps)) == names[-1]


def lived(data: st.DataObject, *, gaps: bool) -> tuple[list[tuple[Step, datetime]], str]:
    """The steps of a row's life, several statements to a transaction, and where it ends.

    Each image is another, as that of a row with a serial number is. With *gaps* the transactions
    after the first hold changes of columns that the trigger does not listen to, each before a
    DELETE.
    """
    at, here, steps = NOON, NOT_YET, []
    for number in range(data.draw(st.integers(1, 7))):
        later = number > 0 and data.draw(st.booleans())
        at += timedelta(seconds=later)
        if here in (NOT_YET, GONE):
            left, here = NOT_YET, str(number)
        elif data.draw(st.booleans()):
            left, here = here, str(number)
        else:
            unheard = gaps and at > NOON and data.draw(st.booleans())
            left, here = f"{number}, unheard" if unheard else here, GONE
        steps.append((step(left, here), at))
    return steps, here


@settings(max_examples=500)
@given(st.data(), st.booleans())
def test_any_life_of_several_statements_a_transaction_ends_right_in_any_order(
    data: st.DataObject, gaps: bool
) -> None:
    steps, last = lived(data, gaps=gaps)
    arrived = step_count(*data.draw(st.permutations(steps)))

    assert (where(arrived) == GONE) == (last == GONE)
    if not gaps:
        assert where(arrived) == last


@given(
    st.lists(
        st.tuples(st.sampled_from(["a", "b", NOT_YET, None]), st.sampled_from(["a", "b", GONE]))
    )
)
def test_a_trail_is_the_same_after_it_was_written_and_read(
    steps: list[tuple[str | None, str]],
) -> None:
    trail = step_count(*((step(left, entered, Decimal("1.50")), NOON) for left, entered in steps))

    assert trail_from_json(trail_to_json(trail)) == trail


def test_a_place_is_the_same_however_its_image_is_spelled() -> None:
    one = place(
        {"id": 1, "at": "2026-01-01T08:00:00+02:00", "amount": Decimal("1.50"), "note": None}
    )
    other = place(
        {"amount": Decimal("1.5"), "at": "2026-01-01T06:00:00.000+00:00", "id": Decimal(1)}
    )

    assert one == other


def test_a_trail_lacks_a_step_until_each_before_another_has_arrived() -> None:
    first, second, third, last = history(NOT_YET, "a", "b", "c", "d")

    assert not lacks_step(step_count(first, second))
    assert lacks_step(step_count(first, third, last))
    assert lacks_step(step_count(last, first, second))
    assert not lacks_step(step_count(last, first, second, third))


def test_a_row_that_comes_back_lacks_the_step_that_brought_it() -> None:
    first, away, back, again = history(NOT_YET, "a", "b", "a", "c")

    assert lacks_step(step_count(first, away, again))
    assert not lacks_step(step_count(first, away, again, back))


def test_a_row_that_is_older_than_its_trail_lacks_no_step() -> None:
    first, second, third = history("a", "b", "c", "d")

    assert not lacks_step(step_count(first, second))
    assert lacks_step(step_count(first, third))


@pytest.mark.parametrize(
    ("orders", "seconds", "overtaken"),
    [
        ((None, None), (0, 2), True),
        ((None, None), (2, 0), False),
        ((None, None), (0, 0), False),
        ((1, 3), (0, 0), True),
        ((3, 1), (0, 2), False),
        ((1, 1), (0, 2), True),
    ],
)
def test_a_step_is_overtaken_by_a_later_one_to_the_same_place(
    orders: tuple[Json, Json], seconds: tuple[int, int], overtaken: bool
) -> None:
    first, back = step(NOT_YET, "a", orders[0]), step("b", "a", orders[1])
    times = [NOON + timedelta(seconds=each) for each in seconds]
    reached = current_place(
        step_count((first, times[0]), (step("a", "b", 2), NOON), (back, times[1]))
    )

    assert reached is not None
    assert reached.digest == "a"
    assert is_overtaken(reached, first, sent_at=times[0]) is overtaken
