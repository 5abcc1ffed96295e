"""What is in a fresh developer instance before anybody has used it: its people, groups, choices,
templates and logs.

The ids that are the same in every instance are those; the others follow from what a record is.
"""

import uuid
from collections.abc import Iterator
from typing import Final

from sandbox.schema import INHERITED, NUMBERED, SCHEMA, SYSTEM, Record, defaults

ADMIN: Final = "admin"
ADMIN_ID: Final = "6816f79cc0a8016401c5a33be04be441"
# When the demo data was made: long before anybody asks.
SEEDED_AT: Final = "2025-01-15 09:30:00"
_NATASHA_ID: Final = "46c5bf6ca9fe1981010713e3ac7d3384"
_PROBLEM_ADMIN_ID: Final = "26fbff173b331300ad3cc9bb34efc4bd"
_FINANCE_ID: Final = "a581ab703710200044e0bfc8bcbe5de8"
_ADMIN_ROLE_ID: Final = "2831a114c611228501d4ea6c309d626d"
_NAMESPACE: Final = uuid.UUID("9d2f8b1e-6f0c-4c3b-9a53-2f5d1c7e4b10")

_SYSLOG_ROWS: Final = 1_150
_METADATA_ROWS: Final = 550
# Of the people below, in this order, so many are administrators and so many have a mobile phone.
_ADMINS: Final = 14
_MOBILE_PHONES: Final = 12
_PEOPLE: Final = (
    "Abel Tuter",
    "Beth Anglin",
    "Fred Luddy",
    "David Loo",
    "Don Goodliffe",
    "Bow Ruggeri",
    "Charlie Whitherspoon",
    "Luke Wilson",
    "Joe Employee",
    "Bud Richman",
    "Carol Coughlin",
    "Christen Mitchell",
    "David Dan",
    "Billie Cowley",
    "Eric Schroeder",
    "Rick Berzle",
    "Sam Sorokin",
    "Taylor Vreeland",
    "Allyson Gillispie",
    "Alva Pennigton",
    "Andrew Och",
    "Annabelle Coger",
    "Armando Kolm",
    "Barrett Sawaya",
    "Bertie Luby",
    "Carla Humble",
    "Cory Seeger",
    "Daniel Zill",
    "Dora Wendell",
)
_GROUPS: Final = (
    "Network",
    "Hardware",
    "Database",
    "Software",
    "Service Desk",
    "Help Desk",
    "CAB Approval",
    "Change Management",
    "Incident Management",
    "Problem Solving",
    "Openspace",
    "RMA Approvers",
)
# Groups by number: those with an administrator's role, and those with a manager.
_ADMIN_GROUPS: Final = 4
_MANAGED_GROUPS: Final = 5
_ROLES: Final = (
    "itil",
    "itil_admin",
    "sn_incident_write",
    "sn_change_read",
    "sn_change_write",
    "change_manager",
    "problem_admin",
    "problem_manager",
    "import_transformer",
    "rest_api_explorer",
    "web_service_admin",
    "snc_basic_auth_api_access",
)
_PROBLEMS: Final = (
    "Wireless access is down",
    "Network loops under load",
    "Mail server runs out of space",
    "Printer drivers crash the spooler",
    "Replication of the CRM falls behind",
    "VPN drops every hour",
    "Logins are slow on Monday mornings",
    "Backup jobs overlap",
    "Certificates expire unseen",
    "Storage controller resets",
)
_EXTENDED_TABLES: Final = (
    ("bsm_chart", "BSM Map"),
    ("sys_user_preference", "User Preference"),
    ("sc_req_item", "Requested Item"),
    ("kb_knowledge", "Knowledge"),
)
_LEVELS: Final = {"1": "1 - High", "2": "2 - Medium", "3": "3 - Low"}
_PRIORITIES: Final = {
    "1": "1 - Critical",
    "2": "2 - High",
    "3": "3 - Moderate",
    "4": "4 - Low",
    "5": "5 - Planning",
}
_CHANGE_STATES: Final = {
    "-5": "New",
    "-4": "Assess",
    "-3": "Authorize",
    "-2": "Scheduled",
    "-1": "Implement",
    "0": "Review",
    "3": "Closed",
    "4": "Canceled",
}
_INCIDENT_STATES: Final = {
    "1": "New",
    "2": "In Progress",
    "3": "On Hold",
    "6": "Resolved",
    "7": "Closed",
    "8": "Canceled",
}
_PROBLEM_STATES: Final = {
    "101": "New",
    "102": "Assess",
    "103": "Root Cause Analysis",
    "104": "Fix in Progress",
    "106": "Resolved",
    "107": "Closed",
}
_CLOSE_CODES: Final = (
    "Duplicate",
    "Known error",
    "No resolution provided",
    "Resolved by caller",
    "Resolved by change",
    "Resolved by problem",
    "Resolved by request",
    "Solution provided",
    "User error",
    "Workaround provided",
)
_CHANGE_CATEGORIES: Final = (
    "Hardware",
    "Software",
    "Service",
    "System Software",
    "Applications Software",
    "Network",
    "Telecom",
    "Documentation",
    "Other",
)
_CHANGE_CLOSE_CODES: Final = {
    "successful": "Successful",
    "successful_issues": "Successful with issues",
    "unsuccessful": "Unsuccessful",
}
_PROBLEM_TASK_STATES: Final = {
    "151": "New",
    "152": "Assess",
    "154": "Work in Progress",
    "157": "Closed",
}
_RESOLUTION_CODES: Final = {
    "fix_applied": "Fix Applied",
    "risk_accepted": "Risk Accepted",
    "duplicate": "Duplicate",
    "canceled": "Canceled",
}
_CATEGORIES: Final = {
    "inquiry": "Inquiry / Help",
    "software": "Software",
    "hardware": "Hardware",
    "network": "Network",
    "database": "Database",
}
# By the category that they depend on.
_SUBCATEGORIES: Final = {
    "inquiry": {
        "antivirus": "Antivirus",
        "email": "Email",
        "internal application": "Internal Application",
    },
    "software": {"email": "Email", "os": "Operating System"},
    "hardware": {
        "cpu": "CPU",
        "disk": "Disk",
        "keyboard": "Keyboard",
        "memory": "Memory",
        "monitor": "Monitor",
        "mouse": "Mouse",
    },
    "network": {
        "dhcp": "DHCP",
        "dns": "DNS",
        "ip address": "IP Address",
        "vpn": "VPN",
        "wireless": "Wireless",
    },
    "database": {"db2": "DB2", "sql server": "MS SQL Server", "oracle": "Oracle"},
}
# The choices of a column that depend on what stands in another one, by its value.
DEPENDENT: Final = {
    ("incident", "subcategory"): ("category", _SUBCATEGORIES),
    ("problem", "subcategory"): (
        "category",
        {name: _SUBCATEGORIES[name] for name in list(_SUBCATEGORIES)[1:]},
    ),
}
_TASK_CHOICES: Final = {
    "impact": _LEVELS,
    "urgency": _LEVELS,
    "priority": _PRIORITIES,
    "approval": {
        "not requested": "Not Yet Requested",
        "requested": "Requested",
        "approved": "Approved",
        "rejected": "Rejected",
        "cancelled": "Cancelled",
        "not_required": "Not Required",
        "duplicate": "Duplicate",
    },
    "escalation": {"0": "Normal", "1": "Moderate", "2": "High", "3": "Overdue"},
    "upon_approval": {
        "proceed": "Proceed to Next Task",
        "do_nothing": "Wait for a User to Close this task",
    },
    "upon_reject": {"cancel": "Cancel all future Tasks", "goto": "Go to a previous Task"},
}
CHOICES: Final = {
    "incident": _TASK_CHOICES
    | {
        "state": _INCIDENT_STATES,
        "incident_state": _INCIDENT_STATES,
        "hold_reason": {
            "1": "Awaiting Caller",
            "3": "Awaiting Problem",
            "4": "Awaiting Vendor",
            "5": "Awaiting Change",
        },
        "category": _CATEGORIES,
        "severity": _LEVELS,
        "notify": {"1": "Do Not Notify", "2": "Send Email", "3": "Telephone"},
        "close_code": {code: code for code in _CLOSE_CODES},
    },
    "problem": _TASK_CHOICES
    | {
        "state": _PROBLEM_STATES,
        "problem_state": _PROBLEM_STATES,
        "category": {name: label for name, label in _CATEGORIES.items() if name != "inquiry"},
        "resolution_code": _RESOLUTION_CODES,
    },
    "problem_task": _TASK_CHOICES
    | {
        "state": _PROBLEM_TASK_STATES,
        "problem_task_type": {"rca": "Root Cause Analysis", "general": "General"},
        "close_code": {"completed": "Completed", "canceled": "Canceled"},
    },
    "change_request": _TASK_CHOICES
    | {
        "priority": {level: _PRIORITIES[level] for level in "1234"},
        "state": _CHANGE_STATES,
        "type": {"normal": "Normal", "standard": "Standard", "emergency": "Emergency"},
        "risk": {"1": "Very High", "2": "High", "3": "Moderate", "4": "Low"},
        "close_code": _CHANGE_CLOSE_CODES,
        "category": {name: name for name in _CHANGE_CATEGORIES},
        "scope": {"1": "Massive", "2": "Large", "3": "Medium", "4": "Small", "5": "Tiny"},
        "conflict_status": {name: name for name in ("Not Run", "No Conflict", "Conflict")},
    },
    "change_task": _TASK_CHOICES
    | {
        "state": {"-5": "Pending", "1": "Open", "2": "In Progress", "3": "Closed", "4": "Canceled"},
        "change_task_type": {
            name: name.capitalize() for name in ("planning", "implementation", "testing", "review")
        },
        "close_code": _CHANGE_CLOSE_CODES,
    },
}


def record(table: str, key: str, at: str = SEEDED_AT, /, **fields: str) -> Record:
    """A record of *table* as the platform planted it; *key* tells it from the others."""
    blank = defaults(table) | {"sys_id": sys_id(table, key), "sys_mod_count": "0"}
    made = {
        "sys_created_on": at,
        "sys_created_by": ADMIN,
        "sys_updated_on": at,
        "sys_updated_by": ADMIN,
    }
    return blank | made | fields


def sys_id(table: str, key: str) -> str:
    return uuid.uuid5(_NAMESPACE, f"{table} {key}").hex


def records() -> Iterator[tuple[str, Record]]:
    """Everything that is there, each with its table."""
    for planted in (
        _people(),
        _groups(),
        _things(),
        _choices(),
        _dictionary(),
        _policies(),
        _logs(),
    ):
        yield from planted


def _people() -> Iterator[tuple[str, Record]]:
    yield (
        "cmn_department",
        record(
            "cmn_department", "Finance", sys_id=_FINANCE_ID, name="Finance", dept_head=_NATASHA_ID
        ),
    )
    for name in ("IT", "Development", "Sales", "HR", "Customer Support"):
        yield "cmn_department", record("cmn_department", name, name=name)
    known = (
        # Without a phone, as facts about the demo data have it.
        ("admin", "System Administrator", ADMIN_ID, "admin@example.com"),
        ("natasha.ingram", "Natasha Ingram", _NATASHA_ID, "natasha.ingram@example.com"),
        ("problem.admin", "Problem Admin", _PROBLEM_ADMIN_ID, "problem.admin@example.com"),
        (
            "problem.manager",
            "Problem Manager",
            sys_id("sys_user", "problem.manager"),
            "problem.manager@example.com",
        ),
        ("employee", "Employee User", sys_id("sys_user", "employee"), "employee@example.com"),
        ("itil", "ITIL User", sys_id("sys_user", "itil"), "itil@example.com"),
    )
    others = [(n.lower().replace(" ", "."), n, sys_id("sys_user", n), "") for n in _PEOPLE]
    for place, (user_name, name, user_id, email) in enumerate((*known, *others)):
        first, _, last = name.partition(" ")
        yield (
            "sys_user",
            record(
                "sys_user",
                user_name,
                sys_id=user_id,
                user_name=user_name,
                name=name,
                first_name=first,
                last_name=last,
                email=email or f"{user_name}@example.com",
                mobile_phone=f"+1 858 555 01{place:02}"
                if len(known) <= place < len(known) + _MOBILE_PHONES
                else "",
                department=_FINANCE_ID if user_name in {ADMIN, "natasha.ingram"} else "",
                time_zone="America/Los_Angeles" if user_name == ADMIN else "",
                active="true",
                locked_out="false",
                web_service_access_only="false",
            ),
        )
    yield "sys_user_role", record("sys_user_role", "admin", sys_id=_ADMIN_ROLE_ID, name="admin")
    for role in _ROLES:
        yield "sys_user_role", record("sys_user_role", role, name=role)
    admins = [ADMIN_ID, *(user_id for _, _, user_id, _ in others)][:_ADMINS]
    held = [(user_id, _ADMIN_ROLE_ID) for user_id in admins]
    held += [
        (_PROBLEM_ADMIN_ID, sys_id("sys_user_role", "problem_admin")),
        (sys_id("sys_user", "problem.manager"), sys_id("sys_user_role", "problem_manager")),
        (sys_id("sys_user", "itil"), sys_id("sys_user_role", "itil")),
    ]
    for user_id, role_id in held:
        yield "sys_user_has_role", held_role(user_id, role_id)


def held_role(user_id: str, role_id: str) -> Record:
    """That this user has this role."""
    fields = {"user": user_id, "role": role_id, "inherited": "false", "state": "active"}
    return record("sys_user_has_role", f"{user_id} {role_id}", **fields)


def _groups() -> Iterator[tuple[str, Record]]:
    people = [sys_id("sys_user", name) for name in _PEOPLE]
    for place, name in enumerate(_GROUPS):
        manager = people[place] if place < _MANAGED_GROUPS else ""
        group = record("sys_user_group", name, name=name, active="true", manager=manager)
        yield "sys_user_group", group
        if place < _ADMIN_GROUPS:
            fields = {"group": group["sys_id"], "role": _ADMIN_ROLE_ID}
            yield "sys_group_has_role", record("sys_group_has_role", name, **fields)
        for member in people[place : place + 3]:
            fields = {"group": group["sys_id"], "user": member}
            yield "sys_user_grmember", record("sys_user_grmember", f"{name} {member}", **fields)


def _things() -> Iterator[tuple[str, Record]]:
    things = (
        ("core-switch-1", "cmdb_ci_ip_switch"),
        ("web-01", "cmdb_ci_server"),
        ("shop", "cmdb_ci_appl"),
    )
    for name, kind in things:
        yield (
            "cmdb_ci",
            record("cmdb_ci", name, name=name, sys_class_name=kind, operational_status="1"),
        )
    bgp = "Clear BGP sessions on a Cisco router - 1"
    yield (
        "std_change_producer_version",
        record(
            "std_change_producer_version",
            bgp,
            name=bgp,
            version="1",
            short_description="Clear BGP sessions on a Cisco router",
            description=(
                "Clear BGP sessions on a Cisco router. Resend the complete BGP table to "
                "neighboring routers"
            ),
            active="true",
        ),
    )
    for place, words in enumerate(_PROBLEMS, 1):
        fields = {
            "state": "101",
            "problem_state": "101",
            "impact": "3",
            "urgency": "3",
            "priority": "5",
        }
        fields |= {"number": f"PRB{place:07}", "short_description": words, "active": "true"}
        fields |= {"opened_at": SEEDED_AT, "opened_by": ADMIN_ID, "sys_class_name": "problem"}
        fields |= {
            "task_effective_number": f"PRB{place:07}",
            "category": "software",
            "subcategory": "email",
        }
        yield "problem", record("problem", words, **fields)
    labels = {name: name.replace("_", " ").title() for name in SCHEMA}
    for name, label in (*_EXTENDED_TABLES, *labels.items()):
        above = sys_id("sys_db_object", "task") if name in NUMBERED else ""
        yield (
            "sys_db_object",
            record("sys_db_object", name, name=name, label=label, super_class=above),
        )


def _choices() -> Iterator[tuple[str, Record]]:
    for table, elements in CHOICES.items():
        for element, labels in elements.items():
            for sequence, (value, label) in enumerate(labels.items()):
                fields = {"name": table, "element": element, "value": value, "label": label}
                fields |= {"sequence": str(sequence), "language": "en", "inactive": "false"}
                yield "sys_choice", record("sys_choice", f"{table} {element} {value}", **fields)
    for (table, element), (_, by_value) in DEPENDENT.items():
        for dependent_value, labels in by_value.items():
            for sequence, (value, label) in enumerate(labels.items()):
                fields = {"name": table, "element": element, "value": value, "label": label}
                fields |= {"sequence": str(sequence), "dependent_value": dependent_value}
                yield (
                    "sys_choice",
                    record("sys_choice", f"{table} {element} {dependent_value} {value}", **fields),
                )


def _dictionary() -> Iterator[tuple[str, Record]]:
    """What each table's columns are; those that the numbered tables have in common stand once, at
    `task`."""
    seen = set()
    for table, columns in SCHEMA.items():
        for name, column in columns.items():
            owner = "task" if table in NUMBERED and name in INHERITED else table
            if (owner, name) in seen:
                continue
            seen.add((owner, name))
            tables = NUMBERED if owner == "task" else (owner,)
            chosen = any(
                name in CHOICES.get(known, {}) or (known, name) in DEPENDENT for known in tables
            )
            on, _ = DEPENDENT.get((owner, name), ("", {}))
            fields = {
                "name": owner,
                "element": name,
                "column_label": name.replace("_", " ").capitalize(),
            }
            fields |= {"internal_type": column.internal_type, "max_length": str(column.length)}
            fields |= {
                "reference": column.refers_to,
                "choice": "3" if chosen else "0",
                "active": "true",
            }
            fields |= {"default_value": column.default, "dependent": on, "dependent_on_field": on}
            fields |= {"mandatory": "false", "read_only": str(name in SYSTEM).lower()}
            yield "sys_dictionary", record("sys_dictionary", f"{owner} {name}", **fields)


def _policies() -> Iterator[tuple[str, Record]]:
    """The data policies that incident.py and change.py enforce, as their administrator
    sees them."""
    for table, conditions in (("incident", "stateIN6,7^EQ"), ("change_request", "state=3^EQ")):
        words = "Make close info mandatory when it is resolved or closed"
        policy = record(
            "sys_data_policy2",
            table,
            model_table=table,
            short_description=words,
            conditions=conditions,
            active="true",
            inherit="false",
        )
        yield "sys_data_policy2", policy
        for name in ("close_code", "close_notes"):
            fields = {"sys_data_policy": policy["sys_id"], "table": table, "field": name}
            fields |= {"mandatory": "true", "disabled": "ignore"}
            yield (
                "sys_data_policy_rule",
                record("sys_data_policy_rule", f"{table} {name}", **fields),
            )


def _logs() -> Iterator[tuple[str, Record]]:
    for place in range(_SYSLOG_ROWS):
        fields = {
            "level": "0",
            "source": "glide.scheduler",
            "message": f"Job {place} ended",
            "sequence": str(place),
        }
        yield "syslog", record("syslog", str(place), **fields)
    for place in range(_METADATA_ROWS):
        fields = {"sys_name": f"Script {place}", "sys_class_name": "sys_script_include"}
        yield (
            "sys_metadata",
            record(
                "sys_metadata", str(place), **fields, sys_update_name=f"sys_script_include_{place}"
            ),
        )
