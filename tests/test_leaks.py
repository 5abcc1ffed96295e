"""Runs last: nothing that was planted stands in any log line or answer of the whole run."""

import pytest

from tests.payloads import insert
from tests.world import PASSWORD, ROW_TEXT, SECRET, TOLD, World, outage


@pytest.mark.parametrize("planted", [SECRET, PASSWORD, ROW_TEXT])
def test_no_log_line_and_no_answer_holds_what_was_planted(world: World, planted: str) -> None:
    world.send(insert("outages", outage()))
    world.send(insert("outages", outage(severity=ROW_TEXT)))
    world.send(insert("unruled", outage()))
    world.send(b"not json " + ROW_TEXT.encode())

    assert len(TOLD) > 4
    assert not [told for told in TOLD if planted in told]
    assert any(ROW_TEXT in row["short_description"] for row in world.incidents)
