"""`make run` with rules of one's own. With those that are shipped it is tried in
tests/test_readme.py, with those of the examples in tests/examples/."""

import subprocess
import sys
from pathlib import Path

import pytest

from sandbox.parts import switch_on
from tests.processes import HERE, find_free_port


def run(*options: str) -> subprocess.CompletedProcess[str]:
    port = find_free_port()
    ports = ("--servicenow-port=0", "--hasura-port=0", "--mail-port=0", "--receiver-port=0")
    return subprocess.run(
        [sys.executable, "-m", "sandbox", "--once", f"--port={port}", *ports, *options],
        cwd=HERE,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("version: 1", "version: 2", "rules.yaml:8: version"),
        (
            "servicenow/incident\n",
            "servicenow/x_desk\n",
            "The sandbox's ServiceNow cannot tell of what the rules hear: There is no table x_desk",
        ),
    ],
)
def test_rules_that_cannot_be_tried_are_a_sentence(
    tmp_path: Path, old: str, new: str, said: str
) -> None:
    rules = tmp_path / "rules.yaml"
    text = switch_on((HERE / "rules.yaml").read_text("utf-8"))
    rules.write_text(text.replace(old, new), "utf-8")

    ran = run(f"--rules={rules}")

    assert (ran.returncode, ran.stderr) == (1, "")
    assert said in ran.stdout


def test_rules_that_hear_no_servicenow_and_name_systems_of_the_receiver_run(tmp_path: Path) -> None:
    rules = tmp_path / "rules.yaml"
    text = (HERE / "rules.yaml").read_text("utf-8")
    rules.write_text(text.replace("version: 1", "version: 1\nenv: [SYSTEM_A_URL]"), "utf-8")

    ran = run(f"--rules={rules}")

    assert (ran.returncode, ran.stderr) == (0, "")
    assert "What other systems got:     http://127.0.0.1:" in ran.stdout
    assert "comes back" not in ran.stdout
    assert "INSERT INTO outages" in ran.stdout
