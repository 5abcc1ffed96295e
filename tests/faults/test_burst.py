"""A small burst of commands; the large one is `make burst`."""

from pathlib import Path

from tests.faults.burst import Plan, run


def test_every_command_of_a_burst_is_done_once_and_answered_though_a_function_is_killed(
    postgresql: str, tmp_path: Path
) -> None:
    audit = run(Plan(commands=50, seed=3, latency_seconds=0.05, typists=8), postgresql, tmp_path)

    assert audit.taken + audit.refused.total() == 50
    assert audit.taken >= 40
    assert audit.faults.total() > 5
    assert (audit.unanswered, audit.unresolved, audit.resolved_twice) == ([], [], [])
    assert (audit.other_words, audit.left) == ([], 0)
    assert max(audit.ack_seconds) < 1.0
