"""What is looked for at the end of every run (conftest's nothing_leaks) is there to be found, and
is not told."""

import pytest

from tests.payloads import insert
from tests.world import PLANTED, ROW_TEXT, TOLD, World, leaks, outage


def test_no_log_line_and_no_answer_holds_what_was_planted(world: World) -> None:
    before = len(TOLD)
    world.send(insert("outages", outage()))
    world.send(insert("outages", outage(severity=ROW_TEXT)))
    world.send(insert("unruled", outage()))
    world.send(b"not json " + ROW_TEXT.encode())

    assert len(TOLD) > before + 4
    assert leaks(TOLD) == []
    assert any(ROW_TEXT in row["short_description"] for row in world.incidents)


@pytest.mark.parametrize("planted", PLANTED)
def test_what_was_planted_would_be_seen(planted: str) -> None:
    assert leaks(["all is well", f"refused: {planted}"]) == [f"refused: {planted}"]
