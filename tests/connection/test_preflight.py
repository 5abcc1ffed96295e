"""What of an instance does not fit the rules: found before the first event, with its line and what
to do."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

import pytest

from function.connection.preflight import PROBE_WORDS, Examined, examine
from function.core.finding import Finding, Level
from function.ledger.records import TableTraits
from function.rules.loader import load_rules
from function.rules.note import rules_with_notes
from function.rules.ticket import rules_with_tickets
from function.servicenow import Basic, NotAuthorized, ServiceNowClient, Unavailable
from sandbox.servicenow import ServiceNow

FAULT, WARNING, NOTE = Level
RULE = """
version: 1
rules:
  - name: outage
    from: hasura/public.outages
    ticket:
      key: "{{ row.id }}"
      fields:
        short_description: "{{ row.title }}"
"""


@pytest.fixture
def servicenow() -> Iterator[ServiceNow]:
    with ServiceNow() as servicenow:
        yield servicenow


UNKNOWN = TableTraits()


def examined(
    servicenow: ServiceNow,
    rules: str = RULE,
    *,
    traits: TableTraits = UNKNOWN,
    write_probe: bool = False,
    reads_changes: bool = False,
) -> Examined:
    client = ServiceNowClient(servicenow.url, Basic(servicenow.username, servicenow.password))
    loaded = load_rules(rules, environ={})
    try:
        return examine(
            client,
            rules_with_tickets(loaded),
            traits=lambda _: traits,
            notes=rules_with_notes(loaded),
            write_probe=write_probe,
            reads_changes=reads_changes,
        )
    finally:
        client.close()


def told(servicenow: ServiceNow, rules: str = RULE) -> list[Finding]:
    """What is found of the rules; not what is found of the instance as a whole."""
    return [found for found in examined(servicenow, rules).findings if found.line is not None]


def with_fields(*fields: str, closing: Sequence[str] = ()) -> str:
    """RULE with further *fields* (from line 10 on) and what follows them."""
    return (
        RULE
        + "".join(f"        {field}\n" for field in fields)
        + "".join(f"      {line}\n" for line in closing)
    )


NOTED = (
    RULE
    + """
  - name: comment
    from: hasura/public.outage_comments
    note:
      ticket: outage
      for: "{{ row.outage_id }}"
      key: "{{ row.id }}"
      field: comments
      text: "{{ row.body }}"
"""
)


class TestNotes:
    def test_of_a_journal_that_is_there_and_shown_there_is_nothing_to_say(
        self, servicenow: ServiceNow
    ) -> None:
        made = servicenow.tables.insert("incident", {"comments": "Hello"}, by="admin")

        assert made
        assert told(servicenow, NOTED) == []

    def test_a_journal_that_may_not_be_read_is_found_with_its_line(
        self, servicenow: ServiceNow
    ) -> None:
        servicenow.arm("acl_403", method="GET", table="sys_journal_field", times=None)
        [found] = told(servicenow, NOTED)

        assert (found.level, found.line) == (WARNING, 17)
        assert found.problem.startswith("sys_journal_field cannot be read")
        assert found.remedy == "Let the integration user read sys_journal_field"

    def test_a_journal_that_shows_nothing_is_not_known_to_be_in_order(
        self, servicenow: ServiceNow
    ) -> None:
        [found] = told(servicenow, NOTED)

        assert (found.level, found.line) == (WARNING, 17)
        assert found.problem.startswith("sys_journal_field shows no entry")

    def test_a_table_without_the_journal_is_a_fault(self, servicenow: ServiceNow) -> None:
        servicenow.tables.insert("incident", {"comments": "Hello"}, by="admin")
        table = NOTED.replace(
            "ticket:\n      key", "ticket:\n      table: sys_user_group\n      key"
        )
        found = [each for each in told(servicenow, table) if "comments" in each.problem]

        assert [each.level for each in found] == [FAULT]
        assert found[0].problem.startswith("sys_user_group has no comments")

    def test_the_journal_is_not_asked_for_where_no_rule_writes_one(
        self, servicenow: ServiceNow
    ) -> None:
        examined(servicenow)

        assert "sys_journal_field" not in {call.table for call in servicenow.calls}


class TestFields:
    def test_of_rules_that_fit_there_is_nothing_to_say(self, servicenow: ServiceNow) -> None:
        fitting = with_fields(
            "category: network",
            "impact: 2",
            "assignment_group: Network",
            'due_date: "{{ row.due | sn_datetime }}"',
            closing=["resolve_when: row.done", "close_code: Duplicate"],
        )

        assert told(servicenow, fitting) == []

    def test_a_field_that_the_table_does_not_have_is_found_with_its_line_and_the_one_that_was_meant(
        self, servicenow: ServiceNow
    ) -> None:
        [found] = told(servicenow, with_fields("catgory: network"))

        assert (found.level, found.line) == (FAULT, 10)
        assert str(found) == (
            "rules.yaml:10: rules[0].ticket.fields.catgory: incident has no field catgory, and "
            "ServiceNow ignores what "
            "is sent for it. Did you mean category?"
        )

    def test_where_the_dictionary_is_hidden_a_record_tells(self, servicenow: ServiceNow) -> None:
        servicenow.tables.insert("incident", {"short_description": "one"}, by="admin")
        servicenow.rights = replace(
            servicenow.rights, may_read={"incident", "sys_choice", "sys_user"}
        )

        found = examined(servicenow, with_fields("catgory: network", "category: network")).findings

        assert [(each.level, each.line) for each in found if each.line] == [(FAULT, 10)]
        assert any(
            "may not read sys_dictionary" in each.problem and each.level is NOTE for each in found
        )

    def test_where_neither_can_be_read_it_says_that_fields_are_not_checked(
        self, servicenow: ServiceNow
    ) -> None:
        servicenow.rights = replace(servicenow.rights, may_read={"incident"})

        found = examined(servicenow, with_fields("catgory: network")).findings

        assert not [each for each in found if each.level is FAULT]
        assert [each.problem for each in found if each.level is WARNING] == [
            "it may read neither sys_dictionary nor any record, so fields are not checked",
            "the integration user may not read sys_choice, so choices and states are not checked",
        ]

    @pytest.mark.parametrize(
        ("field", "line"),
        [
            ("location: Berlin", "Write the sys_id of `Berlin`"),
            ('location: "{{ row.place }}"', "See that the row gives a sys_id"),
        ],
    )
    def test_a_reference_that_no_name_is_looked_up_for_needs_a_sys_id(
        self, servicenow: ServiceNow, field: str, line: str
    ) -> None:
        columns = servicenow.tables.select("sys_dictionary", "element=subcategory")
        servicenow.tables.update(
            "sys_dictionary",
            columns[0]["sys_id"],
            {"internal_type": "reference", "reference": "cmn_location", "choice": "0"},
            by="admin",
        )

        [found] = told(servicenow, with_fields(field.replace("location", "subcategory")))

        assert found.remedy == line
        assert "refers to cmn_location" in found.problem

    def test_a_name_that_nobody_goes_by_is_a_warning_where_the_field_may_be_left_empty(
        self, servicenow: ServiceNow
    ) -> None:
        lenient = with_fields("caller_id: Nobody", closing=["on_unknown: {caller_id: leave_empty}"])

        [found], [lenient_found] = (
            told(servicenow, with_fields("caller_id: Nobody")),
            told(servicenow, lenient),
        )

        assert (found.level, lenient_found.level) == (FAULT, WARNING)
        assert found.problem == lenient_found.problem

    def test_a_time_that_is_not_made_servicenows_is_warned_of(self, servicenow: ServiceNow) -> None:
        [found] = told(servicenow, with_fields('due_date: "{{ row.due }}"'))

        assert (found.level, found.line) == (WARNING, 10)
        assert found.remedy == "Write {{ … | sn_datetime }}"

    def test_a_text_longer_than_its_field_is_warned_of(self, servicenow: ServiceNow) -> None:
        [found] = told(servicenow, with_fields(f"contact_type: {'x' * 41}"))

        assert found.problem == "contact_type takes 40 characters here, and this text has 41"


class TestWhatIsHidden:
    """As fields and rows are hidden on real instances: a query that finds less, not a refusal."""

    def test_of_a_table_whose_ancestors_are_hidden_no_column_is_called_missing(
        self, servicenow: ServiceNow
    ) -> None:
        for row in servicenow.tables.select("sys_db_object", "name=problem"):
            servicenow.tables.update(
                "sys_db_object", row["sys_id"], {"name": "u_hidden"}, by="admin"
            )
        for row in servicenow.tables.select("sys_dictionary", "name=task"):
            servicenow.tables.update(
                "sys_dictionary", row["sys_id"], {"name": "u_base"}, by="admin"
            )
        problem = RULE.replace("    ticket:\n", "    ticket:\n      table: problem\n")

        assert told(servicenow, problem) == []

    def test_incident_is_known_to_extend_task(self, servicenow: ServiceNow) -> None:
        for row in servicenow.tables.select("sys_db_object", "name=incident"):
            servicenow.tables.update(
                "sys_db_object", row["sys_id"], {"super_class": ""}, by="admin"
            )

        [found] = told(servicenow, with_fields("catgory: network"))

        assert "incident has no field catgory" in found.problem

    def test_a_403_of_a_moment_hides_nothing(self, servicenow: ServiceNow) -> None:
        servicenow.arm("acl_flap_403", table="sys_dictionary")

        [found] = told(servicenow, with_fields("catgory: network"))

        assert "incident has no field catgory" in found.problem


class TestChoices:
    @pytest.mark.parametrize(
        ("field", "value"),
        [
            ("category: netwrk", "netwrk"),
            ("category: Network", None),
            ("category: \"{{ row.kind | lookup({'a': 'network', 'b': 'hardwre'}) }}\"", "hardwre"),
            ("category: \"{{ row.kind | lookup({'a': 'network'}, default='othr') }}\"", "othr"),
            ("category: \"{{ 'hardwre' if row.hard else 'software' }}\"", "hardwre"),
            ("category: \"{{ row.kind or 'sofware' }}\"", "sofware"),
            ("category: \"{{ row.kind | default('sofware') }}\"", "sofware"),
            ("category: \"{{ {'a': 'sofware'}[row.kind] }}\"", "sofware"),
            ('category: "{{ row.kind }}"', None),
            ('category: "net{{ row.kind }}"', None),
        ],
    )
    def test_what_a_rule_may_say_is_held_against_the_instances_choices(
        self, servicenow: ServiceNow, field: str, value: str | None
    ) -> None:
        found = told(servicenow, with_fields(field.replace("Network", "network")))

        assert [each.problem.partition("`")[2].partition("`")[0] for each in found] == (
            [value] if value else []
        )
        assert all("network (Network)" in each.remedy for each in found)

    def test_a_label_is_told_from_its_value(self, servicenow: ServiceNow) -> None:
        [found] = told(servicenow, with_fields("category: Inquiry / Help"))

        assert found.remedy.startswith("Did you mean inquiry?")

    def test_a_list_of_suggestions_takes_anything(self, servicenow: ServiceNow) -> None:
        [column] = servicenow.tables.select("sys_dictionary", "name=incident^element=category")
        servicenow.tables.update("sys_dictionary", column["sys_id"], {"choice": "2"}, by="admin")

        assert told(servicenow, with_fields("category: anything")) == []

    def test_a_close_code_of_another_release_is_found(self, servicenow: ServiceNow) -> None:
        [found] = told(
            servicenow,
            with_fields(closing=["resolve_when: row.done", "close_code: Solved (Permanently)"]),
        )

        assert (found.level, found.line) == (FAULT, 11)
        assert "Solution provided" in found.remedy

    def test_so_is_the_one_that_is_sent_where_the_rule_gives_none(
        self, servicenow: ServiceNow
    ) -> None:
        for choice in servicenow.tables.select("sys_choice", "element=close_code^name=incident"):
            if choice["value"] == "Solution provided":
                servicenow.tables.update(
                    "sys_choice", choice["sys_id"], {"inactive": "true"}, by="admin"
                )

        [found] = told(servicenow, with_fields(closing=["resolve_when: row.done"]))

        assert found.problem.endswith("(it is sent because the rule gives no close_code)")
        assert found.line == 7

    def test_a_state_that_the_instance_does_not_have_is_found(self, servicenow: ServiceNow) -> None:
        problem = RULE.replace("    ticket:\n", "    ticket:\n      table: problem\n") + (
            "      states: {resolved: 99, reopened: 103, final: [107]}\n      resolve_when: "
            "row.done\n"
        )

        [found] = told(servicenow, problem)

        assert (found.problem, found.line) == ("problem has no state 99 (resolved)", 11)
        assert "106 (Resolved)" in found.remedy


class TestStates:
    def without(self, servicenow: ServiceNow, table: str, state: str) -> None:
        for choice in servicenow.tables.select(
            "sys_choice", f"name={table}^element=state^value={state}"
        ):
            servicenow.tables.update(
                "sys_choice", choice["sys_id"], {"inactive": "true"}, by="admin"
            )

    def test_a_state_that_the_rule_never_gives_may_be_another_one(
        self, servicenow: ServiceNow
    ) -> None:
        self.without(servicenow, "incident", "8")
        self.without(servicenow, "incident", "7")

        assert told(servicenow, with_fields(closing=["resolve_when: row.done"])) == []

    def test_one_that_it_gives_must_be_there(self, servicenow: ServiceNow) -> None:
        self.without(servicenow, "incident", "8")

        [found] = told(servicenow, with_fields(closing=["on_delete: cancel"]))

        assert found.problem == "incident has no state 8 (canceled)"

    def test_so_must_those_on_the_way(self, servicenow: ServiceNow) -> None:
        self.without(servicenow, "change_request", "-3")
        change = RULE.replace("    ticket:\n", "    ticket:\n      table: change_request\n")

        [found] = told(servicenow, change + "      resolve_when: row.done\n")

        assert found.problem == "change_request has no state -3 (on the way to resolved)"

    def of_its_own(self, servicenow: ServiceNow, table: str, *states: str) -> None:
        """Put *states* in place of those that the *table* ships with."""
        for choice in servicenow.tables.select("sys_choice", f"name={table}^element=state"):
            servicenow.tables.update(
                "sys_choice", choice["sys_id"], {"inactive": "true"}, by="admin"
            )
        for state in states:
            choice = {
                "name": table,
                "element": "state",
                "value": state,
                "label": f"Ours {state}",
                "language": "en",
            }
            servicenow.tables.insert("sys_choice", choice, by="admin")

    def test_an_incident_s_states_of_the_instance_s_own_are_compared_as_they_are_declared(
        self, servicenow: ServiceNow
    ) -> None:
        self.of_its_own(servicenow, "incident", "10", "20", "60", "80")
        own = [
            "states: {resolved: 60, reopened: 20, canceled: 80}",
            "resolve_when: row.done",
            "on_delete: cancel",
        ]

        assert told(servicenow, with_fields(closing=own)) == []

    def test_where_the_instance_s_states_are_not_the_shipped_ones_they_are_to_be_declared(
        self, servicenow: ServiceNow
    ) -> None:
        self.of_its_own(servicenow, "incident", "10", "20", "60")

        resolved, reopened = told(servicenow, with_fields(closing=["resolve_when: row.done"]))

        assert (resolved.problem, resolved.line) == ("incident has no state 6 (resolved)", 7)
        assert reopened.problem == "incident has no state 2 (reopened)"
        there = "There are 10 (Ours 10), 20 (Ours 20), 60 (Ours 60)"
        assert resolved.remedy == f"Declare the states of this instance under `states`. {there}"

    @pytest.mark.parametrize(
        ("states", "what"),
        [
            (
                "{resolved: 3, canceled: 4, path: [-5, -1, 5]}",
                "change_request has no state 5 (on the way to resolved)",
            ),
            (
                "{resolved: 3, canceled: 4, path: [-6, -1]}",
                "change_request has no state -6 (where tickets begin)",
            ),
            (
                "{resolved: 3, canceled: 4, final: [4, 40]}",
                "change_request has no state 40 (final)",
            ),
            (
                "{resolved: 33, canceled: 4, path: [-5, -1]}",
                "change_request has no state 33 (resolved)",
            ),
            (
                "{resolved: 3, canceled: 44, path: [-5, -1]}",
                "change_request has no state 44 (canceled)",
            ),
            (
                "{resolved: 3, canceled: 4, reopened: 55}",
                "change_request has no state 55 (reopened)",
            ),
        ],
    )
    def test_each_declared_state_of_a_change_must_be_there(
        self, servicenow: ServiceNow, states: str, what: str
    ) -> None:
        change = RULE.replace("    ticket:\n", "    ticket:\n      table: change_request\n")

        [found] = told(
            servicenow, change + f"      resolve_when: row.done\n      states: {states}\n"
        )

        assert (found.problem, found.line) == (what, 12)

    def test_no_row_ends_a_shared_ticket(self, servicenow: ServiceNow) -> None:
        self.without(servicenow, "incident", "6")

        assert (
            told(servicenow, with_fields(closing=["shared: true", "resolve_when: row.done"])) == []
        )


class TestDeclaredChoices:
    def test_one_that_the_instance_does_not_have_is_found(self, servicenow: ServiceNow) -> None:
        [found] = told(
            servicenow, with_fields(closing=["choices: {impact: [1, 2, 3, 4], urgency: [1, 2]}"])
        )

        assert found.level is FAULT
        assert found.problem == (
            "`4` is none of the choices of impact, and would show as an empty field "
            "(`choices` declares it)"
        )

    def test_those_that_it_has_are_in_order(self, servicenow: ServiceNow) -> None:
        choice = {
            "name": "incident",
            "element": "impact",
            "value": "4",
            "label": "None",
            "language": "en",
        }
        servicenow.tables.insert("sys_choice", choice, by="admin")

        assert (
            told(servicenow, with_fields("impact: 4", closing=["choices: {impact: [1, 2, 3, 4]}"]))
            == []
        )


class TestReferences:
    def test_a_group_that_is_not_there_is_found(self, servicenow: ServiceNow) -> None:
        [found] = told(servicenow, with_fields("assignment_group: Netwok"))

        assert (found.level, found.line) == (FAULT, 10)
        assert found.problem.startswith("`Netwok` is not there")

    def test_each_name_of_a_lookup_is_looked_up(self, servicenow: ServiceNow) -> None:
        groups = (
            "assignment_group: \"{{ row.team | lookup({'a': 'Network', 'b': 'Nobody'}, "
            "default='Hardware') }}\""
        )

        [found] = told(servicenow, with_fields(groups))

        assert found.problem.startswith("`Nobody`")

    def test_a_table_of_names_that_is_hidden_is_found(self, servicenow: ServiceNow) -> None:
        servicenow.rights = replace(
            servicenow.rights,
            may_read={"incident", "sys_dictionary", "sys_choice", "sys_db_object"},
        )

        [found] = told(servicenow, with_fields("assignment_group: Network"))

        assert found.remedy == "Let the integration user read sys_user_group, or give the sys_id"


class TestPolicies:
    def policy(self, servicenow: ServiceNow, conditions: str, *fields: str) -> None:
        made = servicenow.tables.insert(
            "sys_data_policy2",
            {
                "model_table": "incident",
                "short_description": "Ours",
                "conditions": conditions,
                "active": "true",
                "inherit": "false",
            },
            by="admin",
        )
        for field in fields:
            rule = {"sys_data_policy": made["sys_id"], "field": field, "mandatory": "true"}
            servicenow.tables.insert("sys_data_policy_rule", rule, by="admin")

    @pytest.mark.parametrize(
        ("conditions", "level", "when"),
        [
            ("", FAULT, ""),
            ("state=1^EQ", FAULT, ""),
            ("stateIN6,7^EQ", FAULT, " when a ticket ends"),
            ("state=6^ORstate=7", FAULT, " when a ticket ends"),
            ("priority=1^EQ", WARNING, " where priority=1"),
            ("state=6^priority=1", WARNING, " where state=6^priority=1"),
            ("state=3^EQ", None, ""),
        ],
    )
    def test_what_a_policy_makes_mandatory_and_the_rule_does_not_send_is_found(
        self, servicenow: ServiceNow, conditions: str, level: Level | None, when: str
    ) -> None:
        self.policy(servicenow, conditions, "caller_id", "short_description")

        found = told(servicenow, with_fields(closing=["resolve_when: row.done"]))

        said = (
            f"the data policy `Ours` makes caller_id mandatory{when}, and the rule "
            "does not send that"
        )
        assert [(each.level, each.problem) for each in found] == ([(level, said)] if level else [])

    def test_what_the_platform_fills_in_is_not_missing(self, servicenow: ServiceNow) -> None:
        [column] = servicenow.tables.select("sys_dictionary", "name=incident^element=category")
        servicenow.tables.update(
            "sys_dictionary", column["sys_id"], {"default_value": "inquiry"}, by="admin"
        )
        self.policy(servicenow, "", "state", "impact", "opened_by", "category")

        assert told(servicenow) == []

    def test_a_ticket_that_is_canceled_is_sent_no_close_code(self, servicenow: ServiceNow) -> None:
        self.policy(servicenow, "state=8", "close_code", "close_notes")

        [found] = told(servicenow, with_fields(closing=["on_delete: cancel"]))

        assert "makes close_code mandatory when a ticket ends" in found.problem
        assert "`on_delete: resolve`" in found.remedy

    def test_what_no_rule_can_send_is_said_to_be_so(self, servicenow: ServiceNow) -> None:
        self.policy(servicenow, "stateIN6,7", "work_notes")

        [found] = told(servicenow, with_fields(closing=["resolve_when: row.done"]))

        assert (
            found.remedy
            == "This version cannot send it: exempt the integration user from the policy"
        )

    def test_what_is_wanted_on_the_way_to_resolved_is_found(self, servicenow: ServiceNow) -> None:
        self.policy(servicenow, "state=2", "category", "close_notes")
        own = [
            "states: {resolved: 6, reopened: 2, path: [1, 2]}",
            "close_notes: x",
            "resolve_when: row.done",
        ]

        [found] = told(servicenow, with_fields(closing=own))

        assert found.level is FAULT
        assert "makes close_notes mandatory on a ticket's way to resolved" in found.problem

    def test_the_first_of_a_declared_path_is_where_tickets_begin(
        self, servicenow: ServiceNow
    ) -> None:
        self.policy(servicenow, "state=10", "caller_id")
        own = ["states: {resolved: 6, path: [10, 2]}", "resolve_when: row.done"]

        found = [
            each
            for each in told(servicenow, with_fields(closing=own))
            if "data policy" in each.problem
        ]

        assert [each.problem.split(" makes ")[1] for each in found] == [
            "caller_id mandatory, and the rule does not send that"
        ]

    def test_what_the_rule_sends_is_not_missing(self, servicenow: ServiceNow) -> None:
        self.policy(servicenow, "", "caller_id")

        assert told(servicenow, with_fields("caller_id: admin")) == []

    def test_the_close_fields_of_a_table_of_ones_own_are_missed(
        self, servicenow: ServiceNow
    ) -> None:
        servicenow.tables.update(
            "sys_data_policy2",
            servicenow.tables.select("sys_data_policy2", "model_table=incident")[0]["sys_id"],
            {"model_table": "problem", "conditions": "state=106"},
            by="admin",
        )
        problem = RULE.replace("    ticket:\n", "    ticket:\n      table: problem\n") + (
            "      states: {resolved: 106, reopened: 103, final: [107]}\n      resolve_when: "
            "row.done\n"
            "      close_notes: done\n"
        )

        [found] = told(servicenow, problem.replace("      close_notes: done\n", ""))

        assert "makes close_code, close_notes mandatory when a ticket ends" in found.problem


class TestTheInstance:
    def test_a_table_that_is_not_there_is_found(self, servicenow: ServiceNow) -> None:
        [found] = told(
            servicenow, RULE.replace("    ticket:\n", "    ticket:\n      table: incidnt\n")
        )

        assert (found.line, found.problem) == (7, "incidnt cannot be read")
        assert "The instance has no such table" in found.remedy

    def test_a_table_that_may_not_be_read_is_found(self, servicenow: ServiceNow) -> None:
        servicenow.rights = replace(servicenow.rights, may_read={"sys_user"})

        [found] = told(servicenow)

        assert "role itil" in found.remedy

    def test_who_signs_in_is_told_with_its_roles_and_its_time_zone(self) -> None:
        with ServiceNow(time_zone="Europe/Berlin") as servicenow:
            notes = [
                found.problem for found in examined(servicenow).findings if found.level is NOTE
            ]

        assert notes[0].startswith("signed in as svc.hasura; its time zone is Europe/Berlin")
        assert notes[1] == "its roles: itil, snc_basic_auth_api_access"

    @pytest.mark.parametrize(
        ("zone", "level"),
        [("GMT", NOTE), ("Etc/UTC", NOTE), ("Europe/London", FAULT), ("", WARNING)],
    )
    def test_a_time_zone_other_than_gmt_is_a_fault_where_changes_are_asked_for_by_time(
        self, zone: str, level: Level
    ) -> None:
        with ServiceNow(time_zone=zone) as servicenow:
            found = examined(servicenow, reads_changes=True).findings[0]

        assert found.level is level
        assert found.problem.startswith(
            f"signed in as svc.hasura; its time zone is {zone or 'the instance'}"
        )
        assert ("to GMT" in found.remedy) is (level is not NOTE)

    @pytest.mark.parametrize(("limit", "level"), [(None, NOTE), (100, WARNING), (100_000, NOTE)])
    def test_a_rate_limit_that_applies_is_told(self, limit: int | None, level: Level) -> None:
        with ServiceNow(rate_limit_per_hour=limit) as servicenow:
            found = examined(servicenow).findings[-1]

        assert found.level is level
        assert (str(limit) in found.problem) is (limit is not None)

    @pytest.mark.parametrize(("known", "level"), [(True, NOTE), (False, WARNING), (None, NOTE)])
    def test_whether_a_sys_id_is_kept_is_told_as_far_as_it_is_known(
        self, servicenow: ServiceNow, known: bool | None, level: Level
    ) -> None:
        found = examined(servicenow, traits=TableTraits(honours_sys_id=known)).findings[-2]

        assert found.level is level
        assert "sys_id" in found.problem

    def test_nothing_is_written(self, servicenow: ServiceNow) -> None:
        examined(servicenow, with_fields("assignment_group: Network"))

        assert {call.method for call in servicenow.calls} == {"GET"}

    def test_an_instance_that_goes_to_sleep_meanwhile_is_raised(
        self, servicenow: ServiceNow
    ) -> None:
        servicenow.arm("hibernating_html_200", table="sys_dictionary")

        with pytest.raises(Unavailable):
            examined(servicenow)

    def test_after_a_401_nothing_more_is_asked(self, servicenow: ServiceNow) -> None:
        servicenow.password = "changed"
        client = ServiceNowClient(servicenow.url, Basic(servicenow.username, "sandbox"))

        with pytest.raises(NotAuthorized):
            examine(client, load_rules(RULE, environ={}).rules, traits=lambda _: TableTraits())

        client.close()
        assert len(servicenow.refused_logins) == 1


class TestTheProbe:
    def test_it_writes_a_record_cancels_it_and_knows_whether_the_sys_id_was_kept(
        self, servicenow: ServiceNow
    ) -> None:
        found = examined(servicenow, write_probe=True)

        [record] = [
            row
            for row in servicenow.tables.select("incident")
            if row["short_description"] == PROBE_WORDS
        ]
        assert found.traits["incident"].honours_sys_id is True
        assert record["state"] == "8"
        assert any(
            record["number"] in each.problem and "is canceled" in each.problem
            for each in found.findings
        )

    def test_of_an_instance_that_gives_ids_of_its_own_it_says_so(self) -> None:
        with ServiceNow(honours_sys_id=False) as servicenow:
            found = examined(servicenow, write_probe=True)

        assert found.traits["incident"].honours_sys_id is False
        assert any(
            "sys_ids of its own" in each.problem and each.level is WARNING
            for each in found.findings
        )

    def test_a_change_is_probed_too(self, servicenow: ServiceNow) -> None:
        change = RULE.replace("    ticket:\n", "    ticket:\n      table: change_request\n")

        assert (
            examined(servicenow, change, write_probe=True).traits["change_request"].honours_sys_id
            is True
        )
        assert servicenow.tables.select("change_request")[-1]["state"] == "4"

    def test_where_the_instance_wants_more_it_is_made_by_the_rule_and_wakes_nobody(
        self, servicenow: ServiceNow
    ) -> None:
        rule = {
            "name": "Caller is mandatory",
            "collection": "incident",
            "when": "before",
            "action_insert": "true",
        }
        rule |= {"filter_condition": "caller_idISEMPTY", "abort_action": "true", "active": "true"}
        servicenow.tables.insert("sys_script", rule, by="admin")

        refused = examined(servicenow, write_probe=True)
        made = examined(
            servicenow, with_fields("caller_id: admin", "impact: 1", "urgency: 1"), write_probe=True
        )

        [record] = servicenow.tables.select("incident")
        assert (record["priority"], record["state"]) == ("5", "8")
        [warning] = [each for each in refused.findings if each.level is WARNING]
        assert warning.problem.startswith("no record was written into incident: it wants more than")
        assert "Caller is mandatory" in warning.remedy
        assert made.traits["incident"].honours_sys_id is True

    def test_a_standard_change_is_made_from_its_template(self, servicenow: ServiceNow) -> None:
        change = RULE.replace(
            "    ticket:\n",
            "    ticket:\n      table: change_request\n      template: Clear BGP sessions on a "
            "Cisco router - 1\n",
        )

        examined(servicenow, change, write_probe=True)

        assert servicenow.tables.select("change_request")[-1]["type"] == "standard"

    def test_one_of_a_table_of_ones_own_is_canceled_as_the_rule_says(
        self, servicenow: ServiceNow
    ) -> None:
        task = RULE.replace(
            "    ticket:\n",
            "    ticket:\n      table: change_task\n      states: {resolved: 3, reopened: 2, "
            "canceled: 4}\n",
        )

        found = examined(servicenow, task, write_probe=True)

        assert any("it is canceled" in each.problem for each in found.findings)

    def test_a_user_who_may_not_create_is_found(self, servicenow: ServiceNow) -> None:
        servicenow.rights = replace(servicenow.rights, may_create=set())

        found = examined(servicenow, write_probe=True)

        [fault] = [each for each in found.findings if each.level is FAULT]
        assert fault.problem == "no record can be written into incident"
        assert "role itil" in fault.remedy
        assert found.traits == {}

    def test_a_record_without_an_answer_is_to_be_looked_for(self, servicenow: ServiceNow) -> None:
        servicenow.arm("commit_then_reset", method="POST")

        found = examined(servicenow, write_probe=True)

        [doubt] = [each for each in found.findings if each.level is WARNING]
        assert doubt.problem == "whether a record was written into incident is not known"
        assert "short_description begins with `Written by check" in doubt.remedy

    def test_in_a_table_that_cannot_be_read_nothing_is_written(
        self, servicenow: ServiceNow
    ) -> None:
        examined(
            servicenow,
            RULE.replace("    ticket:\n", "    ticket:\n      table: incidnt\n"),
            write_probe=True,
        )

        assert {call.method for call in servicenow.calls} == {"GET"}
