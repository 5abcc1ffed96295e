"""A Hasura project is read whole, and what Hasura or this function would not do with it is said by
file and line."""

import re
from pathlib import Path

import pytest
import yaml

from function import app
from function.core.finding import Finding
from function.hasura import way_back
from function.hasura.metadata import MetadataError, locate, read_metadata
from function.hasura.triggers import HOUSEKEEPING, INBOX, SYNC, TriggerReport, check_triggers
from function.rules import loader as rules
from function.rules.yaml_nodes import read_entries, read_items, read_plain
from function.settings import VARIABLES
from sandbox.parts import switch_on
from tests.processes import HERE

RULES = """
version: 1
rules:
  - name: outage
    from: hasura/public.outages
    each: row.parts
    ticket:
      key: "{{ row.id }}/{{ item }}"
      fields: {short_description: "{{ row.title }}"}
"""
TRIGGER = """\
table: {name: outages, schema: public}
event_triggers:
  - name: outages_to_servicenow
    definition:
      enable_manual: true
      insert: {columns: '*'}
      update: {columns: '*'}
      delete: {columns: '*'}
    retry_conf: {num_retries: 60, interval_sec: 60, timeout_sec: 60}
    webhook: '{{SERVICENOW_FUNCTION_URL}}'
    headers:
      - {name: X-Webhook-Secret, value_from_env: SERVICENOW_FUNCTION_SECRET}
"""
CRON = """\
- name: servicenow_housekeeping
  webhook: '{{SERVICENOW_FUNCTION_URL}}'
  schedule: '*/5 * * * *'
  include_in_metadata: true
  headers:
    - {name: X-Webhook-Secret, value_from_env: SERVICENOW_FUNCTION_SECRET}
"""
# What this function does not read of a trigger.
UNREAD = """\
    cleanup_config:
      schedule: 0 0 * * *
      clear_older_than: 168
      batch_sizes: 10000
    trigger_on_replication: false
    webhok: x
"""
SECRET = "{name: X-Webhook-Secret, value_from_env: SERVICENOW_FUNCTION_SECRET}"
SHIPPED = (HERE / "rules.yaml").read_text("utf-8")
RETRY = "{num_retries: 60, interval_sec: 60, timeout_sec: 60}"


class Project:
    """A Hasura project of one table."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        for name, text in (
            ("config.yaml", "version: 3\nmetadata_directory: meta\n"),
            ("meta/version.yaml", "version: 3\n"),
            (
                "meta/databases/databases.yaml",
                '- {name: default, kind: postgres, tables: "!include default/tables.yaml"}\n',
            ),
            ("meta/databases/default/tables.yaml", '- "!include outages.yaml"\n'),
            ("meta/databases/default/outages.yaml", TRIGGER),
            ("meta/cron_triggers.yaml", CRON),
        ):
            self.write(name, text)

    def write(self, name: str, text: str) -> None:
        (self.folder / name).parent.mkdir(parents=True, exist_ok=True)
        (self.folder / name).write_text(text)

    def check(
        self,
        trigger: str = TRIGGER,
        *,
        accounts: str = "",
        cron: str = CRON,
        rules_text: str = RULES,
        deadline_seconds: float = 50,
    ) -> TriggerReport:
        self.write("meta/databases/default/outages.yaml", trigger)
        if accounts:
            self.write("meta/databases/default/accounts.yaml", accounts)
            tables = '- "!include outages.yaml"\n- "!include accounts.yaml"\n'
            self.write("meta/databases/default/tables.yaml", tables)
        self.write("meta/cron_triggers.yaml", cron)
        loaded = rules.load_rules(rules_text, environ={})
        return check_triggers(read_metadata(self.folder), loaded, deadline_seconds=deadline_seconds)


def sentences(findings: list[Finding]) -> list[str]:
    return [str(finding) for finding in findings]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.chdir(tmp_path)
    return Project(Path())


# Reading


def test_what_is_included_stands_in_its_place_and_keeps_its_own_line(project: Project) -> None:
    [source] = read_items(read_metadata(project.folder).sources)

    tables = {key: value for key, _, value in read_entries(source)}["tables"]
    [table] = read_items(tables)
    assert read_plain(table)["event_triggers"][0]["name"] == "outages_to_servicenow"
    assert str(locate(table)) == "meta/databases/default/outages.yaml:1"


def test_a_yaml_tag_includes_as_a_quoted_text_does(project: Project) -> None:
    project.write("meta/databases/default/tables.yaml", "- !include outages.yaml\n")

    assert read_plain(read_metadata(project.folder).sources)[0]["tables"][0]["table"] == {
        "name": "outages",
        "schema": "public",
    }


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("config.yaml", None, "config.yaml: is not there; name the folder of a Hasura CLI project"),
        (
            "meta/version.yaml",
            None,
            "meta: is no Hasura metadata folder (there is no version.yaml)",
        ),
        (
            "meta/databases/default/outages.yaml",
            None,
            "meta/databases/default/tables.yaml:1: includes outages.yaml, which",
        ),
        (
            "meta/databases/default/outages.yaml",
            "a: [\n",
            "meta/databases/default/outages.yaml:2: is no YAML",
        ),
        (
            "meta/databases/default/outages.yaml",
            '- "!include tables.yaml"',
            "meta/databases/default/outages.yaml:1: incl",
        ),
        ("meta/cron_triggers.yaml", "\0", "meta/cron_triggers.yaml: cannot be read: ReaderError"),
        (
            "meta/cron_triggers.yaml",
            "- name: a\n  <<: b\n",
            "meta/cron_triggers.yaml:1: is no YAML: expected a mapping",
        ),
        (
            "meta/databases/default/outages.yaml",
            TRIGGER.replace("num_retries: 60", "num_retries: 0, num_retries: 60"),
            "meta/databases/default/outages.yaml:9: `num_retries` stands in line 9 already",
        ),
    ],
)
def test_what_cannot_be_read_is_said_with_its_place(
    project: Project, name: str, text: str | None, said: str
) -> None:
    if text is None:
        (project.folder / name).unlink()
    else:
        project.write(name, text)

    with pytest.raises(MetadataError) as refused:
        read_metadata(project.folder)

    assert str(refused.value.faults[0]).startswith(said)


def test_a_project_without_databases_and_cron_triggers_has_none(project: Project) -> None:
    (project.folder / "meta/databases/databases.yaml").unlink()
    (project.folder / "meta/cron_triggers.yaml").unlink()

    found = check_triggers(read_metadata(project.folder), None, deadline_seconds=None)

    assert (found.event_triggers, found.cron_triggers, sentences(found.faults)) == (0, 0, [])


# Checking


@pytest.mark.parametrize("text", [SHIPPED, switch_on(SHIPPED)], ids=["as it is", "switched on"])
def test_the_project_that_is_shipped_is_in_order_with_the_rules_that_are(text: str) -> None:
    shipped = rules.load_rules(text, environ={})

    found = check_triggers(read_metadata(HERE / "hasura"), shipped, deadline_seconds=50)

    assert (found.event_triggers, found.cron_triggers) == (4, 2)
    assert (sentences(found.faults), sentences(found.warnings)) == ([], [])


def test_the_rules_that_are_shipped_tell_the_app_when_they_are_switched_on() -> None:
    names = {
        text: [
            rule.name
            for rule in rules.load_rules(text, environ={}).rules
            if rule.ticket_source is not None
        ]
        for text in (SHIPPED, switch_on(SHIPPED))
    }

    assert names == {SHIPPED: [], switch_on(SHIPPED): ["outage-back", "outage-comment-back"]}
    assert switch_on(switch_on(SHIPPED)) == switch_on(SHIPPED)


def test_the_project_of_the_two_way_example_is_in_order_with_its_rules() -> None:
    text = (HERE / "examples" / "two-way.yaml").read_text("utf-8")
    example = rules.load_rules(text, environ={})

    found = check_triggers(read_metadata(HERE / "examples/two-way"), example, deadline_seconds=50)

    assert (found.event_triggers, found.cron_triggers) == (3, 2)
    assert (sentences(found.faults), sentences(found.warnings)) == ([], [])


def test_the_project_of_the_itsm_example_is_in_order_with_its_rules() -> None:
    example = rules.load_rules((HERE / "examples" / "itsm.yaml").read_text("utf-8"), environ={})

    found = check_triggers(read_metadata(HERE / "examples/itsm"), example, deadline_seconds=50)

    assert (found.event_triggers, found.cron_triggers) == (3, 1)
    assert (sentences(found.faults), sentences(found.warnings)) == ([], [])


def test_the_engine_of_the_compose_file_has_every_variable_that_the_project_names() -> None:
    services = yaml.safe_load((HERE / "docker-compose.yaml").read_text("utf-8"))["services"]
    found = read_metadata(HERE / "hasura")

    written = repr([read_plain(found.sources), read_plain(found.cron_triggers)])
    named = set(re.findall(r"'(?:value_)?from_env': '(\w+)'|\{\{(\w+)\}\}", written))
    variables = {from_env or template for from_env, template in named}
    assert variables == {"PG_DATABASE_URL", "SERVICENOW_FUNCTION_URL", "SERVICENOW_FUNCTION_SECRET"}
    assert variables <= set(services["engine"]["environment"])


def test_the_function_of_the_compose_file_has_every_setting_that_must_be_set() -> None:
    services = yaml.safe_load((HERE / "docker-compose.yaml").read_text("utf-8"))["services"]

    required = {variable.name for variable in VARIABLES if variable.default is None}
    known = {variable.name for variable in VARIABLES}
    assert (
        required | {"HASURA_EVENT_SECRETS", "DATABASE_URL"}
        <= set(services["function"]["environment"])
        <= known
    )


def test_triggers_in_order_are_counted_and_nothing_is_said(project: Project) -> None:
    found = project.check()

    assert found == TriggerReport(event_triggers=1, cron_triggers=1)


def test_what_this_function_does_not_read_of_a_trigger_is_left_to_hasura(project: Project) -> None:
    cron = (
        CRON + "  comment: c\n  payload: {a: [1]}\n  retry_conf: {num_retries: 1}\n  color: red\n"
    )

    found = project.check(TRIGGER + UNREAD, cron=cron)

    assert found == TriggerReport(event_triggers=1, cron_triggers=1)


@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        ("databases/databases.yaml", "name: default\n", "1: databases: must be a list"),
        (
            "databases/databases.yaml",
            "- default\n",
            "1: databases[0]: must be a mapping of names to values",
        ),
        ("databases/databases.yaml", "- name: a\n  tables: {b: c}\n", "2: tables: must be a list"),
        (
            "databases/default/outages.yaml",
            "outages\n",
            "1: tables[0]: must be a mapping of names to values",
        ),
        (
            "databases/default/outages.yaml",
            "table: outages\nevent_triggers:\n  name: a\n",
            "3: event_triggers: must be a list",
        ),
        (
            "databases/default/outages.yaml",
            "table: outages\nevent_triggers:\n- a\n",
            "3: event_triggers[0]: must be a mapping of names to values",
        ),
        ("cron_triggers.yaml", "name: a\n", "1: cron_triggers: must be a list"),
        (
            "cron_triggers.yaml",
            "- a\n",
            "1: cron_triggers[0]: must be a mapping of names to values",
        ),
    ],
)
def test_a_file_of_another_shape_is_a_fault(
    project: Project, file: str, text: str, said: str
) -> None:
    project.write(f"meta/{file}", text)

    faults = sentences(
        check_triggers(read_metadata(project.folder), None, deadline_seconds=None).faults
    )

    assert faults == [f"meta/{file}:{said}"]


def test_merged_and_null_keys_are_as_hasura_reads_them(project: Project) -> None:
    merged = TRIGGER.replace(
        f"    retry_conf: {RETRY}\n",
        "    <<: {retry_conf: {num_retries: 1, interval_sec: 60}}\n    cleanup_config: null\n    "
        "webhook_from_env: ~\n",
    )

    assert project.check(merged) == TriggerReport(event_triggers=1, cron_triggers=1)


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        # what Hasura drops without a word
        (
            "timeout_sec",
            "timout_sec",
            "9 retry_conf.timout_sec: there is no such key, Hasura drops it; did you mean",
        ),
        (
            "interval_sec: 60, ",
            "interval_sec: 60, interval: 6, ",
            "9 retry_conf.interval: there is no",
        ),
        # what Hasura refuses
        (
            f"    retry_conf: {RETRY}\n",
            "",
            "3 retry_conf: is missing: Hasura refuses a trigger without",
        ),
        ("num_retries: 60, ", "", "9 retry_conf.num_retries: is missing: write how often"),
        ("interval_sec: 60, ", "", "9 retry_conf.interval_sec: is missing"),
        (
            "num_retries: 60",
            "num_retries: '60'",
            "9 retry_conf.num_retries: must be a whole number",
        ),
        ("num_retries: 60", "num_retries: 6.5", "9 retry_conf.num_retries: must be a whole number"),
        (
            "num_retries: 60",
            "num_retries: !!int many",
            "9 retry_conf.num_retries: must be a whole number",
        ),
        ("'{{SERVICENOW_FUNCTION_URL}}'", "''", "10 webhook: is missing; write"),
        (
            "SERVICENOW_FUNCTION_SECRET",
            "HASURA_GRAPHQL_ADMIN_SECRET",
            "12 headers[0].value_from_env: Hasura gives",
        ),
        ("update: {columns: '*'}", "update: [id]", "7 definition.update: must be a mapping"),
        ("update: {columns: '*'}", "update: all", "7 definition.update: must be a mapping"),
        (f"      - {SECRET}", f"      {SECRET}", "12 headers: must be a list"),
        (f"      - {SECRET}", "      - X-Webhook-Secret", "12 headers[0]: must be a mapping"),
        (RETRY, "60", "9 retry_conf: must be a mapping"),
        ("timeout_sec: 60", "timeout_sec: 1m", "9 retry_conf.timeout_sec: must be a whole number"),
        ("outages_to_servicenow", "1st", "3 name: must be a letter, then"),
        ("outages_to_servicenow", "a" * 43, "3 name: must be a letter, then"),
        (
            "    webhook:",
            "    webhook_from_env: X\n    webhook:",
            "10 webhook_from_env: stands beside",
        ),
        ("    webhook: '{{SERVICENOW_FUNCTION_URL}}'\n", "", "3 webhook: is missing; write"),
        (", value_from_env: SERVICENOW_FUNCTION_SECRET", "", "12 headers[0]: has no value; write"),
        ("value_from_env", "value: x, value_from_env", "12 headers[0]: has both value and"),
        # what this function cannot do with
        (
            "value_from_env: S",
            "value: S",
            "12 headers[0].value: Hasura writes it in clear into its log",
        ),
        (
            "X-Webhook-Secret",
            "X-Other",
            "3 headers: sends no X-Webhook-Secret, so every event would be",
        ),
        (
            "timeout_sec: 60",
            "timeout_sec: 50",
            "9 retry_conf.timeout_sec: (50) must be above DEADLINE",
        ),
        (
            "insert: {c",
            "insert: {payload: [id], c",
            "6 definition.insert.payload: lacks parts, title,",
        ),
        (
            "delete: {c",
            "delete: {payload: [id], c",
            "8 definition.delete.payload: lacks parts, which",
        ),
    ],
)
def test_what_will_not_work_is_a_fault(project: Project, old: str, new: str, said: str) -> None:
    assert old in TRIGGER

    faults = sentences(project.check(TRIGGER.replace(old, new)).faults)

    line, _, said = said.partition(" ")
    place = f"meta/databases/default/outages.yaml:{line}: event_triggers[0].{said}"
    assert any(fault.startswith(place) for fault in faults), faults


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("num_retries: 60", "num_retries: 0", "9 retry_conf.num_retries: 0 survives an outage of"),
        (
            "webhook: '{{SERVICENOW_FUNCTION_URL}}'",
            "webhook_from_env: X",
            "10 webhook_from_env: is deprecated",
        ),
        (
            "    webhook:",
            "    request_transform: {version: 2}\n    webhook:",
            "10 request_transform: changes",
        ),
        (
            "      delete: {columns: '*'}\n",
            "",
            "5 definition: does not send DELETE, which outage hears",
        ),
        (
            "      enable_manual: true\n",
            "",
            "5 definition: does not send MANUAL, which outage hears",
        ),
        (
            "enable_manual: true",
            "enable_manual: yes",
            "5 definition: does not send MANUAL, which outage hears",
        ),
        (
            "update: {columns: '*'}",
            "update: {columns: [id]}",
            "7 definition.update.columns: lacks parts",
        ),
    ],
)
def test_what_is_seldom_meant_is_a_warning(project: Project, old: str, new: str, said: str) -> None:
    found = project.check(TRIGGER.replace(old, new))

    [warning] = sentences(found.warnings)
    line, _, said = said.partition(" ")
    assert warning.startswith(
        f"meta/databases/default/outages.yaml:{line}: event_triggers[0].{said}"
    )
    assert sentences(found.faults) == []


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        (
            "  headers",
            "  retry_conf: {timeout_sec: 1}\n  headers",
            "5: cron_triggers[0].retry_conf.timeout_sec: there",
        ),
        (
            "  headers",
            "  retry_conf: {num_retries: x}\n  headers",
            "5: cron_triggers[0].retry_conf.num_retries: must",
        ),
        (
            "  headers",
            "  retry_conf: 3\n  headers",
            "5: cron_triggers[0].retry_conf: must be a mapping",
        ),
        (
            "value_from_env: S",
            "value: S",
            "6: cron_triggers[0].headers[0].value: Hasura writes it in clear",
        ),
        (
            "  headers",
            "  retry_conf: {timeout_seconds: 9.5}\n  headers",
            "5: cron_triggers[0].retry_conf.timeout_s",
        ),
    ],
)
def test_a_cron_trigger_is_checked_by_its_own_names(
    project: Project, old: str, new: str, said: str
) -> None:
    faults = sentences(project.check(cron=CRON.replace(old, new)).faults)

    assert any(fault.startswith(f"meta/cron_triggers.yaml:{said}") for fault in faults), faults


def test_the_housekeeping_that_nothing_starts_is_a_warning(project: Project) -> None:
    found = project.check(cron="[]\n")

    [warning] = sentences(found.warnings)
    assert warning.startswith(
        "meta/cron_triggers.yaml: has no servicenow_housekeeping that sends X-Webhook-Secret"
    )
    assert HOUSEKEEPING == app.HOUSEKEEPING


def test_a_rule_whose_table_has_no_trigger_is_a_fault(project: Project) -> None:
    found = project.check("table: outages\n")

    assert sentences(found.faults) == [
        "rules.yaml:4: rules[0].from: no trigger sends hasura/public.outages here; add one"
    ]


def test_a_trigger_without_the_secret_and_with_a_webhook_of_its_own_is_somebody_elses(
    project: Project,
) -> None:
    elsewhere = TRIGGER.replace(f"      - {SECRET}", "      []").replace(
        "{{SERVICENOW_FUNCTION_URL}}", "https://example.com"
    )

    found = project.check(elsewhere.replace("timeout_sec: 60", "timeout_sec: 5"))

    assert sentences(found.faults) == [
        "rules.yaml:4: rules[0].from: no trigger sends hasura/public.outages here; add one; "
        "`outages_to_servicenow` "
        "(meta/databases/default/outages.yaml:3) sends no X-Webhook-Secret"
    ]


def test_triggers_under_a_misspelled_key_are_missed_by_the_rule_that_needs_them(
    project: Project,
) -> None:
    found = project.check(TRIGGER.replace("event_triggers:", "event_trigers:"))

    assert sentences(found.faults) == [
        "rules.yaml:4: rules[0].from: no trigger sends hasura/public.outages here; add one"
    ]


ACCOUNTS = TRIGGER.replace("outages", "accounts")


def test_a_trigger_that_takes_the_functions_other_route_is_its_own_too(project: Project) -> None:
    found = project.check(accounts=ACCOUNTS.replace("_URL}}'", "_URL}}/hasura'"))

    [fault] = sentences(found.faults)
    assert "accounts.yaml:3: event_triggers[0]: no rule is for hasura/public.accounts" in fault


def test_another_services_trigger_on_a_rules_table_is_left_alone(project: Project) -> None:
    theirs = (
        TRIGGER + TRIGGER.partition("event_triggers:\n")[2].replace("outages_to", "audit_to")
    ).replace("{{SERVICENOW_FUNCTION_URL}}", "{{AUDIT_URL}}")
    both = theirs.replace("{{AUDIT_URL}}", "{{SERVICENOW_FUNCTION_URL}}", 1)

    found = project.check(
        both.replace(
            "timeout_sec: 60}\n    webhook: '{{AUDIT", "timeout_sec: 10}\n    webhook: '{{AUDIT"
        ),
        accounts=ACCOUNTS.replace("SERVICENOW_FUNCTION_URL", "AUDIT_URL"),
    )

    assert found == TriggerReport(event_triggers=3, cron_triggers=1)


def test_a_secret_in_clear_is_a_fault_wherever_it_goes(project: Project) -> None:
    theirs = ACCOUNTS.replace("SERVICENOW_FUNCTION_URL", "AUDIT_URL").replace(
        "value_from_env: S", "value: S"
    )

    found = project.check(accounts=theirs)

    [fault] = sentences(found.faults)
    assert (
        "accounts.yaml:12: event_triggers[0].headers[0].value: Hasura writes it in clear" in fault
    )


def test_a_rule_for_a_trigger_that_is_not_there_is_a_fault(project: Project) -> None:
    named = RULES.replace("    each:", "    trigger: outage_to_servicenow\n    each:")

    found = project.check(rules_text=named)

    assert sentences(found.faults) == [
        "rules.yaml:4: rules[0].trigger: hasura/public.outages has no trigger "
        "`outage_to_servicenow`; did you mean "
        "`outages_to_servicenow`?"
    ]


def test_a_trigger_whose_table_has_no_rule_is_a_fault(project: Project) -> None:
    found = project.check(rules_text=RULES.replace("public.outages", "shop.outages"))

    assert sentences(found.faults) == [
        "rules.yaml:4: rules[0].from: no trigger sends hasura/shop.outages here; add one",
        "meta/databases/default/outages.yaml:3: event_triggers[0]: no rule is for "
        "hasura/public.outages, so every "
        "event would be answered 422; add one, or take it out",
    ]


def test_a_rule_that_hears_nothing_of_what_is_sent_is_a_fault(project: Project) -> None:
    deaf = RULES.replace("    each:", "    ops: [DELETE]\n    each:")

    found = project.check(TRIGGER.replace("      delete: {columns: '*'}\n", ""), rules_text=deaf)

    assert sentences(found.faults) == [
        "meta/databases/default/outages.yaml:5: event_triggers[0].definition: sends none of "
        "DELETE, which is all that outage hears"
    ]


def test_triggers_share_what_a_rule_hears(project: Project) -> None:
    one, other = (
        TRIGGER.split("event_triggers:\n")[1],
        TRIGGER.split("event_triggers:\n")[1].replace("outages_", "others_"),
    )
    without_delete = one.replace("      delete: {columns: '*'}\n", "")
    delete_alone = other.replace("      insert: {columns: '*'}\n", "").replace(
        "      update: {columns: '*'}\n", ""
    )

    found = project.check("table: outages\nevent_triggers:\n" + without_delete + delete_alone)

    assert (sentences(found.faults), sentences(found.warnings)) == ([], [])


def test_a_triggers_name_is_unique_in_its_source(project: Project) -> None:
    twice = TRIGGER + TRIGGER.split("event_triggers:\n")[1]

    found = project.check(twice)

    assert sentences(found.faults) == [
        "meta/databases/default/outages.yaml:13: event_triggers[1].name: `outages_to_servicenow` "
        "is the name of the "
        "trigger at meta/databases/default/outages.yaml:3 already"
    ]


def test_a_cron_rule_needs_its_cron_trigger(project: Project) -> None:
    nightly = RULES + (
        '  - {name: n, from: cron/nightly, ticket: {key: "{{ event.id }}", fields: '
        "{short_description: s}}}\n"
    )

    without = project.check(rules_text=nightly)
    there = project.check(
        rules_text=nightly, cron=CRON + CRON.replace("servicenow_housekeeping", "nightly")
    )

    assert sentences(without.faults) == [
        "rules.yaml:10: rules[1].from: no trigger sends cron/nightly here; add one"
    ]
    assert (sentences(there.faults), sentences(there.warnings)) == ([], [])


def test_the_table_of_a_note_needs_a_trigger_as_any_other(project: Project) -> None:
    noted = RULES + (
        "  - {name: n, from: hasura/public.notes, note: {ticket: outage, key: '{{ row.id }}', for: "
        "['{{ row.outage }}', '{{ row.part }}'], field: comments, text: '{{ row.body }}'}}\n"
    )
    note = TRIGGER.replace("outages", "notes")

    assert sentences(project.check(rules_text=noted).faults) == [
        "rules.yaml:10: rules[1].from: no trigger sends hasura/public.notes here; add one"
    ]
    assert sentences(project.check(rules_text=noted, accounts=note).faults) == []


# The way back

BACK = """\
  - name: back
    from: servicenow/incident
    when: row.state == '6'
    mutate:
      query: "mutation ($id: bigint!) { update_outages_by_pk(pk_columns: {id: $id}) { id } }"
      variables: {id: "{{ link.key }}"}
"""


def test_the_inbox_and_what_syncs_need_no_rule_and_rules_of_tickets_no_trigger_of_theirs(
    project: Project,
) -> None:
    for text in (RULES, RULES + BACK):
        found = project.check(accounts=way_back.INBOX, cron=CRON + way_back.SYNC, rules_text=text)

        assert (sentences(found.faults), sentences(found.warnings)) == ([], [])


def test_rules_of_tickets_without_the_inbox_and_sync_are_warned_of_what_to_do(
    project: Project,
) -> None:
    found = project.check(rules_text=RULES + BACK)

    assert sentences(found.faults) == []
    assert sentences(found.warnings) == [
        "rules.yaml:10: rules[1].from: no trigger on servicenow.inbox sends X-Webhook-Secret here: "
        "a change that cannot be told at once waits for the housekeeping; `python -m function "
        "setup hasura` prints the trigger",
        "meta/cron_triggers.yaml: has no servicenow_sync that sends X-Webhook-Secret: a change of "
        "a ticket whose notification is lost does not reach the app; `python -m function setup "
        "hasura` prints it",
    ]
    assert (app.SYNC, app.INBOX) == (SYNC, INBOX)


COMMAND = """
  - {name: hi, from: slack/hi, reply: Hi}
"""


def test_a_command_without_the_inbox_is_warned_of_and_needs_no_trigger_of_its_own(
    project: Project,
) -> None:
    without = project.check(rules_text=RULES + COMMAND)
    with_it = project.check(accounts=way_back.INBOX, rules_text=RULES + COMMAND)

    assert (sentences(without.faults), sentences(with_it.faults)) == ([], [])
    assert sentences(without.warnings) == [
        "rules.yaml:11: rules[1].from: no trigger on servicenow.inbox sends X-Webhook-Secret here: "
        "a command waits for the housekeeping; `python -m function setup hasura` prints the trigger"
    ]
    assert sentences(with_it.warnings) == []


@pytest.mark.parametrize("payload", ["", "payload: [id, body]"])
def test_an_inbox_that_tells_hasura_what_it_holds_is_warned_of(
    project: Project, payload: str
) -> None:
    accounts = way_back.INBOX.replace("payload: [id]", payload)
    found = project.check(accounts=accounts, rules_text=RULES + COMMAND)

    assert sentences(found.faults) == []
    [warning] = sentences(found.warnings)
    assert "where a command of Slack's is answered is a secret" in warning


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("insert:", "delete:", "9: event_triggers[0].definition: sends no INSERT"),
        ("[id]", "[subject]", "12: event_triggers[0].definition.insert.payload: lacks id"),
        ("timeout_sec: 60", "timeout_sec: 50", "16: event_triggers[0].retry_conf.timeout_sec"),
    ],
)
def test_an_inbox_that_brings_nothing_back_is_a_fault(
    project: Project, old: str, new: str, said: str
) -> None:
    found = project.check(
        accounts=way_back.INBOX.replace(old, new),
        cron=CRON + way_back.SYNC,
        rules_text=RULES + BACK,
    )

    [fault] = sentences(found.faults)
    assert fault.startswith(f"meta/databases/default/accounts.yaml:{said}")


@pytest.mark.parametrize("project_folder", ["hasura", "examples/two-way", "examples/chatops"])
def test_setup_hasura_prints_the_inbox_and_what_syncs_as_the_projects_have_them(
    project_folder: str,
) -> None:
    folder = HERE / project_folder
    parts = re.split(r"^# == (?:into )?([\w/.]+).*\n", way_back.printed(), flags=re.MULTILINE)
    (inbox, inbox_text), (cron, cron_text) = zip(parts[1::2], parts[2::2], strict=True)

    assert (folder / inbox).read_text("utf-8").strip() == inbox_text.strip()
    assert (folder / cron).read_text("utf-8").endswith(cron_text)
    included = (folder / inbox).parent / "tables.yaml"
    assert f"!include {(folder / inbox).name}" in included.read_text("utf-8")
    assert f"cron/{yaml.safe_load(cron_text)[0]['name']}" == SYNC
