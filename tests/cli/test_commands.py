"""`python -m function …`, as processes of their own."""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psycopg
import pytest

from function.settings import VARIABLES
from sandbox.servicenow import ServiceNow
from tests.mailserver import MailServerFixture
from tests.payloads import cron, delete, encode, envelope, insert, update
from tests.processes import HERE
from tests.world import (
    PASSWORD,
    POST_TOKEN,
    ROW_TEXT,
    RULES,
    SECRET,
    STORED_PASSWORD,
    TOLD,
    World,
    outage,
)

# Major and critical outages are mapped; what is odd is not, until the rules are put right.
BROKEN = RULES.replace(
    "when: row.severity in ['major', 'critical']", "when: row.severity != 'minor'"
)
MENDED = BROKEN.replace("'minor': 3", "'odd': 3")
BACK = """\
  - name: back
    from: servicenow/incident
    when: row.state == '6'
    mutate:
      query: |
        mutation Back($id: bigint!) { update_outages_by_pk(pk_columns: {id: $id}) { id } }
      variables: {id: "{{ link.key }}"}
"""


@dataclass(frozen=True)
class Ran:
    """How a command ended, and what it printed."""

    status: int
    out: str
    err: str

    @property
    def lines(self) -> list[str]:
        return self.out.splitlines()


class Shell:
    """Runs commands as an operator does, beside a world."""

    def __init__(self, world: World, folder: Path) -> None:
        self.world = world
        self.folder = folder
        self.rules = folder / "rules.yaml"
        self.rules.write_text(BROKEN)

    def run(self, *arguments: str, stdin: bytes = b"", **settings: str) -> Ran:
        """Run one command; whatever it says, it says no secret."""
        environ = {
            **self.world.environ,
            "RULES_FILE": str(self.rules),
            "PATH": os.environ["PATH"],
            "PYTHONPATH": str(HERE),
            **settings,
        }
        ended = subprocess.run(
            [sys.executable, "-m", "function", *arguments],
            cwd=self.folder,
            env=environ,
            input=stdin,
            capture_output=True,
            timeout=60,
            check=False,
        )
        ran = Ran(ended.returncode, ended.stdout.decode(), ended.stderr.decode())
        assert SECRET not in ran.out + ran.err
        assert PASSWORD not in ran.out + ran.err
        assert "Traceback" not in ran.err
        if arguments[0] != "explain":
            # What explain is for is to show what would be said of a row.
            TOLD.append(ran.out + ran.err)
        return ran

    def die(self, *events: str, key: int = 1) -> None:
        """Have *events* become dead letters: one row each, from *key* on, with a severity that no
        rule knows."""
        for number, event in enumerate(events):
            answer = self.world.send(
                insert("outages", outage(key + number, severity="odd"), id=event)
            )
            assert answer.said == "dead unknown_value"
        self.world.servicenow.forget()


@pytest.fixture
def shell(tmp_path: Path) -> Iterator[Shell]:
    with World(rules=BROKEN) as world:
        yield Shell(world, tmp_path)


def without_its_database(url: str) -> str:
    """The same server, and a database that is not there."""
    return re.sub(r"/t[0-9a-f]{32}\?", "/no_such_one?", url)


# setup business-rule


def test_setup_business_rule_says_where_no_rule_hears_servicenow(shell: Shell) -> None:
    refused = shell.run("setup", "business-rule", "--scope", "x_acme_app", "--user", "svc")

    assert refused.status == 1
    assert refused.out == ""
    assert "rules.yaml is from servicenow/TABLE: there is nothing" in refused.err


def test_setup_business_rule_says_where_the_rules_are_not_there(shell: Shell) -> None:
    refused = shell.run("setup", "business-rule", RULES_FILE="none.yaml")

    assert refused.status == 1
    assert "none.yaml: there is no such file" in refused.err


# migrate


def test_migrate_brings_the_ledger_up_to_date_and_says_so(shell: Shell) -> None:
    first = shell.run("migrate")
    second = shell.run("migrate")

    assert (first.status, first.out) == (
        0,
        "applied migration 0001, 0002, 0003, 0004, 0005, 0006, 0007, 0008, 0009, 0010, 0011\n",
    )
    assert (second.status, second.out) == (0, "the ledger is up to date\n")


def test_migrate_without_a_database_is_one_sentence(shell: Shell) -> None:
    refused = shell.run("migrate", DATABASE_URL=f"postgresql://u:{PASSWORD}@127.0.0.1:1/none")

    assert refused.status == 1
    assert "check DATABASE_URL" in refused.err


def test_migrate_says_what_the_server_said(shell: Shell, postgresql: str) -> None:
    refused = shell.run("migrate", DATABASE_URL=without_its_database(postgresql))

    assert refused.status == 1
    assert "3D000 database" in refused.err
    assert "does not exist" in refused.err


def test_migrate_refuses_a_database_that_cannot_hold_every_text(
    shell: Shell, postgresql_unfit: str
) -> None:
    refused = shell.run("migrate", DATABASE_URL=postgresql_unfit)

    assert refused.status == 1
    assert (
        "which cannot hold every text that a row may: make one with CREATE DATABASE" in refused.err
    )
    assert refused.err.count("\n") == 1


# check


def test_check_refuses_a_database_that_cannot_hold_every_text(
    shell: Shell, postgresql_unfit: str
) -> None:
    shell.rules.write_text(RULES)

    bad = shell.run("check", DATABASE_URL=postgresql_unfit)

    assert bad.status == 1
    assert bad.err.startswith("DATABASE_URL: the database's encoding is ")
    assert "ENCODING 'UTF8'" in bad.err
    assert not shell.world.servicenow.calls


def test_check_says_what_the_server_said(shell: Shell, postgresql: str) -> None:
    shell.rules.write_text(RULES)

    bad = shell.run("check", DATABASE_URL=without_its_database(postgresql))

    assert "3D000 database" in bad.err
    assert "PoolTimeout" not in bad.err


def test_check_says_what_is_in_order(shell: Shell) -> None:
    good = shell.run("check", "--offline")

    assert good.status == 0
    assert good.lines == [
        f"settings: in order (shop to {shell.world.servicenow.url})",
        f"{shell.rules}: in order, 1 rule",
        "  outage: hasura/public.outages -> incident",
        "Hasura's triggers: not checked; name the folder of your Hasura project with --hasura DIR",
    ]
    assert not shell.world.calls()
    assert not shell.world.ledger_file.exists()


def test_check_names_every_fault_of_settings_and_rules_at_once(shell: Shell) -> None:
    shell.rules.write_text(
        RULES.replace("from: hasura/public.outages", "from: hasura/outages").replace("row.id", "i")
    )

    bad = shell.run(
        "check",
        "--offline",
        SOURCE_NAME="",
        DEADLINE_SECONDS="soon",
        SMTP_URL=f"smtp://u:{PASSWORD}@h",
    )

    told = bad.err.splitlines()
    assert bad.status == 1
    assert [line.split(" ")[0].rstrip(":") for line in told] == [
        "SOURCE_NAME",
        "SMTP_URL",
        "DEADLINE_SECONDS",
        "rules.yaml:5",
        "rules.yaml:8",
        "5",
    ]


def test_check_warns_of_what_is_allowed_and_seldom_meant(shell: Shell) -> None:
    bare = shell.run(
        "check", "--offline", HASURA_EVENT_SECRETS="", SMTP_URL="", NOTIFY_TO="", NOTIFY_FROM=""
    )

    assert bare.status == 0
    assert [line.split(" is ")[0] for line in bare.lines[:2]] == [
        "warning: HASURA_EVENT_SECRETS",
        "warning: SMTP_URL",
    ]


def test_check_names_what_rules_from_servicenow_need_of_the_settings(shell: Shell) -> None:
    shell.rules.write_text(RULES + BACK)

    without = shell.run("check", "--offline", HASURA_GRAPHQL_URL="")
    told = shell.run(
        "check",
        "--offline",
        HASURA_GRAPHQL_URL="https://hasura.example.com/v1/graphql",
        SERVICENOW_WEBHOOK_SECRETS="",
    )

    assert without.status == 1
    assert without.err.startswith("HASURA_GRAPHQL_URL must be set")
    assert not any("in order" in line for line in without.lines)
    assert told.status == 0
    assert (
        "warning: SERVICENOW_WEBHOOK_SECRETS is not set: every notification of ServiceNow's will "
        "be answered 401"
    ) in told.lines
    assert "  back: servicenow/incident -> mutation Back" in told.lines


def test_check_reads_the_triggers_of_the_hasura_project_that_is_named(shell: Shell) -> None:
    good = shell.run(
        "check", "--offline", "--hasura", str(HERE / "hasura"), RULES_FILE=str(HERE / "rules.yaml")
    )

    assert good.status == 0
    assert good.lines[-1] == f"{HERE / 'hasura'}: in order, 4 event triggers, 2 cron triggers"


def test_check_reads_the_hasura_project_beside_it_and_names_its_faults_with_the_others(
    shell: Shell,
) -> None:
    shutil.copytree(HERE / "hasura", shell.folder / "hasura")

    bad = shell.run(
        "check", "--offline", SOURCE_NAME="", RULES_FILE="missing.yaml", DEADLINE_SECONDS="60"
    )
    unwanted = shell.run("check", "--offline")

    # Without settings and rules in order, what the triggers are by themselves is checked all the
    # same.
    assert [line.split(" ")[0] for line in bad.err.splitlines()] == [
        "SOURCE_NAME",
        "missing.yaml:",
        "2",
    ]
    assert unwanted.status == 1
    assert unwanted.err.splitlines() == [
        "hasura/metadata/databases/default/tables/public_meetings.yaml:15: event_triggers[0]: no "
        "rule is for hasura/public.meetings, so every event would be answered 422; add "
        "one, or take it out",
        "hasura/metadata/databases/default/tables/public_outage_comments.yaml:9: "
        "event_triggers[0]: no rule is for hasura/public.outage_comments, so every event would be "
        "answered 422; add one, or take it out",
        "2 to put right",
    ]


def test_check_warns_of_triggers_in_the_way_of_its_other_warnings(shell: Shell) -> None:
    shutil.copytree(HERE / "hasura", shell.folder / "hasura")
    (shell.folder / "hasura/metadata/cron_triggers.yaml").write_text("[]\n")

    warned = shell.run("check", "--offline", RULES_FILE=str(HERE / "rules.yaml"))

    assert warned.status == 0
    assert warned.lines[0].startswith(
        "warning: hasura/metadata/cron_triggers.yaml: has no servicenow_housekeeping"
    )


def test_check_of_a_folder_that_is_no_hasura_project_is_a_fault(shell: Shell) -> None:
    bad = shell.run("check", "--offline", "--hasura", "elsewhere")

    assert bad.status == 1
    assert bad.err.startswith("elsewhere/config.yaml: is not there")


def test_check_asks_the_instance_and_writes_nothing_there(shell: Shell) -> None:
    shell.rules.write_text(RULES)

    good = shell.run("check")

    assert (good.status, good.err) == (0, "")
    assert "  outage: hasura/public.outages -> incident" in good.lines
    url = shell.world.servicenow.url
    none_read = "no record was returned (there are none, or the user may not read them)"
    assert f"{url}: ServiceNow accepts svc.hasura." in good.lines
    assert f"{url}: incident: {none_read}; the user's role itil allows creating them." in good.lines
    assert f"{url}: its roles: itil, snc_basic_auth_api_access." in good.lines
    assert {call.method for call in shell.world.servicenow.calls} == {"GET"}


def test_check_names_what_of_the_instance_does_not_fit_the_rules(shell: Shell) -> None:
    shell.rules.write_text(
        RULES.replace("        impact:", "        assignment_group: Netwok\n        impact:")
    )

    bad = shell.run("check")

    assert bad.status == 1
    assert [line.partition(" is not there")[0] for line in bad.err.splitlines()] == [
        "rules.yaml:11: rules[0].ticket.fields.assignment_group: `Netwok`",
        "1 to put right",
    ]


def test_check_with_a_refused_password_asks_once_and_no_more(shell: Shell) -> None:
    shell.rules.write_text(RULES)
    shell.world.servicenow.password = "changed"

    first, *others = [shell.run("check") for _ in range(4)]

    assert first.status == 1
    assert "check SERVICENOW_USERNAME and SERVICENOW_PASSWORD" in first.err
    assert len(shell.world.servicenow.refused_logins) == 3
    assert "Not tried: 3 tests of this user were refused" in others[-1].err


def test_check_lifts_a_hold_where_the_ledger_says_that_calls_are_held(shell: Shell) -> None:
    shell.rules.write_text(RULES)
    shell.world.servicenow.password = "changed"
    held = shell.world.send(insert("outages", outage(1)))
    shell.world.servicenow.password = PASSWORD

    good = shell.run("check")

    assert held.said == "retrying servicenow_unauthorized"
    assert good.status == 0
    assert shell.world.send(insert("outages", outage(2))).said == "created"


def test_check_asks_the_instance_that_is_stored_over_http(shell: Shell) -> None:
    shell.rules.write_text(RULES)
    with ServiceNow(username="svc.stored", password=STORED_PASSWORD) as other:
        sent = {"instance_url": other.url, "username": "svc.stored", "password": STORED_PASSWORD}
        shell.world.operate("POST", "config", sent)
        good = shell.run("check")

        assert good.status == 0
        assert any(line.startswith(f"{other.url}: signed in as svc.stored") for line in good.lines)
        assert not shell.world.servicenow.calls


def test_check_with_write_probe_writes_a_record_and_the_ledger_remembers_what_it_showed(
    shell: Shell,
) -> None:
    shell.rules.write_text(RULES)

    good = shell.run("check", "--write-probe")
    again = shell.run("check")

    kept = (
        f"{shell.world.servicenow.url}: incident: it keeps the sys_id that a new record is given."
    )
    assert kept in good.lines
    assert kept in again.lines
    [record] = shell.world.servicenow.tables.select("incident")
    assert record["state"] == "8"


def test_check_says_all_of_it_in_json_too(shell: Shell) -> None:
    shell.rules.write_text(
        RULES.replace("        impact:", "        catgory: network\n        impact:")
    )

    bad = shell.run("check", "--json")
    worse = shell.run("check", "--json", SOURCE_NAME="", RULES_FILE="missing.yaml")

    told = json.loads(bad.out)
    assert (bad.status, bad.err) == (1, "")
    assert (told["source"], told["faults"], told["warnings"]) == ("shop", 1, 0)
    assert [found for found in told["findings"] if found["level"] == "fault"] == [
        {
            "level": "fault",
            "where": "rules.yaml:11: rules[0].ticket.fields.catgory",
            "line": 11,
            "what": "incident has no field catgory, and ServiceNow ignores what is sent for it",
            "do": "Did you mean category?",
        }
    ]
    assert [found["where"] for found in json.loads(worse.out)["findings"]] == [
        "SOURCE_NAME",
        "missing.yaml",
    ]


def test_check_of_an_instance_that_does_not_answer_is_one_fault(shell: Shell) -> None:
    shell.rules.write_text(RULES)

    bad = shell.run("check", SERVICENOW_INSTANCE_URL="http://127.0.0.1:1")

    assert bad.status == 1
    assert bad.err.splitlines()[0].startswith(
        "http://127.0.0.1:1: 127.0.0.1 refuses connections to port 1"
    )
    assert bad.err.splitlines()[1:] == ["1 to put right"]


@pytest.mark.parametrize(
    "settings",
    [{"DATABASE_URL": "postgresql://u:p@127.0.0.1:1/none"}, {"LEDGER_MIGRATE": "off"}],
    ids=["away", "new"],
)
def test_check_without_a_ledger_is_a_fault_and_signs_in_nowhere(
    shell: Shell, settings: dict[str, str]
) -> None:
    shell.rules.write_text(RULES)

    bad = shell.run("check", stdin=b"", **settings)

    assert bad.status == 1
    assert bad.err.startswith("DATABASE_URL: the ledger ")
    assert "nobody signs in to ServiceNow without it" in bad.err
    assert not shell.world.servicenow.calls


def test_check_asks_the_instance_whatever_is_wrong_with_the_triggers(shell: Shell) -> None:
    shutil.copytree(HERE / "hasura", shell.folder / "hasura")
    shell.rules.write_text(
        RULES.replace("        impact:", "        catgory: network\n        impact:")
    )

    bad = shell.run("check")

    assert bad.status == 1
    assert "no rule is for hasura/public.meetings" in bad.err
    assert "incident has no field catgory" in bad.err
    assert bad.err.splitlines()[-1] == "3 to put right"


def test_check_says_when_the_instance_was_not_asked(shell: Shell) -> None:
    shell.rules.write_text("version: 2\n")

    bad = shell.run("check")

    assert bad.lines[-1] == "the ServiceNow instance was not asked: settings and rules come first"
    assert json.loads(shell.run("check", "--json").out)["source"] == "shop"
    assert not shell.world.servicenow.calls


def test_check_tells_of_each_table_by_itself(shell: Shell) -> None:
    more = """\
  - name: other
    from: hasura/public.others
    ticket: {table: incidnt, key: "{{ row.id }}", fields: {short_description: x}}
"""
    shell.rules.write_text(RULES + more)

    bad = shell.run("check", "--write-probe")

    url = shell.world.servicenow.url
    assert f"{url}: ServiceNow accepts svc.hasura." in bad.lines
    assert [line.partition(": incidnt")[0] for line in bad.err.splitlines()] == [
        "rules.yaml:17: rules[1].ticket.table",
        "1 to put right",
    ]
    assert not [line for line in bad.lines if "check --write-probe" in line]


def test_check_in_json_is_json_whatever_is_logged(shell: Shell) -> None:
    shell.rules.write_text(RULES)
    sent = {
        "instance_url": "http://127.0.0.1:1",
        "username": "svc.stored",
        "password": STORED_PASSWORD,
    }
    shell.world.operate("POST", "config", sent)

    bad = shell.run("check", "--json", CONFIG_KEY="")

    [fault] = [found for found in json.loads(bad.out)["findings"] if found["level"] == "fault"]
    assert "CONFIG_KEY, which decrypts its password, is not set" in fault["what"]


def test_check_writes_no_probe_offline(shell: Shell) -> None:
    assert shell.run("check", "--offline", "--write-probe").status == 2


# setup


def test_setup_hasura_prints_a_view_for_each_rule(shell: Shell, postgresql: str) -> None:
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.outages (id integer PRIMARY KEY)")

    ran = shell.run("setup", "hasura", DATABASE_URL=postgresql)

    assert (ran.status, ran.err) == (0, "")
    assert "CREATE OR REPLACE VIEW public.ticket_outage AS" in ran.lines


def test_setup_hasura_prints_the_inbox_where_a_rule_is_from_servicenow(
    shell: Shell, postgresql: str
) -> None:
    with psycopg.connect(postgresql, autocommit=True) as connection:
        connection.execute("CREATE TABLE public.outages (id integer PRIMARY KEY)")

    out = shell.run("setup", "hasura", DATABASE_URL=postgresql)
    shell.rules.write_text(RULES + BACK)
    both = shell.run("setup", "hasura", DATABASE_URL=postgresql)

    assert (out.status, both.status, both.err) == (0, 0, "")
    assert not [line for line in out.lines if "servicenow_inbox" in line]
    assert "  - name: servicenow_inbox" in both.lines
    assert "- name: servicenow_sync" in both.lines


def test_setup_hasura_without_the_apps_tables_is_one_sentence(
    shell: Shell, postgresql: str
) -> None:
    sqlite = shell.run("setup", "hasura")
    away = shell.run("setup", "hasura", DATABASE_URL=f"postgresql://u:{PASSWORD}@127.0.0.1:1/none")
    other = shell.run("setup", "hasura", DATABASE_URL=postgresql)

    assert (sqlite.status, away.status, other.status) == (1, 1, 1)
    assert sqlite.err.startswith("Error: DATABASE_URL must name the PostgreSQL that holds both")
    assert (
        away.err == "Error: the app's tables cannot be read: OperationalError: check DATABASE_URL\n"
    )
    assert (
        other.err
        == "Error: rule outage: public.outages is not in this database: check DATABASE_URL\n"
    )


def test_check_warns_of_a_text_key_that_joins_several_values(shell: Shell) -> None:
    shell.rules.write_text(
        RULES.replace('key: "{{ row.id }}"', 'key: "{{ row.shop }}/{{ row.id }}"')
    )

    checked = shell.run("check", "--offline")

    assert checked.status == 0
    [warned] = [line for line in checked.lines if "ticket.key" in line]
    assert warned.startswith(
        "warning: rules.yaml:8: rules[0].ticket.key: joins several values in one text"
    )
    assert warned.endswith('write key: ["{{ row.shop }}", "{{ row.id }}"]')


def test_check_warns_of_a_key_whose_column_has_several_spellings(shell: Shell) -> None:
    shutil.copytree(HERE / "hasura", shell.folder / "hasura")
    later = shell.folder / "hasura/migrations/default/1999999999999_later/up.sql"
    later.parent.mkdir()
    later.write_text(
        "ALTER TABLE public.outages\n  ALTER COLUMN id TYPE interval USING '1 s'::interval;"
    )

    checked = shell.run("check", "--offline")

    [warned] = [line for line in checked.lines if "ticket.key" in line]
    assert warned == (
        "warning: rules.yaml:8: rules[0].ticket.key: reads id, of type interval "
        "(hasura/migrations/default/1999999999999_later/up.sql:2), which is written as the "
        "session's IntervalStyle "
        "says: identify the row by another column"
    )


# explain


def test_explain_says_what_would_be_sent_and_sends_nothing(shell: Shell) -> None:
    file = shell.folder / "event.json"
    file.write_bytes(insert("outages", outage(42, status="fixed"), id="e1"))

    told = shell.run("explain", str(file))

    assert told.status == 0
    assert told.lines[0] == "event e1: INSERT from hasura/public.outages"
    assert told.lines[2:4] == ["rule outage (line 4)", "  key 42: INSERT, incident shop:outage:42"]
    assert f"    short_description: Checkout is down {ROW_TEXT}" in told.lines
    assert "    resolve_when is true: the ticket is resolved" in told.lines
    assert "    close_code: Solution provided" in told.lines
    assert not shell.world.calls()
    assert not shell.world.ledger_file.exists()


def test_explain_says_how_a_change_is_opened_and_closed(shell: Shell) -> None:
    lines = "      table: change_request\n      template: Reboot a switch\n      key:"
    shell.rules.write_text(
        RULES.replace("      key:", lines).replace("Solution provided", "successful")
    )

    told = shell.run("explain", "-", stdin=insert("outages", outage(42, status="fixed")))

    assert "    resolve_when is true: the ticket is resolved, by the states between" in told.lines
    assert "    close_code: successful" in told.lines
    assert "    std_change_producer_version: Reboot a switch" in told.lines
    assert {"    type: standard", "    chg_model: standard"} <= set(told.lines)


def test_explain_computes_the_address_that_the_ticket_gets(shell: Shell) -> None:
    body = insert("outages", outage(42))

    told = shell.run("explain", "-", stdin=body)

    shell.world.send(body)
    assert f"    sys_id {shell.world.incident['sys_id']} (its first ticket)" in told.lines


def test_explain_says_which_ticket_the_row_adopts(shell: Shell) -> None:
    naming = "      sys_id: row.ticket\n      creates: [INSERT]\n      resolve_when:"
    shell.rules.write_text(RULES.replace("      resolve_when:", naming))
    before = outage(42, ticket="AB" * 16, severity="major")
    body = update("outages", before, before | {"severity": "critical"})

    told = shell.run("explain", "-", stdin=body)

    assert told.lines[3:6] == [
        "  key 42: UPDATE, incident shop:outage:42",
        f"    adopts {'ab' * 16}, unless the row has a ticket",
        "    of an adopted ticket, what follows is taken for sent but for impact",
    ]
    assert "opens no ticket" not in told.out


def test_explain_needs_the_rules_alone(shell: Shell) -> None:
    unset = {variable.name: "" for variable in VARIABLES if variable.name != "RULES_FILE"}

    told = shell.run("explain", "-", stdin=insert("outages", outage(42)), **unset)

    assert told.status == 0
    assert "  key 42: INSERT, incident SOURCE_NAME:outage:42" in told.lines
    assert "sys_id" not in told.out


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (insert("outages", outage(severity="odd")), "dead letter (unknown_value): rules.yaml:11"),
        (insert("outages", outage(severity="minor")), "when is false: opens no ticket"),
        (update("outages", outage(1), outage(2)), "key 1: DELETE"),
        (delete("outages", outage()), "the row is gone: on_delete is resolve"),
        (insert("meetings", {"id": 1}), "no rule wants it: it would be answered 422"),
        (cron("servicenow_housekeeping"), "this wakes the housekeeping"),
        (cron("servicenow_sync"), "this has changes in ServiceNow looked for"),
    ],
)
def test_explain_says_what_else_may_come_of_an_event(shell: Shell, body: bytes, words: str) -> None:
    told = shell.run("explain", "-", stdin=body)

    assert told.status == 0
    assert words in told.out


NOTED = (
    RULES
    + """
  - name: comment
    from: hasura/public.outage_comments
    when: row.body != 'x'
    note:
      ticket: outage
      for: "{{ row.outage_id }}"
      key: "{{ row.id }}"
      field: work_notes
      text: "{{ row.body }}"
"""
)
COMMENT = {"id": 7, "outage_id": 42, "body": "[code]Down[/code]"}


def test_explain_says_what_would_be_written_into_whose_journal(shell: Shell) -> None:
    shell.rules.write_text(NOTED)
    shell.world.send(insert("outages", outage(42)))
    shell.world.servicenow.forget()

    told = shell.run("explain", "-", stdin=insert("outage_comments", COMMENT, id="e1"))

    assert told.lines == [
        "event e1: INSERT from hasura/public.outage_comments",
        "",
        "rule comment (line 16)",
        "  key 7: INSERT, work_notes on the ticket of outage 42",
        f"    sys_id {shell.world.incident['sys_id']} (the first ticket)",
        "    text: ［code]Down［/code]",
    ]
    assert not shell.world.calls()


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (delete("outage_comments", COMMENT), "the row is gone: nothing is sent"),
        (insert("outage_comments", COMMENT | {"body": "x"}), "when is false"),
        (insert("outage_comments", COMMENT | {"body": " "}), "the text has no words"),
        (insert("outage_comments", COMMENT | {"outage_id": None}), "it names no ticket"),
        (
            insert(
                "outage_comments", COMMENT, session_variables={"X-Hasura-ServiceNow-Event": "1"}
            ),
            "the row came from ServiceNow: it is not sent back",
        ),
        (
            update("outage_comments", COMMENT | {"body": "Old"}, COMMENT),
            "where another text of it was written, this begins with 'edited: '",
        ),
    ],
)
def test_explain_says_what_else_may_come_of_a_note(shell: Shell, body: bytes, words: str) -> None:
    shell.rules.write_text(NOTED)

    told = shell.run("explain", "-", stdin=body)

    assert told.status == 0
    assert words in told.out


def test_check_names_the_journal_that_a_rule_writes(shell: Shell) -> None:
    shell.rules.write_text(NOTED)

    told = shell.run("check", "--offline")

    assert (
        "  comment: hasura/public.outage_comments -> incident.work_notes, on the tickets of outage"
        in told.lines
    )


POSTS = """
version: 1
env: [A_URL, POST_TOKEN]
rules:
  - name: a
    from: hasura/public.outages
    when: row.severity == 'critical'
    post:
      url: "{{ env.A_URL }}"
      headers: {Authorization: "Bearer {{ env.POST_TOKEN }}"}
      body: {title: "{{ row.title }}"}
"""
POST_DATA = """\
    data:
      query: 'query ($id: Int!) { outages_by_pk(id: $id) { title } }'
      variables: {id: "{{ row.id }}"}
"""
POST_ENVIRON = {"A_URL": f"https://a.example.com/{POST_TOKEN}", "POST_TOKEN": POST_TOKEN}


def test_explain_says_what_would_be_posted_and_of_headers_the_names(shell: Shell) -> None:
    shell.rules.write_text(POSTS)
    body = insert("outages", outage(42), id="e1")

    told = shell.run("explain", "-", stdin=body, **POST_ENVIRON)

    assert told.lines[3:] == [
        "  key e1: INSERT, a post to A_URL",
        "    headers: Authorization",
        f'    body: {{"title": "Checkout is down {ROW_TEXT}"}}',
    ]
    assert POST_TOKEN not in told.out


@pytest.mark.parametrize(
    ("body", "shown"),
    [
        ('{auth: "{{ env.POST_TOKEN }}"}', 'body: {"auth": "(variable POST_TOKEN)"}'),
        ("""{n: "{{ {'4711': 1}[env.NUMBER] }}"}""", "body: not shown, for it is worked out from"),
    ],
)
def test_explain_shows_no_value_of_a_variable_in_a_post(
    shell: Shell, body: str, shown: str
) -> None:
    rules = POSTS.replace("env: [", "env: [NUMBER, ")
    shell.rules.write_text(rules.replace('{title: "{{ row.title }}"}', body))

    told = shell.run(
        "explain", "-", stdin=insert("outages", outage(42)), **POST_ENVIRON, NUMBER="4711"
    )

    assert shown in told.out
    assert POST_TOKEN not in told.out
    assert "471" not in told.out


def test_explain_foresees_a_dead_letter_of_a_header(shell: Shell) -> None:
    shell.rules.write_text(POSTS.replace("Bearer {{ env.POST_TOKEN }}", "{{ row.title }}"))

    told = shell.run(
        "explain", "-", stdin=insert("outages", outage(42, title="a\nb")), **POST_ENVIRON
    )

    assert "dead letter (bad_mapping)" in told.out
    assert "headers.Authorization: gives a control character" in told.out


def test_explain_says_what_else_may_come_of_a_post(shell: Shell) -> None:
    shell.rules.write_text(POSTS.replace("row.title", "data.outages_by_pk.title") + POST_DATA)

    fetched = shell.run("explain", "-", stdin=insert("outages", outage(42)), **POST_ENVIRON)
    low = shell.run(
        "explain", "-", stdin=insert("outages", outage(42, severity="low")), **POST_ENVIRON
    )

    assert "depends on `data`" in fetched.out
    assert "when is false: nothing is sent" in low.out


def test_check_names_the_variable_of_a_post_and_what_its_data_needs(shell: Shell) -> None:
    shell.rules.write_text(POSTS.replace("row.title", "data.outages_by_pk.title") + POST_DATA)

    url = "https://hasura.example.com/v1/graphql"
    without = shell.run("check", "--offline", stdin=b"", **POST_ENVIRON)
    told = shell.run("check", "--offline", stdin=b"", **POST_ENVIRON, HASURA_GRAPHQL_URL=url)

    assert without.status == 1
    assert "HASURA_GRAPHQL_URL must be set" in without.out + without.err
    assert "  a: hasura/public.outages -> a post to A_URL" in told.lines
    assert POST_TOKEN not in told.out + told.err


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"not json", "JSON"),
        (encode({"payload": envelope("outages", "INSERT", None, outage())}), "`payload`"),
    ],
)
def test_explain_refuses_a_body_in_the_words_of_the_answer(
    shell: Shell, body: bytes, words: str
) -> None:
    refused = shell.run("explain", "-", stdin=body)

    assert refused.status == 1
    assert "this would be answered 400" in refused.err
    assert words in refused.err


TYPED = """\
version: 1
types: {hasura/public.events: row.event_type}
rules:
  - name: created
    from: hasura/public.events
    type: [Customer_Created, Customer_Renamed]
    ticket: {key: "{{ row.id }}", fields: {short_description: "{{ row.event_type }}"}}
  - name: every
    from: hasura/public.events
    ticket: {key: "{{ row.id }}", fields: {category: network}}
"""


def test_explain_says_the_type_of_an_event_and_which_rules_name_it(shell: Shell) -> None:
    shell.rules.write_text(TYPED)
    body = insert("events", {"id": 1, "event_type": "CUSTOMER_CREATED"}, id="e1")

    told = shell.run("explain", "-", stdin=body)

    assert told.lines[:4] == [
        "event e1: INSERT from hasura/public.events",
        "type CUSTOMER_CREATED: named by created; every without a `type`",
        "",
        "rule created (line 4)",
    ]


@pytest.mark.parametrize(
    ("event_type", "lines"),
    [
        (
            "Customer_Moved",
            [
                "type Customer_Moved: named by no rule",
                "no rule wants it: it would be answered 422, kept as a dead letter and mailed",
                "no rule in rules.yaml that is `from: hasura/public.events` has the type "
                "`Customer_Moved`: write one, or correct what sends it; did you mean "
                "`Customer_Renamed`?",
            ],
        ),
        (
            None,
            [
                "dead letter (bad_mapping), for every rule: rules.yaml:2: "
                "types.hasura/public.events: is null, and an event must have a type"
            ],
        ),
    ],
)
def test_explain_says_why_an_event_of_no_known_type_has_no_rule(
    shell: Shell, event_type: str | None, lines: list[str]
) -> None:
    shell.rules.write_text(TYPED)

    told = shell.run("explain", "-", stdin=insert("events", {"id": 1, "event_type": event_type}))

    assert told.lines[1:] == lines


def test_check_names_the_types_that_a_rule_hears(shell: Shell) -> None:
    shell.rules.write_text(TYPED)

    told = shell.run("check", "--offline")

    assert "  created: hasura/public.events (Customer_Created, Customer_Renamed) -> incident" in (
        told.lines
    )
    assert "  every: hasura/public.events -> incident" in told.lines


# replay


def test_replay_delivers_a_dead_letter_by_the_rules_as_they_are_now_and_once(shell: Shell) -> None:
    shell.die("e1")
    still = shell.run("replay", "e1")
    shell.rules.write_text(MENDED)

    mended = shell.run("replay", "e1")
    repeated = shell.run("replay", "e1")

    assert (still.status, still.lines[-1]) == (1, "1 dead")
    assert mended.lines == ["[1/1] e1 outage/1: created INC0010001", "1 created"]
    assert (mended.status, repeated.status, repeated.out) == (
        0,
        0,
        "e1: already done\n1 already done\n",
    )
    assert len(shell.world.incidents) == 1


def test_replay_tries_again_what_was_put_right_in_servicenow(shell: Shell) -> None:
    shell.world.servicenow.arm("acl_403", method="POST")
    dead = shell.world.send(insert("outages", outage(), id="e1", current_retry=1))

    allowed = shell.run("replay", "e1")

    assert dead.said == "dead refused_by_acl"
    assert allowed.lines[-1] == "1 created"


def test_replay_delivers_every_event_that_had_the_id(shell: Shell) -> None:
    for key in (1, 2):
        shell.world.send(insert("outages", outage(key, severity="odd"), id="e"))
    shell.world.send(insert("outages", outage(3), id="e"))
    # Of no key: what they have in common is the id alone.
    for title in ("a", "b"):
        shell.world.send(insert("outages", outage(None, title=title), id="e"))
    shell.rules.write_text(MENDED.replace('"{{ row.id }}"', '"{{ row.id or row.title }}"'))

    replayed = shell.run("replay", "e")

    assert replayed.lines[-1] == "4 created"
    assert len(shell.world.incidents) == 5


def test_replay_leaves_an_event_alone_whose_source_this_version_does_not_have(
    shell: Shell,
) -> None:
    """A later version kept it; this one delivers the others."""
    shell.world.send(insert("outages", outage(severity="new"), id="known"))
    shell.world.send(insert("outages", outage(id=2, severity="new"), id="later"))
    shell.world.query("UPDATE servicenow.delivery SET source = 'fax/1' WHERE event = 'later'")

    told = shell.run("replay", "--failed")

    assert told.status == 1
    assert "later: this version does not read events from fax/1" in told.err
    assert told.lines[-1] == "1 dead, 1 unknown"


def test_replay_failed_delivers_every_dead_letter_and_then_none(shell: Shell) -> None:
    shell.die("e1", "e2", "e3")
    shell.rules.write_text(MENDED)

    everything = shell.run("replay", "--failed")
    repeated = shell.run("replay", "--failed")

    assert (everything.status, everything.lines[-1]) == (0, "3 created")
    assert (repeated.status, repeated.out) == (0, "nothing to replay\n")
    assert len(shell.world.incidents) == 3


def test_replay_takes_the_dead_letters_of_a_time_and_of_a_rule_only(shell: Shell) -> None:
    shell.die("e1")
    shell.rules.write_text(MENDED)

    other = shell.run("replay", "--failed", "--rule", "another")
    later = shell.run("replay", "--failed", "--since", "2999-01-01")
    both = shell.run("replay", "--failed", "--since", "2020-01-01T08:00:00Z", "--rule", "outage")

    assert (other.out, later.out) == ("nothing to replay\n", "nothing to replay\n")
    assert both.lines[-1] == "1 created"


def test_replay_of_one_rule_tries_no_other(shell: Shell) -> None:
    second = (
        "\n  - name: second\n    from: hasura/public.outages\n    ticket:\n      key: '{{ "
        "row.id }}'\n"
    )
    second += "      fields: {short_description: '{{ row.titel }}'}\n"
    shell.world.start(rules=BROKEN + second)
    shell.world.send(insert("outages", outage(severity="odd"), id="e1"))
    shell.rules.write_text(MENDED + second.replace("titel", "title"))

    one = shell.run("replay", "e1", "--rule", "second")
    rest = shell.run("replay", "e1")

    assert one.lines == ["[1/1] e1 second/1: created INC0010001", "1 created"]
    assert rest.lines[-1] == "1 created, 1 unchanged"


def test_replay_of_an_event_that_no_rule_wanted_ends_it_once_one_does(shell: Shell) -> None:
    shell.world.send(insert("meetings", {"id": 1, "title": "Weekly"}, id="e1"))
    shell.rules.write_text(
        "version: 1\nrules:\n  - name: meeting\n    from: hasura/public.meetings\n"
        "    ticket: {key: '{{ row.id }}', fields: {short_description: '{{ row.title }}'}}\n"
    )

    wanted = shell.run("replay", "--failed")
    repeated = shell.run("replay", "--failed")

    assert wanted.lines[-1] == "1 created"
    assert repeated.out == "nothing to replay\n"


def test_replay_names_an_event_that_the_ledger_does_not_know(shell: Shell) -> None:
    shell.die("e1")
    shell.rules.write_text(MENDED)

    ran = shell.run("replay", "e1", "nope")

    assert (ran.status, ran.err) == (1, "nope: not in the ledger\n")
    assert ran.lines[-1] == "1 unknown, 1 created"


def test_check_sends_a_mail_where_it_is_asked_to_and_says_what_the_server_said(
    shell: Shell,
) -> None:
    shell.rules.write_text(MENDED)
    with MailServerFixture(refuses=("gone@example.com",)) as server:
        server.replies["full@example.com"] = "452 4.2.2 full"
        to = "ops@example.com,gone@example.com,full@example.com"
        tried = shell.run("check", "--send-mail", SMTP_URL=server.url, NOTIFY_TO=to)

        assert server.envelopes == [["ops@example.com"]]
    assert tried.status == 1
    assert "takes no mail for gone@example.com (550)" in tried.err
    assert "takes no mail for full@example.com for the time being (452)" in tried.out
    assert "took a mail for ops@example.com" in tried.out


def test_check_says_at_which_step_the_mail_server_failed(shell: Shell) -> None:
    shell.rules.write_text(MENDED)
    with MailServerFixture() as server:
        server.fail_with(421)
        tried = shell.run("check", "--send-mail", SMTP_URL=server.url)

    assert tried.status == 1
    assert "sending: refused with 421 not now" in tried.err


def test_check_sends_no_mail_unasked(shell: Shell) -> None:
    shell.rules.write_text(MENDED)
    shell.run("check")

    assert list(shell.world.mails) == []


def test_replay_while_servicenow_is_overloaded_says_when_and_how_to_go_on(shell: Shell) -> None:
    shell.die("e1")
    shell.rules.write_text(MENDED)
    shell.world.servicenow.arm("semaphore_429")

    busy = shell.run("replay", "e1")
    again = shell.run("replay", "e1")

    assert busy.status == 1
    assert busy.lines[0].startswith("[1/1] e1 outage/1: retrying servicenow_overloaded after ")
    assert busy.lines[1:] == ["to try again: python -m function replay e1", "1 retrying"]
    assert (again.status, again.lines[-1]) == (0, "1 created")


@pytest.mark.parametrize(
    "arguments",
    [
        ("replay",),
        ("replay", "e1", "--failed"),
        ("replay", "e1", "--since", "2026-11-21"),
        ("replay", "--failed", "--since", "soon"),
    ],
)
def test_replay_explains_how_it_is_used(shell: Shell, arguments: tuple[str, ...]) -> None:
    refused = shell.run(*arguments)

    assert refused.status == 2
    assert refused.err.startswith("Usage: python -m function replay")


def test_a_command_with_wrong_settings_says_what_is_wrong_and_nothing_else(shell: Shell) -> None:
    refused = shell.run("replay", "--failed", SERVICENOW_PASSWORD="", SOURCE_NAME=f"a {SECRET}")

    assert refused.status == 1
    assert [line.split(" ")[0] for line in refused.err.removeprefix("Error: ").splitlines()] == [
        "SOURCE_NAME",
        "SERVICENOW_PASSWORD",
    ]
