"""Clocks are wrong: a host's own, and the one that all instances share."""

import time
from pathlib import Path

from tests.faults.audit import audit
from tests.faults.site import COMMITS_WITHIN_SECONDS, Site
from tests.faults.test_database import load, write_rows


def test_two_instances_whose_hosts_are_ten_minutes_apart(postgresql: str, tmp_path: Path) -> None:
    with Site(postgresql, tmp_path, wall_ahead_seconds=(600.0, -600.0)) as site:
        site.servicenow.arm("commit_late", method="POST", seconds=COMMITS_WITHIN_SECONDS)
        site.servicenow.arm("commit_late", method="PATCH", seconds=COMMITS_WITHIN_SECONDS)
        site.servicenow.arm("rate_limit_429", seconds=30)
        write_rows(site, 30)
        site.heal()
        found = audit(site)

        assert found.tickets == 30
        assert (found.lost, found.duplicated, found.stale) == ([], [], [])


def test_the_shared_clock_steps_back_in_the_middle_of_the_work(
    postgresql: str, tmp_path: Path
) -> None:
    with Site(postgresql, tmp_path) as site:
        for fault in ("commit_late", "commit_then_reset", "error_500"):
            site.servicenow.arm(fault, method="POST", seconds=COMMITS_WITHIN_SECONDS)
        with load(site, rows=40):
            for _ in range(3):
                time.sleep(0.2)
                site.clock.advance(-300)
        site.heal()
        found = audit(site)

        assert found.tickets == 40
        assert (found.lost, found.duplicated, found.stale) == ([], [], [])
