"""What `setup slack` prints, and what `check` says of rules from Slack."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from function.cli.slack_manifest import build_manifest, printed
from function.rules.loader import load_rules
from tests.cli.test_commands import Shell
from tests.processes import HERE
from tests.slack.desk import RULES, SlackWorld
from tests.world import SIGNING_SECRET, World

URL = "https://fn.example.com/tickets"


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with World() as world:
        shell = Shell(world, tmp_path)
        shell.rules.write_text(RULES)
        yield shell


def test_the_manifest_has_the_commands_and_asks_for_no_other_right(shell: Shell) -> None:
    ran = shell.run("setup", "slack", PUBLIC_URL=URL)
    manifest = yaml.safe_load(ran.out)

    assert manifest["features"]["slash_commands"] == [
        {
            "command": "/ops-resolve",
            "url": f"{URL}/slack",
            "description": "Resolve an incident in ServiceNow",
            "usage_hint": "INC0012345 [notes]",
            "should_escape": False,
        },
        {
            "command": "/ops-status",
            "url": f"{URL}/slack",
            "description": "Look up an incident in ServiceNow",
            "usage_hint": "INC0012345",
            "should_escape": False,
        },
    ]
    assert manifest["oauth_config"] == {"scopes": {"bot": ["commands"]}}
    assert "Signing Secret" in ran.out


def test_the_manifest_keeps_to_slacks_limits() -> None:
    rules = "version: 1\nrules:\n" + "".join(
        f"  - {{name: r{number}, from: slack/c{number}, reply: x}}\n" for number in range(60)
    )
    read = load_rules(rules, environ={})
    manifest = build_manifest(read, "s" * 40, URL)

    assert len(manifest["display_information"]["name"]) <= 35
    assert len(manifest["features"]["slash_commands"]) == 50
    assert "usage_hint" not in manifest["features"]["slash_commands"][0]
    left_out = ", ".join(f"/c{number}" for number in range(50, 60))
    assert f"# An app has 50 commands at most. Left out: {left_out}\n" in printed(read, "s", URL)
    assert yaml.safe_load(printed(load_rules(rules, environ={}), "s", URL))


@pytest.mark.parametrize("url", ["", "http://127.0.0.1:8080"])
def test_without_an_address_that_slack_reaches_there_is_no_manifest(shell: Shell, url: str) -> None:
    refused = shell.run("setup", "slack", PUBLIC_URL=url)

    assert (refused.status, refused.out) == (1, "")
    assert "PUBLIC_URL must be set" in refused.err


def test_without_commands_there_is_no_manifest(shell: Shell) -> None:
    shell.rules.write_text((HERE / "rules.yaml").read_text())

    refused = shell.run("setup", "slack", PUBLIC_URL=URL)

    assert refused.status == 1
    assert "there is nothing that Slack has to send" in refused.err


def test_setup_hasura_prints_the_inbox_for_commands_too(shell: Shell, postgresql: str) -> None:
    ran = shell.run("setup", "hasura", DATABASE_URL=postgresql)

    assert "name: servicenow_inbox" in ran.out


def test_check_says_what_rules_from_slack_lack(shell: Shell) -> None:
    ran = shell.run("check", "--offline")

    assert "warning: SLACK_SIGNING_SECRET is not set: every command" in ran.out
    assert "warning: SLACK_ALLOWED_TEAMS is not set: every command" in ran.out
    assert "warning: PUBLIC_URL is not set" in ran.out
    assert "warning: DATABASE_URL is SQLite's" in ran.out
    assert "in order, 2 rules" in ran.out
    assert ran.status == 0


def test_check_says_nothing_of_slack_where_all_is_set(shell: Shell, postgresql: str) -> None:
    project = shell.folder / "hasura"
    shutil.copytree(HERE / "examples" / "chatops", project)
    shell.rules.write_text((HERE / "examples" / "chatops.yaml").read_text())

    ran = shell.run(
        "check",
        "--offline",
        DATABASE_URL=postgresql,
        PUBLIC_URL=URL,
        HASURA_GRAPHQL_URL="http://localhost:8080/v1/graphql",
        SERVICENOW_WEBHOOK_SECRETS="planted-nowhere-else",
        SLACK_SIGNING_SECRET=SIGNING_SECRET,
        SLACK_ALLOWED_TEAMS="T0123ABCD",
        AGENT_URL="https://agent.example.com/hook",
        AGENT_SECRET="planted-nowhere-else",
        SLACK_CHANNEL_URL="https://hooks.slack.com/services/T0/B0/planted",
    )

    assert (ran.status, ran.err) == (0, "")
    assert "warning" not in ran.out


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("SLACK_ALLOWED_TEAMS", "acme", "must be the id of a workspace such as T0123ABCD"),
        ("SLACK_ALLOWED_USERS", "U0123ABCD,@ada", "must be the id of a person such as U0123ABCD"),
        ("SLACK_ALLOWED_USERS", " , ,", "must be the id of a person such as U0123ABCD"),
        ("SLACK_SIGNING_SECRET", "short", "must be a secret of 16 or more characters"),
        ("SLACK_SANDBOX_URL", "https://example.com", "must be on this machine"),
        ("SLACK_SANDBOX_URL", "http://127.0.0.1:8093/x", "must be on this machine"),
    ],
)
def test_a_wrong_setting_is_named(shell: Shell, name: str, value: str, said: str) -> None:
    settings = {name: value}
    ran = shell.run("check", "--offline", stdin=b"", **settings)

    assert ran.status == 1
    assert f"{name} {said}" in ran.err


def test_replay_leaves_a_dead_command_as_it_is(tmp_path: Path) -> None:
    with SlackWorld() as world:
        shell = Shell(world, tmp_path)
        shell.rules.write_text(RULES)
        world.type(f"/ops-resolve {world.open_incident()['number']}")
        world.clock.advance(26 * 60)
        world.work()

        ran = shell.run("replay", "--failed")

        assert (ran.status, ran.err) == (0, "")
        assert "a command of Slack's is not replayed" in ran.out
        assert ran.lines[-1] == "1 left as it is"
        assert world.incident["state"] == "1"
