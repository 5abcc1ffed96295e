"""The columns of the stock tables that people work with: tasks of every kind, users, groups,
configuration items.

Which columns there are, and what a fresh record has in them, is what recorded answers of instances
show: the samples of ServiceNow's Ansible collection (servicenow.itsm) and of its Change Management
API, and the lists of sys_user's columns that exporters publish. A column that is missing here is
ignored, as the platform ignores one that is not there; a query on it returns every record.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Final, TypeAlias


class Kind(StrEnum):
    """How a column takes and compares its values."""

    STRING = "string"
    INTEGER = "integer"
    BOOLEAN = "boolean"
    DATETIME = "datetime"
    REFERENCE = "reference"
    JOURNAL = "journal"


# The dictionary's words for kinds that the sandbox calls otherwise.
_TYPES: Final = {Kind.DATETIME: "glide_date_time", Kind.JOURNAL: "journal_input"}


@dataclass(frozen=True, slots=True)
class Column:
    """A column: longer texts than *length* are cut without a word; a reference *refers_to* a table.

    *default* is what an insert without it gets. *type* is the dictionary's word, where it is not
    the kind's.
    """

    kind: Kind = Kind.STRING
    length: int = 40
    refers_to: str = ""
    default: str = ""
    type: str = ""

    @property
    def internal_type(self) -> str:
        return self.type or _TYPES.get(self.kind, self.kind.value)


Columns: TypeAlias = Mapping[str, Column]


def text(length: int, type_: str = "", default: str = "") -> Column:
    return Column(length=length, type=type_, default=default)


def to(table: str) -> Column:
    return Column(Kind.REFERENCE, 32, table)


def with_defaults(columns: Columns, **defaults: str) -> dict[str, Column]:
    """*columns*, those of them with other *defaults*: a table may override what it inherits."""
    return {
        **columns,
        **{name: replace(columns[name], default=default) for name, default in defaults.items()},
    }


def _all(column: Column, names: str) -> dict[str, Column]:
    return dict.fromkeys(names.split(), column)


INTEGER, DATETIME, JOURNAL = (Column(kind) for kind in (Kind.INTEGER, Kind.DATETIME, Kind.JOURNAL))
# A checkbox is never empty.
BOOLEAN: Final = Column(Kind.BOOLEAN, default="false")
_TRUE: Final = Column(Kind.BOOLEAN, default="true")
_ZERO: Final = Column(Kind.INTEGER, default="0")
# A time that is sent for a date is cut to one.
_DATE: Final = text(10, "glide_date")
_DURATION: Final = text(40, "glide_duration")
_LIST: Final = text(4000, "glide_list")
_HTML: Final = text(4000, "html")
_USER: Final = to("sys_user")
_DOMAIN: Final = {
    "sys_domain": text(32, "domain_id", "global"),
    "sys_domain_path": text(255, "domain_path", "/"),
}

SYSTEM: Final = {
    "sys_id": text(32, "GUID"),
    "sys_created_on": DATETIME,
    "sys_created_by": text(40),
    "sys_updated_on": DATETIME,
    "sys_updated_by": text(40),
    "sys_mod_count": INTEGER,
}
TASK: Final = (
    SYSTEM
    | _DOMAIN
    | {
        "number": text(40),
        "short_description": text(160),
        "description": text(4000),
        "state": Column(Kind.INTEGER, default="1"),
        "active": _TRUE,
        "impact": Column(Kind.INTEGER, default="3"),
        "urgency": Column(Kind.INTEGER, default="3"),
        "priority": Column(Kind.INTEGER, default="4"),
        "assignment_group": to("sys_user_group"),
        "cmdb_ci": to("cmdb_ci"),
        "business_service": to("cmdb_ci"),
        "service_offering": to("service_offering"),
        "company": to("core_company"),
        "location": to("cmn_location"),
        "contract": to("ast_contract"),
        "delivery_plan": to("sc_cat_item_delivery_plan"),
        "delivery_task": to("sc_cat_item_delivery_task"),
        "wf_activity": to("wf_activity"),
        "parent": to("task"),
        "rejection_goto": to("task"),
        "universal_request": to("task"),
        "contact_type": text(40),
        "approval": text(40, default="not requested"),
        "upon_approval": text(40, default="proceed"),
        "upon_reject": text(40, default="cancel"),
        "escalation": _ZERO,
        "reassignment_count": _ZERO,
        "made_sla": _TRUE,
        "knowledge": BOOLEAN,
        "order": INTEGER,
        "route_reason": INTEGER,
        "time_worked": text(40, "timer"),
        "task_effective_number": text(40),
        "close_notes": text(4000),
        "correlation_id": text(100),
        "correlation_display": text(100),
        "user_input": text(4000, "user_input"),
        "approval_history": text(4000, "journal"),
        "comments": JOURNAL,
        "work_notes": JOURNAL,
        "comments_and_work_notes": text(4000, "journal_list"),
        "sys_class_name": text(80, "sys_class_name"),
        "sys_tags": text(40, "related_tags"),
    }
    | _all(_USER, "assigned_to opened_by closed_by")
    | _all(_LIST, "watch_list work_notes_list additional_assignee_list group_list skills")
    | _all(_DURATION, "business_duration calendar_duration")
    | _all(
        DATETIME,
        "activity_due approval_set closed_at due_date expected_start follow_up opened_at sla_due "
        "work_start work_end",
    )
)
INCIDENT: Final = with_defaults(TASK, priority="5") | {
    "incident_state": Column(Kind.INTEGER, default="1"),
    "caller_id": _USER,
    "category": text(40, default="inquiry"),
    "subcategory": text(40),
    "severity": Column(Kind.INTEGER, default="3"),
    "notify": Column(Kind.INTEGER, default="1"),
    "hold_reason": INTEGER,
    "close_code": text(40),
    "cause": text(4000),
    "business_impact": text(4000),
    "resolved_at": DATETIME,
    "resolved_by": _USER,
    "reopen_count": _ZERO,
    "reopened_by": _USER,
    "reopened_time": DATETIME,
    "child_incidents": _ZERO,
    "parent_incident": to("incident"),
    "problem_id": to("problem"),
    "rfc": to("change_request"),
    "caused_by": to("change_request"),
    "business_stc": INTEGER,
    "calendar_stc": INTEGER,
    "origin_id": text(32, "document_id"),
    "origin_table": text(80, "table_name"),
}
PROBLEM: Final = (
    with_defaults(TASK, state="101", priority="5")
    | {
        "problem_state": Column(Kind.INTEGER, default="101"),
        "category": text(40),
        "subcategory": text(40),
        "resolution_code": text(40),
        "first_reported_by_task": to("task"),
        "duplicate_of": to("problem"),
        "rfc": to("change_request"),
        "related_incidents": _ZERO,
        "reopen_count": _ZERO,
        "review_outcome": text(40),
        "prb_model": text(40),
    }
    | _all(BOOLEAN, "known_error major_problem workaround_applied")
    | _all(_HTML, "cause_notes fix_notes workaround")
    | _all(
        DATETIME,
        "confirmed_at fix_at fix_communicated_at reopened_at resolved_at "
        "workaround_communicated_at",
    )
    | _all(
        _USER,
        "confirmed_by fix_by fix_communicated_by reopened_by resolved_by "
        "workaround_communicated_by",
    )
)
PROBLEM_TASK: Final = (
    with_defaults(TASK, state="151")
    | {
        "problem": to("problem"),
        "problem_task_type": text(40, default="general"),
        "close_code": text(40),
        "cause_code": text(40),
        "other_reason": text(4000),
        "vendor": to("core_company"),
        "reopen_count": _ZERO,
    }
    | _all(_HTML, "cause_notes fix_notes workaround")
    | _all(DATETIME, "reopened_at started_at")
    | _all(_USER, "reopened_by started_by")
)
CHANGE_REQUEST: Final = (
    with_defaults(TASK, state="-5")
    | {
        "type": text(40, default="normal"),
        "chg_model": text(40),
        "std_change_producer_version": to("std_change_producer_version"),
        "risk": Column(Kind.INTEGER, default="3"),
        "risk_value": INTEGER,
        "scope": Column(Kind.INTEGER, default="3"),
        "category": text(40, default="Other"),
        "phase": text(40, default="requested"),
        "phase_state": text(40, default="open"),
        "reason": text(40),
        "close_code": text(40),
        "conflict_status": text(40, default="Not Run"),
        "on_hold_reason": text(4000),
        "on_hold_task": _LIST,
        "review_status": INTEGER,
        "cab_date": _DATE,
        "review_date": _DATE,
    }
    | _all(_USER, "requested_by cab_delegate")
    | _all(
        BOOLEAN, "on_hold cab_required outside_maintenance_schedule production_system unauthorized"
    )
    | _all(DATETIME, "start_date end_date requested_by_date cab_date_time conflict_last_run")
    | _all(
        text(4000),
        "justification implementation_plan change_plan risk_impact_analysis backout_plan test_plan"
        " cab_recommendation review_comments",
    )
)
CHANGE_TASK: Final = TASK | {
    "change_request": to("change_request"),
    "change_task_type": text(40, default="planning"),
    "planned_start_date": DATETIME,
    "planned_end_date": DATETIME,
    "on_hold": BOOLEAN,
    "on_hold_reason": text(4000),
    "close_code": text(40),
    "created_from": text(40),
}
USER: Final = (
    SYSTEM
    | _DOMAIN
    | {
        "user_name": text(40),
        "name": text(151),
        "first_name": text(50),
        "middle_name": text(50),
        "last_name": text(50),
        "title": text(60),
        "email": text(100, "email"),
        "phone": text(40, "ph_number"),
        "home_phone": text(40, "ph_number"),
        "mobile_phone": text(40, "ph_number"),
        # What is read back is no password.
        "user_password": text(255, "password"),
        "department": to("cmn_department"),
        "manager": _USER,
        "company": to("core_company"),
        "location": to("cmn_location"),
        "cost_center": to("cmn_cost_center"),
        "building": to("cmn_building"),
        "schedule": to("cmn_schedule"),
        "ldap_server": to("ldap_server_config"),
        "default_perspective": to("sys_perspective"),
        "time_zone": text(40),
        "time_format": text(40),
        "date_format": text(40),
        "preferred_language": text(3),
        "introduction": text(40),
        "street": text(255),
        "source": text(255),
        "roles": text(40, "user_roles"),
        "photo": text(40, "user_image"),
        "avatar": text(40, "reference"),
        "notification": Column(Kind.INTEGER, default="2"),
        "calendar_integration": Column(Kind.INTEGER, default="1"),
        "failed_attempts": INTEGER,
        "active": _TRUE,
        "last_login": _DATE,
        "last_login_time": DATETIME,
        "last_position_update": DATETIME,
        "last_login_device": text(40),
        "last_password": text(255),
        "sys_class_name": text(80, "sys_class_name", "sys_user"),
        "sys_tags": text(40, "related_tags"),
    }
    | _all(
        text(40),
        "employee_number gender city state zip country edu_status agent_status on_schedule",
    )
    | _all(text(40), "latitude longitude time_sheet_policy")
    | _all(
        BOOLEAN,
        "locked_out vip password_needs_reset web_service_access_only internal_integration_user"
        " enable_multifactor_authn geolocation_tracked",
    )
)
GROUP: Final = SYSTEM | {
    "name": text(80),
    "description": text(1000),
    "email": text(100, "email"),
    "active": _TRUE,
    "manager": _USER,
    "parent": to("sys_user_group"),
    "cost_center": to("cmn_cost_center"),
    "default_assignee": _USER,
    "type": _LIST,
    "roles": text(40, "user_roles"),
    "source": text(255),
    "exclude_manager": BOOLEAN,
    "include_members": BOOLEAN,
    "sys_tags": text(40, "related_tags"),
}
CONFIGURATION_ITEM: Final = (
    SYSTEM
    | _DOMAIN
    | {
        "name": text(255),
        "sys_class_name": text(80, "sys_class_name", "cmdb_ci"),
        "sys_class_path": text(255),
        "operational_status": Column(Kind.INTEGER, default="1"),
        "install_status": Column(Kind.INTEGER, default="1"),
        "category": text(40),
        "subcategory": text(40),
        "environment": text(40),
        "asset_tag": text(40),
        "serial_number": text(255),
        "short_description": text(1000),
        "comments": text(4000),
        "attributes": text(4000),
        "correlation_id": text(512),
        "ip_address": text(255, "ip_addr"),
        "mac_address": text(18),
        "dns_domain": text(255),
        "fqdn": text(255),
        "discovery_source": text(40),
        "cost": text(20, "float"),
        "cost_cc": text(3, default="USD"),
        "fault_count": _ZERO,
        "duplicate_of": to("cmdb_ci"),
        "department": to("cmn_department"),
        "company": to("core_company"),
        "location": to("cmn_location"),
        "cost_center": to("cmn_cost_center"),
        "manufacturer": to("core_company"),
        "vendor": to("core_company"),
        "asset": to("alm_asset"),
        "model_id": to("cmdb_model"),
        "schedule": to("cmn_schedule"),
        "maintenance_schedule": to("cmn_schedule"),
        "purchase_date": _DATE,
        "warranty_expiration": _DATE,
        "attested_date": _DATE,
        "attestation_score": INTEGER,
        "sys_tags": text(40, "related_tags"),
    }
    | _all(_USER, "assigned_to attested_by managed_by owned_by supported_by")
    | _all(to("sys_user_group"), "assignment_group change_control managed_by_group support_group")
    | _all(BOOLEAN, "attested can_print monitor skip_sync unverified")
    | _all(
        text(40), "due_in gl_account invoice_number justification lease_id model_number po_number"
    )
    | _all(text(40), "life_cycle_stage life_cycle_stage_status")
    | _all(
        DATETIME,
        "assigned checked_in checked_out delivery_date due first_discovered install_date "
        "last_discovered order_date start_date",
    )
)
# Tables that the columns above refer to; of them no more is served than a name.
NAMED: Final = (
    "alm_asset",
    "ast_contract",
    "cmdb_model",
    "cmn_building",
    "cmn_cost_center",
    "cmn_location",
    "cmn_schedule",
    "core_company",
    "ldap_server_config",
    "sc_cat_item_delivery_plan",
    "sc_cat_item_delivery_task",
    "service_offering",
    "sys_perspective",
    "wf_activity",
)
