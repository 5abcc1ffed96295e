"""The business rules that are printed for ServiceNow: which there are, and what stands in them."""

import json
import re
from dataclasses import replace

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from function.cli.business_rule import (
    BusinessRule,
    NotificationSetup,
    UnfitName,
    WatchedTable,
    business_rules,
    conditions_script,
    printed,
    rule_script,
    watched_tables,
)
from function.cli.setup import notification_setup
from function.rules.loader import load_rules
from function.rules.model import Rule
from function.settings import load_settings
from tests.test_settings import REQUIRED

SETUP = NotificationSetup("shop", "svc.hasura", "https://tickets.example.com")
SECRET = "a-secret-of-the-shop"
TRIAL_MAC = "oCw0ZmT8uLTnISo/O78mLqnFkAgAWO6NgFJ/2XSvHDY="
STATE = WatchedTable("incident", columns=("state",))
ENVIRON = {
    **REQUIRED,
    "PUBLIC_URL": "https://tickets.example.com/",
    "SERVICENOW_WEBHOOK_SECRETS": SECRET,
}


def rule(
    table: WatchedTable, *more: WatchedTable, setup: NotificationSetup = SETUP
) -> BusinessRule:
    """The only record that the instance needs."""
    [only] = business_rules([table, *more], setup)
    return only


def conditions(*tables: WatchedTable) -> dict[str, str]:
    return {rule.action: rule.filter_condition for rule in business_rules(tables, SETUP)}


def hearing(source: str, *, more: str = "") -> Rule:
    """A rule from *source* that names a few columns in its several ways."""
    names = "row.value" if "." in source else "row['assigned_to.email']"
    text = f"""
version: 1
rules:
  - name: back
    from: {source}
    {more}
    mutate:
      query: "mutation($id: bigint!, $s: String) {{ delete_x_by_pk(id: $id) {{ id }} y(s: $s) }}"
      variables: {{id: "{{{{ link.key }}}}", s: "{{{{ {names} }}}}"}}
"""
    [rule] = load_rules(text, environ={}).rules
    return rule


class TestRecords:
    def test_an_update_is_told_by_an_async_rule_whose_condition_says_what_changed(self) -> None:
        assert rule(STATE) == BusinessRule(
            name="Tell shop of update",
            table="incident",
            when="async",
            action="update",
            filter_condition="correlation_idSTARTSWITHshop:^sys_updated_by!=svc.hasura"
            "^stateVALCHANGES^ORcorrelation_idVALCHANGES^EQ",
        )

    def test_an_insert_is_told_whatever_its_columns_are(self) -> None:
        watched = replace(STATE, filters=("category=network",), insert=True)

        assert conditions(watched)["insert"] == "category=network^sys_updated_by!=svc.hasura^EQ"
        assert conditions(watched).keys() == {"update", "insert"}

    def test_a_deletion_is_told_by_an_after_rule_which_asks_who_deletes(self) -> None:
        deleted = rule(WatchedTable("incident", delete=True))

        assert (deleted.when, deleted.action) == ("after", "delete")
        assert deleted.filter_condition == "correlation_idSTARTSWITHshop:^EQ"
        assert deleted.condition == 'gs.getUserName() != "svc.hasura"'

    def test_entries_of_journals_are_changes(self) -> None:
        watched = WatchedTable("incident", journals=("comments", "work_notes"))

        assert "^commentsVALCHANGES^ORwork_notesVALCHANGES^OR" in rule(watched).filter_condition

    def test_of_a_path_the_reference_is_watched(self) -> None:
        watched = WatchedTable("incident", columns=("assigned_to.email", "assigned_to.name"))

        assert rule(watched).filter_condition.count("assigned_to") == 1

    def test_rules_of_one_filter_are_told_together(self) -> None:
        other = WatchedTable("incident", columns=("priority", "state"), journals=("comments",))

        assert rule(STATE, other).filter_condition == (
            "correlation_idSTARTSWITHshop:^sys_updated_by!=svc.hasura^stateVALCHANGES"
            "^ORpriorityVALCHANGES^ORcommentsVALCHANGES^ORcorrelation_idVALCHANGES^EQ"
        )

    def test_rules_of_several_filters_are_told_each_of_its_own_columns(self) -> None:
        other = WatchedTable("incident", columns=("priority",), filters=("active=true",))

        assert rule(STATE, other).filter_condition == (
            "correlation_idSTARTSWITHshop:^sys_updated_by!=svc.hasura"
            "^stateVALCHANGES^ORcorrelation_idVALCHANGES"
            "^NQactive=true^sys_updated_by!=svc.hasura^priorityVALCHANGES^ORactiveVALCHANGES^EQ"
        )

    def test_an_alternative_within_a_filter_has_all_the_conditions(self) -> None:
        watched = replace(STATE, filters=("active=true^NQcategory=a^ORassignment_group.name=b^EQ",))
        changes = (
            "stateVALCHANGES^ORactiveVALCHANGES^ORcategoryVALCHANGES^ORassignment_groupVALCHANGES"
        )

        assert rule(watched).filter_condition == (
            f"active=true^sys_updated_by!=svc.hasura^{changes}"
            f"^NQcategory=a^ORassignment_group.name=b^sys_updated_by!=svc.hasura^{changes}^EQ"
        )

    def test_a_filter_may_be_all_records(self) -> None:
        watched = replace(STATE, filters=("",))

        assert rule(watched).filter_condition == "sys_updated_by!=svc.hasura^stateVALCHANGES^EQ"

    def test_each_table_has_records_of_its_own(self) -> None:
        rules = business_rules([replace(STATE, table="problem", insert=True), STATE], SETUP)

        assert [(one.table, one.action) for one in rules] == [
            ("incident", "update"),
            ("problem", "update"),
            ("problem", "insert"),
        ]

    def test_nothing_to_hear_is_nothing_to_tell(self) -> None:
        assert business_rules([WatchedTable("incident")], SETUP) == []

    def test_a_long_source_name_is_shortened_and_stays_its_own(self) -> None:
        names = {
            rule(STATE, setup=replace(SETUP, source_name=f"{'x' * 39}{end}")).name for end in "yz"
        }

        assert len(names) == 2
        assert all(len(name) <= 40 for name in names)

    @pytest.mark.parametrize("name", ["a^b", "javascript:gs.x()", "JavaScript:1", "a\nb"])
    def test_a_user_that_no_condition_can_hold_is_refused(self, name: str) -> None:
        with pytest.raises(UnfitName, match="give the user another User ID"):
            business_rules([STATE], replace(SETUP, user_name=name))

    @pytest.mark.parametrize("column", ["a^b", "State", "a..b", "", ".a", "a.", "ä", "a\n"])
    def test_what_is_no_column_is_refused(self, column: str) -> None:
        for watched in (replace(STATE, columns=(column,)), replace(STATE, journals=(column,))):
            with pytest.raises(UnfitName, match="is no column of incident"):
                business_rules([watched], SETUP)


class TestWhatRulesHear:
    def test_of_a_table_the_columns_that_they_name(self) -> None:
        heard = hearing("servicenow/incident", more="when: shown.state == old.close_notes")

        assert watched_tables([heard]) == [
            WatchedTable("incident", columns=("assigned_to.email", "close_notes", "state"))
        ]

    def test_of_a_journal_its_entries_alone(self) -> None:
        assert watched_tables([hearing("servicenow/incident.comments")]) == [
            WatchedTable("incident", journals=("comments",), insert=True)
        ]

    def test_inserts_and_deletes_where_they_say_so(self) -> None:
        heard = hearing("servicenow/problem", more="ops: [INSERT, DELETE]")

        assert watched_tables([heard]) == [WatchedTable("problem", insert=True, delete=True)]

    def test_their_filters(self) -> None:
        heard = hearing("servicenow/problem", more="filter: active=true")

        assert watched_tables([heard]) == [
            WatchedTable("problem", columns=("assigned_to.email",), filters=("active=true",))
        ]

    def test_a_ticket_that_comes_to_meet_the_filter_of_a_rule_for_new_ones(self) -> None:
        heard = WatchedTable("incident", filters=("category=a",), insert=True)

        assert [one.action for one in business_rules([heard], SETUP)] == ["update", "insert"]


class TestScripts:
    @pytest.mark.parametrize("scope", ["", "x_acme_app"])
    def test_they_are_ascii_and_of_the_language_that_every_instance_has(self, scope: str) -> None:
        setup = replace(SETUP, scope=scope)
        watched = replace(STATE, filters=("category=Störung \"'\u2028",))
        scripts = (
            rule_script("incident", setup),
            conditions_script(business_rules([watched], setup)),
        )

        for script in scripts:
            assert script.isascii()
            assert not re.search(r"=>|`|\b(?:let|const|class)\b", script)

    def test_a_scope_has_its_own_class_and_names(self) -> None:
        script = rule_script("incident", replace(SETUP, scope="x_acme_app"))

        assert "new CertificateEncryption()" in script
        assert 'gs.getProperty("x_acme_app.hasura.shop.url")' in script
        assert "new GlideCertificateEncryption()" in rule_script("incident", SETUP)
        assert 'gs.getProperty("hasura.shop.url")' in rule_script("incident", SETUP)

    @given(table=st.text(), query=st.text().filter(lambda text: "^" not in text))
    def test_whatever_is_put_into_them_stays_within_a_text(self, table: str, query: str) -> None:
        script = rule_script(table, SETUP)
        [watched] = business_rules([WatchedTable(table, ("state",), (query,))], SETUP)
        rows = conditions_script([watched]).partition("[\n")[2].partition("\n];\n")[0]

        assert script.count("\n") == rule_script("x", SETUP).count("\n")
        assert f"table: {json.dumps(table)},\n" in script
        assert json.loads(rows) == [table, watched.name, watched.filter_condition]


class TestWhatIsPrinted:
    def test_steps_scripts_and_what_was_never_tried(self) -> None:
        tables = [replace(STATE, delete=True), replace(STATE, table="problem")]

        text = printed(tables, SETUP, SECRET)

        assert re.findall(r"^(\d)\. ", text, re.MULTILINE) == list("12345")
        assert "Value  https://tickets.example.com/servicenow\n" in text
        for table in ("incident", "problem"):
            assert rule_script(table, SETUP) in text
        for rule in business_rules(tables, SETUP):
            assert f"Name        {rule.name}\n   Table       {rule.table}\n" in text
            assert json.dumps(rule.filter_condition) in text
        assert '   Condition   gs.getUserName() != "svc.hasura"\n' in text
        assert "No instance was reached while this was written." in text

    def test_no_secret_and_what_an_instance_must_print_that_has_it(self) -> None:
        text = printed([STATE], SETUP, SECRET)

        # printf trial | openssl dgst -sha256 -hmac a-secret-of-the-shop -binary | base64
        assert f"It must print {TRIAL_MAC}\n" in text
        assert SECRET not in text

    def test_lines_are_no_longer_than_a_terminal_but_for_what_is_pasted(self) -> None:
        long = [line for line in printed([STATE], SETUP, SECRET).splitlines() if len(line) > 100]

        assert all(line.strip().startswith(("gs.info(", '["incident"')) for line in long)


class TestSettings:
    def test_the_settings_say_who_is_told(self) -> None:
        settings = load_settings(ENVIRON)

        assert notification_setup(settings, "global", "") == NotificationSetup(
            "shop-prod", "hasura", "https://tickets.example.com"
        )
        assert notification_setup(settings, "x_acme_app", "another") == NotificationSetup(
            "shop-prod", "another", "https://tickets.example.com", "x_acme_app"
        )

    @pytest.mark.parametrize(
        ("environ", "scope", "sentence"),
        [
            ({"PUBLIC_URL": ""}, "", "PUBLIC_URL must be set"),
            ({"SERVICENOW_WEBHOOK_SECRETS": ""}, "", "SERVICENOW_WEBHOOK_SECRETS must be set"),
            (
                {
                    "SERVICENOW_USERNAME": "",
                    "SERVICENOW_PASSWORD": "",
                    "SERVICENOW_API_KEY": "key",
                },
                "",
                "say --user",
            ),
            ({}, "X Acme", "--scope must be"),
            ({}, 'x_";', "--scope must be"),
        ],
    )
    def test_what_is_missing_is_a_sentence(
        self, environ: dict[str, str], scope: str, sentence: str
    ) -> None:
        settings = load_settings(ENVIRON | environ)

        with pytest.raises(click.ClickException, match=sentence):
            notification_setup(settings, scope, "")
