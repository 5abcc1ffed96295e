"""The rules by which a field that is mapped both ways ends the same, tried in a model."""

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from tests.two_way.model import ANOTHER, Algorithm, Ends, begin, explore

SHARED, OWN = "shared", "own"
HISTORIES: list[dict[str, Any]] = [
    {"person": (2,), "looks": 1},
    {"person": (2,), "losses": 1, "looks": 1},
    {"person": (2, 3), "losses": 1, "looks": 1},
    {"person": (2, 3), "crashes": 1},
    {"person": (2, 0), "crashes": 1},
    {"app": ((SHARED, 1),), "crashes": 1},
    {"app": ((SHARED, 1), (OWN, 1)), "crashes": 1},
    {"app": ((SHARED, 1), (SHARED, 2)), "crashes": 1},
    {"app": ((SHARED, 1),), "person": (2,)},
    {"app": ((SHARED, 1),), "person": (2,), "crashes": 1},
    {"app": ((SHARED, 1),), "person": (2, 3), "crashes": 1},
    {"app": ((SHARED, 1),), "person": (2, 0), "crashes": 2},
    {"app": ((SHARED, 1), (SHARED, 0)), "person": (2,)},
    {"app": ((SHARED, 1), (SHARED, 0)), "person": (2,), "crashes": 1},
    {"app": ((SHARED, 1), (SHARED, 0)), "person": (2, 0), "crashes": 1, "losses": 1},
    {"app": ((SHARED, 1), (SHARED, 3)), "person": (2, 0), "looks": 1},
    {"app": ((SHARED, 1), (SHARED, 4)), "person": (ANOTHER,), "crashes": 1},
    {"app": ((SHARED, 1), (SHARED, 0)), "person": (ANOTHER, 2), "crashes": 1},
    {"app": ((SHARED, 0),), "person": (2,), "losses": 1, "looks": 1},
    {"app": ((SHARED, 0), (OWN, 1)), "person": (2,)},
    {"app": ((OWN, 1),), "person": (2,), "crashes": 1, "looks": 1},
    {"app": ((OWN, 1), (SHARED, 0)), "person": (2,), "crashes": 1},
    {"app": ((OWN, 1),), "person": (2, 3)},
    {"app": ((OWN, 1),), "person": (2, 3), "crashes": 1},
    {"app": ((OWN, 1),), "person": (2, 3), "losses": 1},
    {"app": ((OWN, 1), (SHARED, 4)), "person": (2, 3)},
    # Both sides say the same, or again what was there before.
    {"app": ((SHARED, 1),), "person": (1,), "crashes": 1},
    {"app": ((SHARED, 1),), "person": (1, 0)},
    {"app": ((SHARED, 1),), "person": (1, 0), "losses": 1, "looks": 1},
    {"app": ((SHARED, 1), (SHARED, 0)), "person": (1, 2), "looks": 1},
    {"app": ((SHARED, 1), (OWN, 1)), "person": (2, 1)},
    {"app": ((OWN, 1), (SHARED, 1)), "person": (1, 0), "crashes": 1},
]
RULES = (
    "shadow",
    "forgets_before",
    "settles_first",
    "keeps_sent",
    "records_writes",
    "knows_marks",
    "counts_fields",
    "waits_for_steps",
    "raises_marks",
    "doubts_agreement",
)
ALGORITHM = Algorithm()


def coarse(value: int) -> int:
    """Two of the ticket's values are one of the row's."""
    return value - value % 2


def wrong_ends(algorithm: Algorithm) -> Iterator[Ends]:
    return (ends for start in HISTORIES if (ends := explore(begin(**start), algorithm)).wrong)


@pytest.mark.parametrize("history", HISTORIES, ids=str)
def test_every_interleaving_ends_equal_and_loses_no_edit(history: dict[str, Any]) -> None:
    found = explore(begin(**history), ALGORITHM)

    assert found.ends
    assert found.wrong == {}


@pytest.mark.parametrize("rule", RULES)
def test_without_one_of_its_rules_an_interleaving_ends_wrong(rule: str) -> None:
    without: dict[str, Any] = {rule: False}

    assert any(wrong_ends(replace(ALGORITHM, **without)))


def test_a_look_that_is_not_remembered_before_its_mutation_makes_more_of_them_end_wrong() -> None:
    # By itself this rule saves calls alone: what both say is unknown to the shadow, and looked at.
    without_one = replace(ALGORITHM, doubts_agreement=False)
    without_both = replace(without_one, knows_before=False)

    assert len(list(wrong_ends(without_both))) > len(list(wrong_ends(without_one)))


def test_where_marks_are_lost_on_the_way_a_change_that_the_app_makes_still_arrives() -> None:
    unmarked = replace(ALGORITHM, knows_marks=False)

    def differ(algorithm: Algorithm) -> bool:
        return any("the ends differ" in ends.wrong for ends in wrong_ends(algorithm))

    assert differ(replace(unmarked, asserts_changes=False))
    assert not differ(unmarked)


def test_a_ticket_keeps_its_value_where_several_are_one_of_the_rows() -> None:
    start = begin(person=(3,), losses=1, looks=1)
    told = replace(ALGORITHM, to_row=coarse)
    as_sent = replace(told, knows_marks=False, asserts_changes=False, takes_seen=True)

    assert explore(start, told).wrong == {}
    # What the app was given, taken for what was sent, comes back coarser.
    assert "a person's edit was lost, though nobody else edited" in explore(start, as_sent).wrong
