"""The columns that stock tables have: a query on one that is missing would return every record."""

from typing import Any

import pytest

from sandbox.servicenow import ServiceNow
from tests.sandbox.client import Api, user

TASK = """
    active activity_due additional_assignee_list approval approval_history approval_set assigned_to
    assignment_group
    business_duration business_service calendar_duration close_notes closed_at closed_by cmdb_ci
    comments
    comments_and_work_notes company contact_type contract correlation_display correlation_id
    delivery_plan
    delivery_task description due_date escalation expected_start follow_up group_list impact
    knowledge location
    made_sla number opened_at opened_by order parent priority reassignment_count rejection_goto
    route_reason
    service_offering short_description skills sla_due state sys_class_name sys_created_by
    sys_created_on sys_domain
    sys_domain_path sys_id sys_mod_count sys_tags sys_updated_by sys_updated_on
    task_effective_number time_worked
    universal_request upon_approval upon_reject urgency user_input watch_list wf_activity work_end
    work_notes
    work_notes_list work_start
"""
COLUMNS = {
    "task": TASK,
    "incident": TASK
    + """
    business_impact business_stc calendar_stc caller_id category cause caused_by child_incidents
    close_code hold_reason
    incident_state notify origin_id origin_table parent_incident problem_id reopen_count reopened_by
    reopened_time
    resolved_at resolved_by rfc severity subcategory
    """,
    "problem": TASK
    + """
    category cause_notes confirmed_at confirmed_by duplicate_of first_reported_by_task fix_at fix_by
    fix_communicated_at
    fix_communicated_by fix_notes known_error major_problem problem_state related_incidents
    reopen_count reopened_at
    reopened_by resolution_code resolved_at resolved_by review_outcome rfc subcategory workaround
    workaround_applied
    workaround_communicated_at workaround_communicated_by
    """,
    "problem_task": TASK
    + """
    cause_code cause_notes close_code fix_notes other_reason problem problem_task_type reopen_count
    reopened_at
    reopened_by started_at started_by vendor workaround
    """,
    "change_request": TASK
    + """
    backout_plan cab_date cab_date_time cab_delegate cab_recommendation cab_required category
    change_plan chg_model
    close_code conflict_last_run conflict_status end_date implementation_plan justification on_hold
    on_hold_reason
    on_hold_task outside_maintenance_schedule phase phase_state production_system reason
    requested_by
    requested_by_date review_comments review_date review_status risk risk_impact_analysis risk_value
    scope
    start_date std_change_producer_version test_plan type unauthorized
    """,
    "change_task": TASK
    + """
    change_request change_task_type close_code created_from on_hold on_hold_reason planned_end_date
    planned_start_date
    """,
    "sys_user": """
    active avatar building calendar_integration city company cost_center country date_format
    default_perspective
    department edu_status email employee_number enable_multifactor_authn failed_attempts first_name
    gender home_phone
    internal_integration_user introduction last_login last_login_device last_login_time last_name
    last_password
    ldap_server location locked_out manager middle_name mobile_phone name notification
    password_needs_reset phone photo
    preferred_language roles schedule source state street sys_class_name sys_created_by
    sys_created_on sys_domain
    sys_domain_path sys_id sys_mod_count sys_updated_by sys_updated_on time_format time_zone title
    user_name
    user_password vip web_service_access_only zip
    """,
}
EVERY = [(table, column) for table, columns in COLUMNS.items() for column in columns.split()]
# What a fresh record has in it, beside what every task has.
DEFAULTS = {
    "incident": {
        "state": "1",
        "incident_state": "1",
        "priority": "5",
        "category": "inquiry",
        "severity": "3",
    }
    | {"notify": "1", "reopen_count": "0", "child_incidents": "0"},
    "problem": {"state": "101", "problem_state": "101", "priority": "5", "known_error": "false"}
    | {
        "major_problem": "false",
        "workaround_applied": "false",
        "reopen_count": "0",
        "related_incidents": "0",
    },
    "problem_task": {"state": "151", "problem_task_type": "general", "reopen_count": "0"},
    "change_request": {
        "state": "-5",
        "type": "normal",
        "risk": "3",
        "category": "Other",
        "phase": "requested",
    }
    | {
        "phase_state": "open",
        "scope": "3",
        "conflict_status": "Not Run",
        "cab_required": "false",
        "on_hold": "false",
    }
    | {
        "production_system": "false",
        "unauthorized": "false",
        "outside_maintenance_schedule": "false",
    },
    "change_task": {"state": "1", "change_task_type": "planning", "on_hold": "false"},
}
OF_TASKS = {
    "active": "true",
    "approval": "not requested",
    "escalation": "0",
    "impact": "3",
    "knowledge": "false",
    "made_sla": "true",
    "reassignment_count": "0",
    "sys_domain": "global",
    "sys_domain_path": "/",
    "upon_approval": "proceed",
    "upon_reject": "cancel",
    "urgency": "3",
}


def made(api: Api, table: str, **fields: object) -> dict[str, Any]:
    answer = api.call("POST", f"table/{table}?sysparm_exclude_reference_link=true", fields)
    assert answer.status_code == 201, answer.text
    record: dict[str, Any] = answer.json()["result"]
    return record


@pytest.fixture
def filled(api: Api) -> Api:
    """One record of each table, so that a term which is dropped finds something."""
    for table in COLUMNS.keys() - {"task"}:
        made(api, table, correlation_id="x", user_name="x")
    return api


def test_a_query_on_a_stock_column_finds_only_what_fulfils_it(filled: Api) -> None:
    dropped = [
        (table, column) for table, column in EVERY if filled.found(f"{column}=no such value", table)
    ]

    assert dropped == []


def test_a_stock_column_is_in_every_record(filled: Api) -> None:
    for table, columns in COLUMNS.items():
        [record] = filled.found("", table, sysparm_limit="1")

        assert set(columns.split()) - record.keys() == set()


def test_a_stock_column_is_in_the_dictionary_of_its_table_or_of_task(
    api: Api, instance: ServiceNow
) -> None:
    told = {(row["name"], row["element"]) for row in instance.rows("sys_dictionary")}

    missing = [
        (table, column) for table, column in EVERY if not {(table, column), ("task", column)} & told
    ]
    assert missing == []


@pytest.mark.parametrize("table", DEFAULTS)
def test_an_insert_gets_the_defaults_of_its_table(api: Api, table: str) -> None:
    record = made(api, table)

    expected = OF_TASKS | DEFAULTS[table]
    assert {column: record[column] for column in expected} == expected
    assert record["task_effective_number"] == record["number"]


def test_what_is_sent_goes_before_a_default(api: Api) -> None:
    record = made(api, "incident", category="network", made_sla="false", upon_reject="goto")

    assert (record["category"], record["made_sla"], record["upon_reject"]) == (
        "network",
        "false",
        "goto",
    )


def test_a_checkbox_is_never_empty(api: Api, instance: ServiceNow) -> None:
    boxes = instance.tables.select("sys_dictionary", "internal_type=boolean")
    of = {
        table: {box["element"] for box in boxes if box["name"] in {table, "task"}}
        for table in ("problem", "incident")
    }

    assert all(
        made(api, table)[box] in {"true", "false"}
        for table, names in of.items()
        for box in names
        if names
    )
    assert "known_error" in of["problem"]


def test_a_change_is_requested_by_whoever_made_it(api: Api, instance: ServiceNow) -> None:
    change = made(api, "change_request")
    other = made(api, "change_request", requested_by=user(instance, "employee"))

    assert change["requested_by"] == user(instance, instance.username)
    assert other["requested_by"] == user(instance, "employee")


def test_a_date_keeps_no_time(api: Api) -> None:
    change = made(
        api, "change_request", cab_date="2026-03-04 05:06:07", start_date="2026-03-04 05:06:07"
    )

    assert (change["cab_date"], change["start_date"]) == ("2026-03-04", "2026-03-04 05:06:07")


def test_a_change_has_no_column_of_its_tasks(api: Api) -> None:
    change = made(api, "change_request", planned_start_date="2026-03-04 05:06:07")

    assert "planned_start_date" not in change


def test_a_user_s_name_is_made_of_two_and_the_password_is_not_read_back(api: Api) -> None:
    person = made(api, "sys_user", first_name="Ada", last_name="Byron", user_password="opensesame")
    renamed = api.call(
        "PATCH", f"table/sys_user/{person['sys_id']}", {"last_name": "Lovelace"}
    ).json()["result"]

    assert (person["name"], renamed["name"]) == ("Ada Byron", "Ada Lovelace")
    assert "opensesame" not in str(person)
    assert (person["active"], person["notification"], person["vip"]) == ("true", "2", "false")


def test_a_subcategory_s_choices_depend_on_the_category(api: Api) -> None:
    network = api.found("name=incident^element=subcategory^dependent_value=network", "sys_choice")
    [column] = api.found("name=incident^element=subcategory", "sys_dictionary")

    assert {choice["value"] for choice in network} == {
        "dhcp",
        "dns",
        "ip address",
        "vpn",
        "wireless",
    }
    assert column["dependent_on_field"] == "category"
    shown = made(api, "incident", category="hardware", subcategory="cpu")
    [labels] = api.found(
        f"sys_id={shown['sys_id']}", sysparm_display_value="true", sysparm_fields="subcategory"
    )
    assert labels == {"subcategory": "CPU"}


def test_every_kind_of_task_can_be_read_as_a_task(api: Api) -> None:
    numbers = {made(api, table)["number"] for table in COLUMNS.keys() - {"task", "sys_user"}}

    found = api.found("sys_created_by=svc.hasura", "task")
    assert {record["number"] for record in found} == numbers
    assert {record["sys_class_name"] for record in found} == COLUMNS.keys() - {"task", "sys_user"}


def test_a_reference_to_a_task_of_any_kind_is_shown_by_its_number(api: Api) -> None:
    problem = made(api, "problem")
    made(api, "incident", parent=problem["sys_id"])

    [shown] = api.found(
        f"parent={problem['sys_id']}",
        sysparm_display_value="all",
        sysparm_fields="parent,parent.number",
    )
    assert shown["parent"]["display_value"] == shown["parent.number"]["value"] == problem["number"]
