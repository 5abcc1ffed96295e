"""The encoded-query grammar beyond what ServiceNow's own client says, and how a list shows what it
found."""

import pytest

from sandbox.servicenow import ServiceNow
from tests.sandbox.client import CLOSE, HEX, Api, Time, error, group, user


@pytest.fixture
def four(api: Api, instance: ServiceNow, clock: Time) -> Api:
    """An hour apart each; the third is resolved, the fourth is the Network's."""
    api.make(
        number="INC1",
        short_description="Printer on fire",
        description="Printer on fire",
        impact=1,
        due_date="2026-09-21 16:13:21",
    )
    clock.now += 3600
    api.make(
        number="INC2",
        short_description="printer jams",
        assigned_to=user(instance, "beth.anglin"),
        due_date="2026-09-21 17:13:20",
    )
    clock.now += 3600
    api.make(
        number="INC3",
        short_description="Router down",
        state=6,
        urgency=2,
        due_date="2026-09-21 15:13:20",
        **CLOSE,
    )
    clock.now += 3600
    api.make(
        number="INC4", short_description="Switch down", assignment_group=group(instance, "Network")
    )
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
            (
                "sys_created_onONToday@javascript:gs.beginningOfToday()@javascript:gs.endOfToday()",
                "1234",
            ),
            (
                "sys_created_onONYesterday@javascript:gs.beginningOfYesterday()@javascript:gs.endOfYesterday()",
                "",
            ),
            ("sys_created_onON2026-09-21", "1234"),
            ("sys_created_onNOTON2026-09-21", ""),
            ("sys_created_onRELATIVEGT@hour@ago@2", "234"),
            ("sys_created_onRELATIVELT@minute@ago@90", "12"),
            ("opened_by=javascript:gs.getUserID()", "1234"),
            ("opened_byDYNAMIC90d1921e5f510100a9ad2572f2b477fe", "1234"),
            ("sys_created_by=javascript:gs.getUserName()", "1234"),
            # A function of several values is IN, with = as well.
            ("assignment_group=javascript:gs.getUser().getMyGroups()^state=1", ""),
            ("assignment_groupINjavascript:getMyGroups()", ""),
            ("assignment_groupDYNAMICd6435e965f510100a9ad2572f2b47744", ""),
            ("opened_byDYNAMIC54635e965f510100a9ad2572f2b4774c", "1234"),
            ("assignment_groupNOT INjavascript:getMyGroups()^number=INC1", "1"),
            ("numberSTARTSWITHjavascript:getMyGroups()^number=INC1", "1"),
            # Times that no clock shows.
            ("due_dateMORETHANopened_at@year@after@999999", ""),
            ("due_dateLESSTHANopened_at@day@before@999999^number=INC1", ""),
            # The other ways to write an operator.
            ("short_description*DOWN", "34"),
            ("short_description!*down", "12"),
            ("short_descriptionNOTLIKEdown", "12"),
            ("short_description%down", "34"),
            ("descriptionEMPTY", "234"),
            ("descriptionNOTEMPTY", "1"),
            ("short_descriptionBETWEENa@q", "12"),
            (
                "sys_created_onBETWEENjavascript:gs.dateGenerate('2026-09-21','15:00:00')@javascript:gs.daysAgoEnd(0)",
                "234",
            ),
            (
                "sys_created_onON2026-09-21@javascript:gs.dateGenerate('2026-09-21','start')@javascript:gs.dateGenerate('2026-09-21','end')",
                "1234",
            ),
            ("sys_created_on>=javascript: gs.dateGenerate( '2026-09-21', \"16:00:00\" );", "34"),
            ("sys_created_on>javascript:gs.beginningOfLastMonth()", "1234"),
            ("sys_created_on<javascript:gs.monthsAgo(1)", ""),
            (
                (
                    "sys_created_onONLast 7 "
                    "days@javascript:gs.beginningOfLast7Days()@javascript:gs.endOfLast7Days()"
                ),
                "1234",
            ),
            # Part of a date: the 21st is a Monday in September, and the four are of 14, 15, 16 and
            # 17 o'clock.
            (
                "sys_created_onDATEPARTMonday@javascript:gs.datePart('dayofweek','monday','EE')",
                "1234",
            ),
            ("sys_created_onDATEPARTMonday@javascript:gs.datePart('dayofweek','monday','GT')", ""),
            (
                "sys_created_onDATEPARTTuesday@javascript:gs.datePart('dayofweek','tuesday','LT')",
                "1234",
            ),
            (
                "sys_created_onDATEPARTSunday@javascript:gs.datePart('dayofweek','sunday','GE')",
                "1234",
            ),
            ("sys_created_onDATEPARTSeptember@javascript:gs.datePart('month','sep','EE')", "1234"),
            ("sys_created_onDATEPARTQuarter 3@javascript:gs.datePart('quarter','3','LE')", "1234"),
            ("sys_created_onDATEPART2025@javascript:gs.datePart('year','2025','GT')", "1234"),
            ("sys_created_onDATEPARTWeek 38@javascript:gs.datePart('week','38','EE')", "1234"),
            ("sys_created_onDATEPART3 pm hour@javascript:gs.datePart('hour','15','EE')", "2"),
            # Two dates: the third is resolved at 16:13:20, like it was opened.
            ("resolved_atSAMEASopened_at@hour", "3"),
            ("opened_atSAMEASsys_created_on@day", "1234"),
            ("opened_atNSAMEASresolved_at@week", "124"),
            ("opened_atMORETHANdue_date@hour@before@2", "1"),
            ("opened_atLESSTHANdue_date@hour@before@2", "2"),
            ("opened_atMORETHANdue_date@minute@after@59", "3"),
            ("opened_atLESSTHANdue_date@hour@after@1", "3"),
            ("opened_atLESSTHANdue_date@minute@after@59", ""),
            ("sys_created_onRELATIVEGE@day@ago@1", "1234"),
            ("sys_created_onRELATIVELE@month@ago@1", ""),
            ("sys_created_onRELATIVEEE@hour@ago@1", "3"),
            ("sys_created_onRELATIVELE@week@ahead@1", "1234"),
            # What people hold is no column, yet it can be asked for.
            ("opened_by.roles=itil", "1234"),
            ("opened_by.roles=admin", ""),
            ("opened_by.rolesINadmin,itil", "1234"),
            ("opened_by.rolesLIKEti", "1234"),
            ("GOTO123TEXTQUERY321=printer", "12"),
            # Only unknown fields are dropped, with whatever operator.
            ("u_none=1", "1234"),
            ("u_noneMATCH_RGX.*", "1234"),
            ("u_none=javascript:new Secret().reveal()", "1234"),
            ("stateGT_FIELDu_none", "1234"),
            ("opened_atMORETHANu_none@hour@before@1", "1234"),
            ("AAAA=BBBB^number=INC1", "1"),
            ("^^number=INC1^", "1"),
            # The text of a value is no script, where it does not begin so.
            ("short_descriptionLIKEjavascript:gs.getUserID()", "1234"[:0]),
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
            ("RLQUERYsys_journal_field.u_none,>0^ENDRLQUERY^number=INC4", "4"),
            ("RLQUERYincident.parent_incident,>=1,priority=1^ENDRLQUERY", ""),
            ("JOINincident.assignment_group=sys_user_group.sys_id!name=Network", "4"),
            (
                "number!=INC4^JOINincident.assignment_group=sys_user_group.sys_id!nameISNOTEMPTY^ORDERBYnumber",
                "",
            ),
            ("JOINincident.u_none=sys_user_group.sys_id!name=Network", "1234"),
            ("numberIN" + ",".join(["X"] * 300) + ",INC2", "2"),
        ],
    )
    def test_an_encoded_query_finds(self, four: Api, query: str, numbers: str) -> None:
        assert "".join(row["number"][3:] for row in four.found(query)) == numbers

    @pytest.mark.parametrize(
        ("query", "name"),
        [
            ("number=javascript:new Secret().reveal()", "javascript:new Secret().reveal()"),
            ("number=javascript:gs.getProperty('x')", "gs.getProperty"),
            ("number=javascript:gs.daysAgo(x)", "gs.daysAgo(x)"),
            ("number=javascript:gs.daysAgo()", "gs.daysAgo()"),
            ("opened_at>javascript:gs.dateGenerate('yesterday','start')", "gs.dateGenerate"),
            ("opened_at>javascript:gs.beginningOfLast5Days()", "beginningOfLast5Days"),
            (
                "opened_at>javascript:gs.beginningOfThisSchedulePeriod()",
                "beginningOfThisSchedulePeriod",
            ),
            ("opened_at>javascript:gs.monthsAgo(999999)", "gs.monthsAgo(999999)"),
            ("numberINjavascript:someFunction()", "someFunction"),
            ("opened_atBETWEEN2026-01-01@javascript:gs.tomorrow()", "gs.tomorrow()"),
            ("javascript:'active=true^' + getGroupQualifier()", "javascript:"),
            ("numberMATCH_RGX^INC", "numberMATCH_RGX"),
            ("numberMATCH_PAT.*", "numberMATCH_PAT"),
            ("number", "'number'"),
            ("numberFOO1", "numberFOO1"),
            ("state<>1", "<>"),
            ("assigned_toIN_HIERARCHYfdd0fa0f93f5d2505bd0bd886cba1015@x", "IN_HIERARCHY"),
            ("assigned_toIN_HIERARCHY_DYNAMICx@y", "IN_HIERARCHY_DYNAMIC"),
            (
                "assigned_toDYNAMIC0123456789abcdef0123456789abcdef",
                "0123456789abcdef0123456789abcdef",
            ),
            (
                "sys_tags.6c361e12471331007f47563dbb9a7135=6c361e12471331007f47563dbb9a7135",
                "sys_tags",
            ),
            ("stateVALCHANGES", "VALCHANGES"),
            ("stateCHANGESTO6", "CHANGESTO"),
            ("stateCHANGESFROM6", "CHANGESFROM"),
            ("active=true^GROUPBYcategory", "GROUPBY"),
            ("active=true^GOTOnumber>=INC3", "GOTO"),
            ("123TEXTINDEXGROUP321=portal_index_group", "123TEXTINDEXGROUP321"),
            ("opened_atRELATIVEGT@decade@ago@1", "@decade@ago@1"),
            ("opened_atRELATIVEGT", "RELATIVEGT"),
            ("opened_atRELATIVEGT@year@ahead@999999", "999999 years"),
            (
                "opened_atRELATIVELT@minute@ago@999999^opened_atRELATIVELE@month@ago@999999",
                "-999999 months",
            ),
            ("opened_atDATEPARTMonday", "DATEPART"),
            ("opened_atDATEPARTx@javascript:gs.datePart('decade','1','EE')", "gs.datePart"),
            ("opened_atDATEPARTx@javascript:gs.datePart('dayofweek','someday','EE')", "someday"),
            ("opened_atDATEPARTx@javascript:gs.datePart('dayofweek','monday','XX')", "XX"),
            ("opened_atSAMEASdue_date@decade", "due_date@decade"),
            ("opened_atMORETHANdue_date", "MORETHAN"),
            ("opened_atBETWEEN2026-01-01", "BETWEEN"),
            ("opened_atONToday", "ON"),
            ("opened_by.rolesSTARTSWITHit", "STARTSWITH"),
            ("RLQUERYno_such_table.x,>0^y=1^ENDRLQUERY", "no_such_table"),
            ("RLQUERYnonsense^ENDRLQUERY", "RLQUERYnonsense"),
            ("JOINincident.number=task_sla.task!active=true", "task_sla"),
            ("JOINnonsense", "JOINnonsense"),
            ("number=INC1^NQnumberFOO1", "numberFOO1"),
            ("number=INC1^ORnumberFOO1", "numberFOO1"),
        ],
    )
    def test_what_is_known_elsewhere_and_not_here_is_501_by_its_name(
        self, four: Api, query: str, name: str
    ) -> None:
        status, message, detail = error(
            four.call("GET", "table/incident", params={"sysparm_query": query})
        )

        assert (status, message) == (501, "Not implemented by the sandbox")
        assert name in str(detail)

    def test_a_business_rule_that_cannot_be_tried_refuses_the_writes_that_it_is_about(
        self, api: Api
    ) -> None:
        rule = {
            "name": "Odd",
            "collection": "incident",
            "action_insert": "true",
            "abort_action": "true",
        }
        api.call("POST", "table/sys_script", rule | {"filter_condition": "numberMATCH_RGXINC.*"})

        assert error(api.call("POST", "table/incident", {}))[0] == 501

    @pytest.mark.parametrize(
        ("pairs", "numbers"),
        [
            ({"state": "New"}, "124"),
            ({"state": "new"}, "124"),
            ({"state": "RESOLVED"}, "3"),
            ({"state": "6"}, "3"),
            ({"state": "Nonsense"}, ""),
            ({"state": "New", "impact": "1 - High"}, "1"),
            ({"assigned_to": "Beth Anglin"}, "2"),
            ({"assigned_to": "beth.anglin"}, "2"),
            ({"assigned_to": ""}, "134"),
            ({"assignment_group": "network"}, "4"),
            ({"assignment_group.name": "Network"}, "4"),
            ({"active": "true", "number": "INC3"}, "3"),
            ({"opened_by": "javascript:gs.getUserID()"}, "1234"),
            ({"short_description": "x^ORnumber=INC1"}, ""),
            ({"u_none": "1", "number": "INC3"}, "3"),
            ({"sysparm_query": "number=INC1", "state": "Resolved"}, "1"),
        ],
    )
    def test_columns_are_asked_for_by_name_and_by_what_people_see(
        self, four: Api, pairs: dict[str, str], numbers: str
    ) -> None:
        answer = four.call("GET", "table/incident", params=pairs)

        assert "".join(row["number"][3:] for row in answer.json()["result"]) == numbers
        assert answer.headers["X-Total-Count"] == str(len(numbers))

    def test_thousands_of_alternatives_are_one_query(self, instance: ServiceNow) -> None:
        query = "^OR".join(f"number=INC{number}" for number in range(5_000))

        assert instance.tables.count("incident", query) == 0

    def test_a_table_refers_to_itself_in_a_related_list(self, instance: ServiceNow) -> None:
        abel, beth = user(instance, "abel.tuter"), user(instance, "beth.anglin")
        instance.tables.update("sys_user", abel, {"manager": beth}, by="admin")

        bosses = instance.tables.select(
            "sys_user", "RLQUERYsys_user.manager,>0^active=true^ENDRLQUERY"
        )

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


class TestWayBack:
    """What a client asks that wants to know what changed since it last looked."""

    def test_pages_by_time_and_sys_id_have_every_record_once_also_of_one_second(
        self, api: Api, instance: ServiceNow, clock: Time
    ) -> None:
        ids = [f"{digit}{HEX[1:]}" for digit in "c0a5f9b371"]
        for place, sys_id in enumerate(ids):
            clock.now += place % 5 == 0
            api.make(sys_id=sys_id, correlation_id=f"shop:{place}")
            api.make(correlation_id=f"market:{place}")
        clock.now += 1
        instance.change("incident", ids[3], state="In Progress")
        ours, order = "correlation_idSTARTSWITHshop:", "ORDERBYsys_updated_on^ORDERBYsys_id"
        found: list[tuple[str, str]] = []
        query = f"{ours}^{order}"
        while rows := api.found(query, sysparm_limit="2", sysparm_fields="sys_id,sys_updated_on"):
            found += [(row["sys_updated_on"], row["sys_id"]) for row in rows]
            at, last = found[-1]
            later, same = f"{ours}^sys_updated_on>{at}", f"{ours}^sys_updated_on={at}^sys_id>{last}"
            query = f"{later}^NQ{same}^{order}"

        assert [sys_id for _, sys_id in found] == [
            *sorted(set(ids[:5]) - {ids[3]}),
            *sorted(ids[5:]),
            ids[3],
        ]
        assert found == sorted(found)

    def test_what_changed_from_a_time_on_is_found_that_second_included(self, four: Api) -> None:
        rows = four.found("sys_updated_on>=2026-09-21 16:13:20^ORDERBYsys_updated_on")

        assert [row["number"] for row in rows] == ["INC3", "INC4"]

    @pytest.mark.parametrize(
        ("local", "query", "found"),
        [
            (False, "sys_updated_on>=2026-09-21 14:13:20", True),
            (False, "sys_updated_on>=2026-09-21 16:13:20", False),
            (True, "sys_updated_on>=2026-09-21 16:13:20", True),
            (True, "sys_updated_on=2026-09-21 16:13:20", True),
            (True, "sys_updated_on>=2026-09-21 16:13:21", False),
            (True, "sys_updated_onBETWEEN2026-09-21 16:13:20@2026-09-21 16:13:20", True),
            (True, "sys_updated_on>=javascript:gs.dateGenerate('2026-09-21','16:13:20')", True),
            (True, "numberSTARTSWITHINC^sys_updated_on>=soon", False),
        ],
    )
    def test_an_instance_may_take_a_time_for_one_of_the_user_s_zone(
        self, clock: Time, local: bool, query: str, found: bool
    ) -> None:
        with ServiceNow(clock=clock, time_zone="Europe/Berlin", local_times=local) as instance:
            api = Api(instance)
            with api.session:
                api.make()

                assert bool(api.found(query)) is found

    def test_a_record_has_values_and_display_values_through_references_too(
        self, four: Api, instance: ServiceNow
    ) -> None:
        asked = {
            "sysparm_fields": "state,assigned_to,assigned_to.email,assigned_to.manager.email",
            "sysparm_display_value": "all",
            "sysparm_exclude_reference_link": "true",
        }
        [two] = four.found("number=INC2", **asked)
        [four_] = four.found("number=INC4", **asked)

        beth = user(instance, "beth.anglin")
        email = next(u["email"] for u in instance.rows("sys_user") if u["sys_id"] == beth)
        assert email
        assert two == {
            "state": {"display_value": "New", "value": "1"},
            "assigned_to": {"display_value": "Beth Anglin", "value": beth},
            "assigned_to.email": {"display_value": email, "value": email},
            "assigned_to.manager.email": {"display_value": "", "value": ""},
        }
        assert four_ == {
            "state": {"display_value": "New", "value": "1"},
            **{name: {"display_value": "", "value": ""} for name in two if name != "state"},
        }

    def test_entries_of_a_ticket_s_journals_are_found_from_a_time_on_oldest_first(
        self, four: Api, instance: ServiceNow, clock: Time
    ) -> None:
        one, two = (row["sys_id"] for row in instance.rows("incident")[:2])
        for text in ("first", "second"):
            instance.change("incident", one, comments=text, work_notes=f"{text} note")
        instance.change("incident", two, comments="another's")
        clock.now += 60
        four.patch(one, comments="third")

        def entries(query: str) -> list[tuple[str, str, str]]:
            rows = four.found(
                f"name=incident^element_id={one}^{query}^ORDERBYsys_created_on",
                "sys_journal_field",
                sysparm_fields="sys_id,element,value,sys_created_by,sys_created_on",
            )
            assert all(len(row["sys_id"]) == 32 and row["sys_created_on"] for row in rows)
            return [(row["element"], row["value"], row["sys_created_by"]) for row in rows]

        assert entries("element=comments") == [
            ("comments", "first", "admin"),
            ("comments", "second", "admin"),
            ("comments", "third", "svc.hasura"),
        ]
        assert [value for _, value, _ in entries("elementINcomments,work_notes")] == [
            *("first", "first note", "second", "second note", "third")
        ]
        assert entries("element=comments^sys_created_on>=2026-09-21 17:14:20") == [
            ("comments", "third", "svc.hasura")
        ]
        assert entries("element=work_notes^sys_created_on>2026-09-21 17:13:20") == []


class TestShown:
    def test_a_dotted_field_comes_back_under_itself(self, four: Api, instance: ServiceNow) -> None:
        fields = (
            "number,assignment_group.name,assignment_group.manager,assigned_to.name,"
            "opened_by.u_none,number.x"
        )
        [row] = four.found(
            "number=INC4", sysparm_fields=fields, sysparm_exclude_reference_link="true"
        )

        manager = next(
            g["manager"] for g in instance.rows("sys_user_group") if g["name"] == "Network"
        )
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
        with (
            ServiceNow(clock=clock, time_zone="Europe/Berlin") as instance,
            Api(instance).session as session,
        ):
            api = Api(instance)
            api.session = session
            answer = api.call(
                "POST",
                "table/incident?sysparm_input_display_value=true&sysparm_display_value=all",
                {"due_date": "2026-01-01 13:00:00"},
            )
            made = answer.json()["result"]

        assert made["due_date"] == {
            "display_value": "2026-01-01 13:00:00",
            "value": "2026-01-01 12:00:00",
        }
        assert made["opened_at"] == {
            "display_value": "2026-09-21 16:13:20",
            "value": "2026-09-21 14:13:20",
        }


class TestLongAddresses:
    def test_a_long_query_can_be_kept_under_a_short_key(self, four: Api) -> None:
        query = "number=INC9^OR" * 900 + "number=INC2"
        kept = four.call(
            "POST",
            "tinyurl",
            {"url": f"api/now/table/incident?sysparm_query={query}&sysparm_limit=1"},
        )
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

        assert (answer.status_code, answer.headers["Content-Type"]) == (
            414,
            "text/html;charset=UTF-8",
        )
        assert "<html" in answer.text


class TestSeed:
    """What every fresh developer instance has, with its ids."""

    def test_the_administrator_is_in_finance_and_in_another_time_zone(
        self, instance: ServiceNow
    ) -> None:
        admin = instance.row("sys_user", "6816f79cc0a8016401c5a33be04be441")
        finance = instance.row("cmn_department", "a581ab703710200044e0bfc8bcbe5de8")

        assert admin is not None
        assert finance is not None
        assert (admin["name"], admin["email"]) == ("System Administrator", "admin@example.com")
        assert admin["time_zone"] not in {"", "UTC", "GMT"}
        assert admin["department"] == finance["sys_id"]
        assert (finance["name"], finance["dept_head"]) == (
            "Finance",
            "46c5bf6ca9fe1981010713e3ac7d3384",
        )
        assert (
            instance.tables.shown("cmn_department", "dept_head", finance["dept_head"])
            == "Natasha Ingram"
        )

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
