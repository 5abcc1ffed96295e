"""What the roles of a user allow: the access controls of a fresh instance, as far as they are
documented.

https://www.servicenow.com/docs/r/it-service-management/incident-management/inci-roles-instld-itsm-roles.html,
the same pages of Change and Problem Management, and change-management-api.html. An admin may do
all. A table that no page gives to a role is the admin's alone; which fields of a record a role may
write is not here.
"""

from collections.abc import Collection, Mapping
from typing import Final

from sandbox.rest import Rights
from sandbox.schema import NUMBERED

_ADMIN_ROLE: Final = "admin"
_ITIL: Final = "itil"
# What comes with a role.
_CONTAINS: Final[Mapping[str, tuple[str, ...]]] = {
    "itil_admin": (_ITIL,),
    "incident_manager": (_ITIL,),
    "sn_incident_admin": ("incident_manager",),
    "change_manager": (_ITIL,),
    "sn_change_admin": ("sn_change_write", "change_manager"),
    "problem_manager": (_ITIL,),
    "problem_admin": (_ITIL,),
    "problem_coordinator": (_ITIL,),
    "sn_service_desk_agent": ("sn_incident_write", "sn_problem_write", "sn_change_write"),
    "sn_incident_write": ("sn_incident_read",),
    "sn_problem_write": ("sn_problem_read",),
    "sn_change_write": ("sn_change_read",),
}
# The tables of an application, and its word in the names of roles.
_APPLICATIONS: Final[Mapping[str, tuple[str, ...]]] = {
    "incident": ("incident", "incident_task"),
    "problem": ("problem", "problem_task"),
    "change": ("change_request", "change_task", "std_change_producer_version"),
}
# Whom a record may be about is read by everybody; what a record means, by who works on some.
_READ_BY_ALL: Final = frozenset(
    {"sys_user", "sys_user_group", "sys_user_grmember", "cmn_department"}
)
_READ_AT_WORK: Final = frozenset({"cmdb_ci", "sys_choice", "sys_journal_field", "sys_metadata"})
# "An ESS user (user with no role) can view only those incidents that they create or someone else
# creates on their behalf."
_OWN: Final[Mapping[str, tuple[str, ...]]] = {"incident": ("caller_id", "opened_by")}


def held_roles(named: Collection[str]) -> frozenset[str]:
    """The *named* roles and those that come with them."""
    held, left = set(named), list(named)
    while left:
        more = [role for role in _CONTAINS.get(left.pop(), ()) if role not in held]
        held.update(more)
        left += more
    return frozenset(held)


def rights_of(named: Collection[str], user_id: str) -> Rights:
    """What a user with these roles may do."""
    roles = held_roles(named)
    if _ADMIN_ROLE in roles:
        return Rights()
    may_read, may_write = set(_READ_BY_ALL), set[str]()
    for application, tables in _APPLICATIONS.items():
        if roles & {_ITIL, f"sn_{application}_read"}:
            may_read |= {*tables, *_READ_AT_WORK}
        if roles & {_ITIL, f"sn_{application}_write"}:
            may_write |= set(tables)
    may_write.discard("std_change_producer_version")
    if set(NUMBERED) <= may_read:
        may_read.add("task")
    return Rights(
        may_read=may_read,
        may_create=may_write | {"incident"},
        may_write=may_write,
        # "DELETE: change_manager or admin".
        may_delete={"change_request", "change_task"} if "change_manager" in roles else set(),
        own={table: columns for table, columns in _OWN.items() if table not in may_read},
        user_id=user_id,
        follows_record=True,
    )
