"""A small run with a target that hangs; the large one is `make hanging`."""

from pathlib import Path

from function.targets.post.guarded import CALLS_AT_ONCE
from tests.faults.hanging_target import run


def test_each_row_gets_its_ticket_though_the_other_system_hangs(
    postgresql: str, tmp_path: Path
) -> None:
    answered, hung = run(60, postgresql, tmp_path, rows_per_second=60.0, latency_seconds=0.02)

    assert (answered.lost, answered.doubled, answered.calls) == (0, 0, 60)
    assert (hung.lost, hung.doubled) == (0, 0)
    assert hung.calls <= 2 * CALLS_AT_ONCE
    assert max(hung.seconds) < 5
