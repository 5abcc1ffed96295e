"""The encoded-query grammar beyond what ServiceNow's own client says, and how a list shows what it found."""

import pytest

from sandbox.servicenow import ServiceNow
from tests.sandbox.client import CLOSE, HEX, Api, Time, error, group, user


@pytest.fixture
def four(api: Api, instance: ServiceNow, clock: Time) -> Api:
    """An hour apart each; the third is resolved, the fourth is the Network's."""
    api.make(number="INC1", short_description="Printer on fire", description="Printer on fire", impact=1)
    clock.now += 3600
    api.make(number="INC2", short_description="printer jams", assigned_to=user(instance, "beth.anglin"))
    clock.now += 3600
    api.make(number="INC3", short_description="Router down", state=6, urgency=2, **CLOSE)
    clock.now += 3600
    api.make(number="INC4", short_description="Switch down", assignment_group=group(instance, "Network"))
    return api


class TestGrammar:
    @pytest.mark.parametrize(
        ("query", "numbers"),
        [
            ("impactBETWEEN2@3", "234"),
            ("sys_created_onBETWEEN2026-09-21 15:00:00@2026-09-21 16:30:00", "23"),
            ("sys_created_onBETWEENjavascript:gs.hoursAgo(1)@javascript:gs.nowDateTime()", "34"),
            ("descriptionSAMEASshort_description", "1"),
            ("descriptionNSAMEASshort_description", "234"),
            ("impactGT_FIELDurgency", "3"),
            ("impactLT_FIELDurgency", "1"),
            ("impactGT_OR_EQUALS_FIELDurgency", "234"),
            ("assigned_toANYTHING", "1234"),
            ("descriptionEMPTYSTRING", "234"),
            ("sys_class_nameINSTANCEOFtask", "1234"),
            ("sys_class_nameINSTANCEOFproblem", ""),
            ("sys_created_onONToday@javascript:gs.beginningOfToday()@javascript:gs.endOfToday()", "1234"),
            ("sys_created_onONYesterday@javascript:gs.beginningOfYesterday()@javascript:gs.endOfYesterday()", ""),
            ("sys_created_onON2026-09-21", "1234"),
            ("sys_created_onNOTON2026-09-21", ""),
            ("sys_created_onRELATIVEGT@hour@ago@2", "234"),
            ("sys_created_onRELATIVELT@minute@ago@90", "12"),
            ("opened_by=javascript:gs.getUserID()", "1234"),
            ("opened_byDYNAMIC90d1921e5f510100a9ad2572f2b477fe", "1234"),
            ("sys_created_by=javascript:gs.getUserName()", "1234"),
            # A script that is not known here is a term that is not.
            ("number=javascript:new Secret().reveal()", "1234"),
            ("123TEXTQUERY321=printer", "12"),
            ("123TEXTQUERY321=printer fire", "1"),
            ("assignment_group.name=Network", "4"),
            ("assignment_group.nameSTARTSWITHnet^state=1", "4"),
            ("assigned_to.manager.nameISEMPTY", "1234"),
            ("assigned_to.no_such_field=1", "1234"),
            ("short_description.name=1", "1234"),
            # A reference is searched by the name that people see.
            ("assigned_toLIKEanglin", "2"),
            ("assignment_groupSTARTSWITHNet", "4"),
            ("ORDERBYDESCassigned_to^ORDERBYnumber", "2134"),
            ("ORDERBYassignment_group.name^ORDERBYDESCnumber", "3214"),
            ("number=INC1^ORnumber=INC2^short_descriptionLIKEjams", "2"),
            ("number=INC1^NQnumber=INC3^NQnumber=INC4^ORDERBYDESCnumber", "431"),
            ("assigned_to=^EQ", "134"),
            ("RLQUERYsys_journal_field.element_id,=0^ENDRLQUERY^number=INC4", "4"),
            ("RLQUERYno_such_table.x,>0^y=1^ENDRLQUERY^number=INC4", "4"),
            ("JOINincident.assignment_group=sys_user_group.sys_id!name=Network", "4"),
            ("number!=INC4^JOINincident.assignment_group=sys_user_group.sys_id!nameISNOTEMPTY^ORDERBYnumber", ""),
            ("active=true^GOTOnumber>=INC3", "1234"),
            ("numberIN" + ",".join(["X"] * 300) + ",INC2", "2"),
        ],
    )
    def test_an_encoded_query_finds(self, four: Api, query: str, numbers: str) -> None:
        assert "".join(row["number"][3:] for row in four.found(query)) == numbers

    def test_thousands_of_alternatives_are_one_query(self, instance: ServiceNow) -> None:
        query = "^OR".join(f"number=INC{number}" for number in range(5_000))

        assert instance.tables.count("incident", query) == 0

    def test_a_table_refers_to_itself_in_a_related_list(self, instance: ServiceNow) -> None:
        abel, beth = user(instance, "abel.tuter"), user(instance, "beth.anglin")
        instance.tables.update("sys_user", abel, {"manager": beth}, by="admin")

        bosses = instance.tables.select("sys_user", "RLQUERYsys_user.manager,>0^active=true^ENDRLQUERY")

        assert [boss["sys_id"] for boss in bosses] == [beth]

    def test_columns_that_are_words_of_sql_can_be_asked_for(self, api: Api) -> None:
        members = api.found("group.name=Network^user.active=true^ORDERBYgroup", "sys_user_grmember")

        assert len(members) == 3
        assert api.found("order>50^when=before", "sys_script") == []

    def test_keyset_paging_finds_every_row_once(self, api: Api) -> None:
        numbers: list[str] = []
        while True:
            last = f"number>{numbers[-1]}^" if numbers else ""
            rows = api.found(f"{last}ORDERBYnumber", "problem", sysparm_limit="3")
            if not rows:
                break
            numbers += [row["number"] for row in rows]

        assert len(numbers) == len(set(numbers)) >= 9
        assert numbers == sorted(numbers)


class TestShown:
    def test_a_dotted_field_comes_back_under_itself(self, four: Api, instance: ServiceNow) -> None:
        fields = "number,assignment_group.name,assignment_group.manager,assigned_to.name,opened_by.u_none,number.x"
        [row] = four.found("number=INC4", sysparm_fields=fields, sysparm_exclude_reference_link="true")

        manager = next(g["manager"] for g in instance.rows("sys_user_group") if g["name"] == "Network")
        assert row == {
            "number": "INC4",
            "assignment_group.name": "Network",
            "assignment_group.manager": manager,
            "assigned_to.name": "",
        }

    def test_a_dotted_field_has_a_display_value_of_its_own(self, four: Api) -> None:
        asked = {"sysparm_fields": "assignment_group.active", "sysparm_display_value": "all"}
        [row] = four.found("number=INC4", **asked)

        assert row == {"assignment_group.active": {"display_value": "true", "value": "true"}}

    def test_times_are_shown_and_taken_in_the_user_s_time_zone(self, clock: Time) -> None:
        with ServiceNow(clock=clock, time_zone="Europe/Berlin") as instance, Api(instance).session as session:
            api = Api(instance)
            api.session = session
            answer = api.call(
                "POST",
                "table/incident?sysparm_input_display_value=true&sysparm_display_value=all",
                {"due_date": "2026-01-01 13:00:00"},
            )
            made = answer.json()["result"]

        assert made["due_date"] == {"display_value": "2026-01-01 13:00:00", "value": "2026-01-01 12:00:00"}
        assert made["opened_at"] == {"display_value": "2026-09-21 16:13:20", "value": "2026-09-21 14:13:20"}


class TestLongAddresses:
    def test_a_long_query_can_be_kept_under_a_short_key(self, four: Api) -> None:
        query = "number=INC9^OR" * 900 + "number=INC2"
        kept = four.call("POST", "tinyurl", {"url": f"api/now/table/incident?sysparm_query={query}&sysparm_limit=1"})
        address = kept.json()["result"]

        answer = four.ask("GET", f"/{address}&sysparm_fields=number")

        assert len(address) < 100
        assert answer.json()["result"] == [{"number": "INC2"}]

    def test_a_key_that_is_none_finds_everything(self, four: Api) -> None:
        assert len(four.call("GET", f"table/incident?sysparm_tiny={HEX}").json()["result"]) == 4

    def test_a_tiny_url_is_made_by_a_post(self, api: Api) -> None:
        assert error(api.call("GET", "tinyurl"))[0] == 405

    def test_an_address_over_16_kilobytes_is_answered_with_a_page(self, api: Api) -> None:
        answer = api.call("GET", "table/incident?sysparm_query=" + "x" * 16_400)

        assert (answer.status_code, answer.headers["Content-Type"]) == (414, "text/html;charset=UTF-8")
        assert "<html" in answer.text


class TestSeed:
    """What every fresh developer instance has, with its ids."""

    def test_the_administrator_is_in_finance_and_in_another_time_zone(self, instance: ServiceNow) -> None:
        admin = instance.row("sys_user", "6816f79cc0a8016401c5a33be04be441")
        finance = instance.row("cmn_department", "a581ab703710200044e0bfc8bcbe5de8")

        assert admin is not None
        assert finance is not None
        assert (admin["name"], admin["email"]) == ("System Administrator", "admin@example.com")
        assert admin["time_zone"] not in {"", "UTC", "GMT"}
        assert admin["department"] == finance["sys_id"]
        assert (finance["name"], finance["dept_head"]) == ("Finance", "46c5bf6ca9fe1981010713e3ac7d3384")
        assert instance.tables.shown("cmn_department", "dept_head", finance["dept_head"]) == "Natasha Ingram"

    def test_there_are_people_with_and_without_a_mobile_phone(self, instance: ServiceNow) -> None:
        phones = [row["mobile_phone"] for row in instance.rows("sys_user")]

        assert len(phones) >= 30
        assert 0 < len([phone for phone in phones if phone]) < 20
        names = {row["user_name"] for row in instance.rows("sys_user")}
        assert names >= {"employee", "problem.manager", "problem.admin", "natasha.ingram"}
        assert user(instance, "problem.admin") == "26fbff173b331300ad3cc9bb34efc4bd"

    @pytest.mark.parametrize(
        ("table", "query", "least", "most"),
        [
            ("sys_user_has_role", "role=2831a114c611228501d4ea6c309d626d", 11, 24),
            ("sys_user_group", "", 10, 100),
            ("sys_group_has_role", "role.name=admin", 3, 7),
            ("sys_user_group", "manager.active=true", 2, 100),
            ("sys_db_object", "nameINalm_asset,bsm_chart", 2, 2),
            ("syslog", "", 1_101, 5_000),
            ("sys_metadata", "", 501, 5_000),
            ("problem", "", 9, 100),
            ("std_change_producer_version", "name=Clear BGP sessions on a Cisco router - 1", 1, 1),
            ("sys_choice", "name=change_request^element=state", 8, 8),
        ],
    )
    def test_there_are_as_many_as_clients_count_on(
        self, instance: ServiceNow, table: str, query: str, least: int, most: int
    ) -> None:
        assert least <= instance.tables.count(table, query) <= most
