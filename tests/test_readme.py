"""README and the pages in docs/ say what the code does."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from function.cli.main import commands
from function.core.outcome import Reason
from function.rules import loader as rules
from function.rules.filters import FILTERS_OFFERED
from function.rules.schema import (
    DATA_KEYS,
    MUTATE_KEYS,
    NOTE_KEYS,
    POST_KEYS,
    RULE_KEYS,
    TICKET_KEYS,
    TOP_KEYS,
    schema,
)
from function.servicenow import ServiceNowClient, ServiceNowError
from function.settings import load_settings, table
from sandbox.__main__ import PORTS
from sandbox.servicenow import ServiceNow
from tests.payloads import insert
from tests.processes import find_free_port
from tests.world import World

HERE = Path(__file__).resolve().parent.parent
README = (HERE / "README.md").read_text("utf-8")
DOCS = {file.name: file.read_text("utf-8") for file in (HERE / "docs").glob("*.md")}
ALL = "\n".join((README, *DOCS.values()))
RULES, GUARANTEES = DOCS["rules.md"], DOCS["guarantees.md"]
WORDS_MAX = 1500
BLOCKS = [
    block
    for text in (README, DOCS["deploy.md"], DOCS["hasura.md"], RULES)
    for block in re.findall(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
]
RULES_FILES = [block for block in BLOCKS if block.startswith("version: 1")]
OTHERS = [yaml.safe_load(block) for block in BLOCKS if block not in RULES_FILES]


def _under(heading: str) -> str:
    """The text of the chapter *heading*, in whatever page it is."""
    for page in DOCS.values():
        if found := re.search(rf"^(#+) {heading}$", page, re.MULTILINE):
            return re.split(
                rf"^#{{1,{len(found[1])}}} ", page[found.end() :], maxsplit=1, flags=re.MULTILINE
            )[0]
    raise AssertionError(f"no page has the heading {heading}")


def _errors(of: type[ServiceNowError]) -> list[type[ServiceNowError]]:
    """Those that the client raises, as errors.py draws them."""
    raised = [error for error in of.__subclasses__() if error.__module__ == of.__module__]
    return raised + [error for kind in raised for error in _errors(kind)]


def _triggers() -> list[dict[str, Any]]:
    return [
        trigger
        for block in OTHERS
        if "event_triggers" in block
        for trigger in block["event_triggers"]
    ]


def _cron_triggers() -> list[dict[str, Any]]:
    return [trigger for block in OTHERS if isinstance(block, list) for trigger in block]


def test_the_table_of_settings_is_the_one_that_the_code_has() -> None:
    assert f"\n\n{table()}" in _under("Settings")


@pytest.mark.parametrize("word", [*(reason.value for reason in Reason)])
def test_every_reason_is_named(word: str) -> None:
    assert f"`{word}`" in _under("Answers")


def test_no_reason_is_named_that_there_is_not() -> None:
    listed = _under("Answers").partition("| `reason` |")[2]

    assert set(re.findall(r"`(\w+)`", listed)) == {reason.value for reason in Reason}


@pytest.mark.parametrize("command", sorted(commands.commands))
def test_every_command_is_shown(command: str) -> None:
    assert f"$ python -m function {command}" in _under(
        "Operations"
    ) or f"python -m function {command} " in _under("Operations")


def test_every_option_of_a_command_is_named() -> None:
    options = {
        option
        for command in commands.commands.values()
        for param in command.params
        for option in param.opts
    }

    assert not {
        option
        for option in options
        if option.startswith("--") and option not in _under("Operations")
    }


@pytest.mark.parametrize(
    ("keys", "section"),
    [
        (TOP_KEYS, "| Of the file |"),
        (RULE_KEYS, "| Of a rule |"),
        (TICKET_KEYS, "| Of a ticket |"),
        (MUTATE_KEYS, "| Of a mutation |"),
        (NOTE_KEYS, "| Of a note |"),
        (POST_KEYS, "| Of a post |"),
        (DATA_KEYS, "| Of `data` |"),
    ],
)
def test_every_key_of_the_rules_is_explained(keys: dict[str, str], section: str) -> None:
    rows = f"{RULES}{DOCS['posts.md']}".partition(section)[2].partition("\n\n")[0].splitlines()[2:]
    explained = {key for row in rows for key in re.findall(r"`(\w+)`", row.split("|")[1])}

    assert explained == set(keys)


def test_every_filter_is_named() -> None:
    listed = re.search(r"^Filters: (.*)$", RULES, re.MULTILINE)

    assert listed
    assert set(re.findall(r"`(\w+)`", listed[1])) == FILTERS_OFFERED.keys()


def test_every_field_that_is_refused_is_named() -> None:
    listed = re.search(r"^- Refused under `fields`(.*)$", RULES, re.MULTILINE)
    ticket = schema()["properties"]["rules"]["items"]["properties"]["ticket"]["anyOf"][0]
    refused = re.findall(
        r"\w+",
        ticket["properties"]["fields"]["patternProperties"]
        .popitem()[0]
        .partition("(?:")[2]
        .partition(")")[0],
    )

    assert listed
    assert set(re.findall(r"`(\w+)`", listed[1])) == set(refused)


@pytest.mark.parametrize("text", RULES_FILES)
def test_the_examples_of_rules_load(text: str) -> None:
    assert rules.load_rules(text, environ={"RUNBOOK_URL": "https://wiki.example.com"}).rules


def test_there_are_examples_of_what_is_used_seldom() -> None:
    assert len(RULES_FILES) == 6
    assert all(re.search(word, RULES_FILES[2]) for word in ("each:", "shared: true", "env:"))
    assert re.search("types:", RULES_FILES[3])
    assert re.search("sys_id:", RULES_FILES[4])
    assert re.search("note:", RULES_FILES[5])


def test_there_is_a_trigger_in_readme_and_in_its_page() -> None:
    assert len(_triggers()) == 2


@pytest.mark.parametrize("trigger", _triggers())
def test_the_trigger_for_hasura_is_retried_outlasts_the_deadline_and_keeps_its_secret(
    trigger: dict[str, Any],
) -> None:
    retry, [header] = trigger["retry_conf"], trigger["headers"]

    assert retry["num_retries"] > 0
    assert retry["interval_sec"] > 0
    assert retry["timeout_sec"] > 50
    assert header == {"name": "X-Webhook-Secret", "value_from_env": header["value_from_env"]}
    assert {"insert", "update", "delete"} <= set(trigger["definition"])


def test_the_cron_trigger_for_hasura_is_the_one_that_the_function_knows() -> None:
    [trigger] = _cron_triggers()
    retry, [header] = trigger["retry_conf"], trigger["headers"]

    assert trigger["name"] == "servicenow_housekeeping"
    assert trigger["include_in_metadata"] is True
    assert set(retry) == {
        "num_retries",
        "retry_interval_seconds",
        "timeout_seconds",
        "tolerance_seconds",
    }
    assert retry["num_retries"] > 0
    assert set(header) == {"name", "value_from_env"}


@pytest.mark.parametrize(
    "settings",
    [block for block in OTHERS if isinstance(block, dict) and "SOURCE_NAME" in block],
    ids=["README", "deploy"],
)
def test_the_settings_to_deploy_with_are_all_that_must_be_set(settings: dict[str, str]) -> None:
    elsewhere = {
        "HASURA_EVENT_SECRETS": "a-secret-of-hasura",
        "DATABASE_URL": "postgresql://u:p@/d?host=/cloudsql/p:r:i",
        "SMTP_URL": "smtps://u:p@mail.example.com",
    }

    loaded = load_settings(
        {**settings, **elsewhere, "K_SERVICE": "hasura-servicenow"},
        read_secret=lambda name: f"of {name}",
    )

    assert all(f"{name}=" in README for name in elsewhere)
    assert (
        loaded.servicenow_password
        == "of projects/my-project/secrets/servicenow-password/versions/latest"
    )


def test_the_transcript_is_what_make_run_prints() -> None:
    port = find_free_port()
    command = [
        sys.executable,
        "-m",
        "sandbox",
        "--once",
        f"--port={port}",
        "--servicenow-port=0",
        "--receiver-port=0",
        "--hasura-port=0",
        "--mail-port=0",
    ]

    printed = subprocess.run(
        command, cwd=HERE, capture_output=True, text=True, timeout=60, check=True
    ).stdout

    steps = re.findall(r"^\d\. .*$", printed, re.MULTILINE)
    assert len(steps) == 9
    assert [step for step in steps if step not in README] == []
    assert re.search(r"^ +Subject: .*$", printed, re.MULTILINE)[0] in README  # type: ignore[index]


def _examples_in_python() -> dict[str, str]:
    """Those of docs/python.md by their chapters, word for word."""
    chapters = re.split(r"^#+ (.*)\n", DOCS["python.md"], flags=re.MULTILINE)[1:]
    blocks = {
        title: re.findall(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        for title, text in zip(chapters[::2], chapters[1::2], strict=True)
    }
    return {
        title: block
        for title, [block] in ((title, found) for title, found in blocks.items() if found)
    }


def _printed(example: str, instance: ServiceNow) -> list[str]:
    """What *example* prints as the page says to run it: in the project's folder, with an instance's
    address."""
    code = example.replace("http://127.0.0.1:8091", instance.url)
    command = [sys.executable, "-W", "error", "-c", code]
    run = subprocess.run(command, cwd=HERE, capture_output=True, text=True, timeout=60, check=False)
    assert (run.returncode, run.stderr) == (0, ""), run.stderr
    return run.stdout.splitlines()


def test_the_first_example_in_python_runs_on_the_sandbox() -> None:
    with ServiceNow() as instance:
        listed, closed, refused = _printed(_examples_in_python()["From Python"], instance)

    assert listed == "INC0010001 3 Checkout is down"
    assert closed == "INC0010001 is closed"
    assert refused.startswith("Refused reopening an incident: The incident is closed")


def test_the_example_of_a_critical_error_makes_one_incident_with_a_note_for_each_time() -> None:
    with ServiceNow() as instance:
        printed = _printed(_examples_in_python()["An incident for a critical error"], instance)
        [incident] = instance.rows("incident")
        notes = [entry["value"] for entry in instance.rows("sys_journal_field")]

    assert printed == ["Reported as INC0010001"] * 2
    assert (incident["priority"], incident["category"]) == ("1", "software")
    assert incident["caller_id"]
    assert incident["assignment_group"]
    assert len(notes) == 2
    assert all("ZeroDivisionError: division by zero" in note for note in notes)


def test_the_example_of_a_deployment_opens_its_change_and_closes_it() -> None:
    with ServiceNow() as instance:
        opened, deployed, closed = _printed(
            _examples_in_python()["A change request for a deployment"], instance
        )
        [change] = instance.rows("change_request")
        [note] = instance.rows("sys_journal_field")

    number = opened.removeprefix("Opened ")
    assert re.fullmatch(r"CHG\d+", number)
    assert (deployed, closed) == ("Deploying 3.2.0 ...", f"{number} closed as successful")
    assert (change["number"], change["type"], change["risk"], change["state"]) == (
        number,
        "normal",
        "3",
        "3",
    )
    assert (note["name"], note["element_id"]) == ("change_request", change["sys_id"])


def test_the_example_of_a_meeting_files_each_action_item_once_and_says_which_it_could_not() -> None:
    example = _examples_in_python()["A ticket per action item of a meeting"]
    with ServiceNow() as instance:
        first, again = _printed(example, instance), _printed(example, instance)
        filed = {row["short_description"]: row["number"] for row in instance.rows("incident")}

    assert set(filed) == {"Renew the certificate", "Write the runbook"}
    assert first == again
    assert first[0] == f"Renew the certificate is {filed['Renew the certificate']}"
    assert first[1] == f"Write the runbook is {filed['Write the runbook']}"
    assert first[2].startswith(
        "Book a room for the next review was not filed: what is given for assigned_to is not"
    )
    assert first[3:] == [f"Beth has {filed['Renew the certificate']}"]


def test_the_methods_named_are_those_that_there_are() -> None:
    rows = DOCS["python.md"].partition("|---|---|\n")[2].partition("\n\n")[0].splitlines()
    named = {name for row in rows for name in re.findall(r"`(\w+)`", row.split("|")[1])}
    offered = {name for name in dir(ServiceNowClient) if not name.startswith("_")}

    assert named == offered - {"calls", "close", "rate_limit_per_hour"}


@pytest.mark.parametrize("name", [error.__name__ for error in _errors(ServiceNowError)])
def test_every_error_is_named(name: str) -> None:
    assert f"`{name}`" in DOCS["python.md"]


def test_what_is_said_of_created_at_alone_is_what_the_test_shows() -> None:
    counted = re.search(
        r"\(wrong, right\) == \((\d+), (\d+)\)",
        (HERE / "tests" / "core" / "test_trail.py").read_text("utf-8"),
    )

    assert counted
    assert f"in {counted[1]} of {int(counted[1]) + int(counted[2])}," in GUARANTEES


@pytest.mark.parametrize(
    "reason", [reason for reason in Reason if reason.value.startswith(("servicenow_", "refused_"))]
)
def test_what_servicenow_does_wrong_is_among_the_symptoms(reason: Reason) -> None:
    told_as_they_are = {Reason.UNREACHABLE, Reason.TIMEOUT, Reason.BAD_ANSWER, Reason.REFUSED}

    assert f"`{reason.value}`" in DOCS["servicenow.md"] or reason in told_as_they_are


@pytest.mark.parametrize("name", sorted(DOCS))
def test_every_link_to_another_page_leads_somewhere(name: str) -> None:
    linked = re.findall(r"\]\(([\w./]+\.md)", DOCS[name])

    assert not [link for link in linked if not (HERE / "docs" / link).exists()]
    assert f"docs/{name}" in README


def test_every_file_that_is_named_is_there() -> None:
    named = set(re.findall(r"`((?:function|tests|sandbox)/[\w./]*)`", ALL))

    assert len(named) > 8
    assert not [name for name in named if not (HERE / name).exists()]


def test_every_link_within_has_its_heading() -> None:
    headings = {
        re.sub(r"[^a-z0-9 -]", "", line.lower()).strip().replace(" ", "-")
        for line in re.findall(r"^#+ (.*)$", README, re.MULTILINE)
    }

    assert set(re.findall(r"\]\(#([a-z-]+)\)", README)) <= headings


@pytest.mark.parametrize("place", ["/work", "/root", "/home/", "/usr", str(HERE)])
def test_no_line_names_a_path_of_a_machine(place: str) -> None:
    assert place not in README + "".join(DOCS.values())


def test_it_is_short_enough_to_be_read() -> None:
    assert len(README.split()) <= WORDS_MAX


def test_every_route_is_named() -> None:
    with World() as world:
        routes = {rule.rule for rule in world.apps[0].routes.iter_rules()}

    assert {route for route in routes if f"{route}`" not in _under("Routes")} == set()


def test_the_routes_named_are_those_that_there_are_with_their_methods() -> None:
    with World() as world:
        routes = {
            f"{method} {rule.rule}"
            for rule in world.apps[0].routes.iter_rules()
            for method in (rule.methods or set()) - {"HEAD"}
        }
    rows = [row.split("|")[1] for row in _under("Routes").splitlines() if row.startswith("| `")]
    named = {
        f"{method} {path}"
        for row in rows
        for path in re.findall(r"/[\w/]*", row)
        for method in re.findall(r"[A-Z]{3,}", row)
    }

    assert named == routes


def test_every_table_of_the_ledger_is_named() -> None:
    made: dict[str, None] = {}
    for file in sorted((HERE / "function" / "migrations").glob("*.sql")):
        for create, old, new, drop in re.findall(
            r"CREATE TABLE servicenow\.(\w+)|ALTER TABLE servicenow\.(\w+) RENAME TO (\w+)"
            r"|DROP TABLE servicenow\.(\w+)",
            file.read_text("utf-8"),
        ):
            made.pop(old or drop, None)
            if create or new:
                made[create or new] = None
    listed = _under("The ledger").partition("|---|---|---|\n")[2].partition("\n\n")[0]

    assert set(re.findall(r"^\| `(\w+)` \|", listed, re.MULTILINE)) == set(made)


def test_every_variable_of_make_run_is_named() -> None:
    listed = DOCS["development.md"].partition("| Variable of `make run` |")[2].partition("\n\n")[0]
    variables = {variable for _, variable, _, _ in PORTS}

    assert {name for row in listed.splitlines() for name in re.findall(r"`([A-Z_]+)`", row)} == {
        *variables,
        "RULES_FILE",
        "PROJECT",
    }


@pytest.mark.parametrize(
    "example", re.findall(r"^```json\n(.*?)^```", ALL, re.MULTILINE | re.DOTALL)
)
def test_an_answer_that_is_shown_is_one_that_the_function_gives(example: str) -> None:
    shown = json.loads(example)
    with World() as world:
        given = world.send(
            insert("outages", {"id": 42, "title": "Down", "severity": "major", "status": "open"})
        ).body

    assert given is not None
    assert shown.keys() == given.keys()
    assert [outcome.keys() for outcome in shown["outcomes"]] == [
        outcome.keys() for outcome in given["outcomes"]
    ]
    assert [outcome["status"] for outcome in shown["outcomes"]] == [
        outcome["status"] for outcome in given["outcomes"]
    ]


def test_check_finds_in_wrong_rules_what_the_page_says(tmp_path: Path) -> None:
    page = _under("Operations").partition("$ RULES_FILE=bad.yaml")[2].partition("\n\n")[0]
    (tmp_path / "bad.yaml").write_text(
        """version: 1
rules:
  - name: outage
    from: hasura/outages
    ticket:
      key: "{{ row.id }}"
      fields:
        short_description: "{{ row.title | uper }}"
""",
        "utf-8",
    )
    command = [sys.executable, "-m", "function", "check", "--offline"]
    environ = {
        "PATH": os.environ.get("PATH", ""),
        "PYTHONPATH": str(HERE),
        "SOURCE_NAME": "shop-prod",
        "SERVICENOW_INSTANCE_URL": "dev12345",
        "SERVICENOW_USERNAME": "svc.hasura",
        "SERVICENOW_PASSWORD": "not-a-real-one",
        "RULES_FILE": "bad.yaml",
        "DEADLINE_SECONDS": "soon",
    }

    ended = subprocess.run(
        command, cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=60, check=False
    )

    assert ended.returncode == 1
    assert set(page.splitlines()[1:]) == set((ended.stdout + ended.stderr).splitlines())
