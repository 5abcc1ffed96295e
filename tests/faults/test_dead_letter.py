"""A dead letter's life, from the bad mapping to the recovery mail; what an outage costs a trigger
without retries."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.site import Site, project_with
from tests.processes import HERE

GOOD = """
version: 1
rules:
  - name: outage
    from: hasura/public.outages
    ticket:
      key: "{{ row.id }}"
      fields: {short_description: "{{ row.title }}"}
"""
BAD = GOOD.replace("row.title", "row.titel")


def subjects(site: Site) -> list[str]:
    return [str(message["Subject"]) for message in site.mailbox.messages]


@pytest.mark.parametrize("way", ["replay", "redeliver"])
def test_from_a_bad_mapping_to_the_recovery_mail(postgresql: str, tmp_path: Path, way: str) -> None:
    with Site(
        postgresql, tmp_path, rules=BAD, project=project_with(tmp_path, num_retries=2), functions=1
    ) as site:
        row = site.outage()
        site.settle()
        [dead] = site.events()
        answers = [log["status"] for log in site.invocations(dead["id"])]
        told = subjects(site)
        (tmp_path / "rules.yaml").write_text(GOOD)
        site.functions[0].kill()
        site.functions[0].start()
        if way == "replay":
            replayed = subprocess.run(
                [sys.executable, "-m", "function", "replay", dead["id"]],
                cwd=HERE,
                env=os.environ | site.environ,
                capture_output=True,
                text=True,
                timeout=60,
                check=True,
            ).stdout
            assert "1 created" in replayed
        else:
            site.engines[0].redeliver(dead["id"])
        site.settle()
        [after] = site.events()

        assert dead["error"]
        assert set(answers) == {422}
        assert len(told) == 1
        assert "gave up" in told[0]
        assert after["delivered"] is (way == "redeliver")
        assert [ticket["short_description"] for ticket in site.tickets(row)] == ["Checkout is down"]
        site.until(lambda: len(subjects(site)) == 2)
        assert "over" in subjects(site)[1]


def test_an_outage_of_servicenow_is_survived_without_retries(
    postgresql: str, tmp_path: Path
) -> None:
    with Site(
        postgresql, tmp_path, project=project_with(tmp_path, num_retries=0), functions=1
    ) as site:
        site.servicenow.arm("down", times=8)
        row = site.outage()
        site.settle()
        [event] = site.events()

        assert event["delivered"]
        assert event["tries"] > 1
        assert len(site.tickets(row)) == 1


def test_an_outage_of_the_function_is_an_error_without_retries(
    postgresql: str, tmp_path: Path
) -> None:
    with Site(
        postgresql, tmp_path, project=project_with(tmp_path, num_retries=0), functions=1
    ) as site:
        site.functions[0].kill()
        row = site.outage()
        site.settle()
        [event] = site.events()
        site.functions[0].start()
        site.engines[0].redeliver(event["id"])
        site.settle()

        assert (event["error"], event["tries"]) == (True, 1)
        assert len(site.tickets(row)) == 1


def test_num_retries_lowered_while_an_event_waits(postgresql: str, tmp_path: Path) -> None:
    """Hasura gives up at once what it cannot deliver any more; what the function asked it to send
    again, it sends."""
    with Site(
        postgresql, tmp_path, project=project_with(tmp_path, num_retries=60), functions=1
    ) as site:
        site.servicenow.arm("down", times=12)
        row = site.outage()
        site.settle_until(lambda: site.events()[0]["tries"] >= 3)
        project_with(tmp_path, num_retries=1)
        site.engines[0].apply_metadata()
        site.settle()
        [event] = site.events()

        assert event["delivered"]
        assert event["tries"] > 3
        assert len(site.tickets(row)) == 1
