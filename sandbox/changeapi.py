"""The Change Management API: change requests by their type, with every field in both its forms.

https://www.servicenow.com/docs/bundle/latest/page/integrate/inbound-rest/concept/change-management-api.html
"""

from typing import Any, Final

from sandbox.change import TYPES, next_states
from sandbox.rest import (
    Answer,
    Presenter,
    Request,
    Site,
    Target,
    answered,
    headers,
    no_such_method,
    page,
)
from sandbox.schema import Record, Refused, missing
from sandbox.seed import CHOICES
from sandbox.tables import SCHEMA, is_read_only

_CHANGE: Final = "change_request"
_TASK: Final = "change_task"
_TEMPLATE: Final = "std_change_producer_version"
_CALLED: Final = {_CHANGE: "Change Request", _TASK: "Change Task"}


def answer(site: Site, request: Request, target: Target) -> Answer:
    """Do what *request* asks of *target*, or raise Refused, with the reason in its message."""
    method = "GET" if request.meant == "HEAD" else request.meant
    match method, target.rest:
        case "GET", ():
            return _list(site, request, _CHANGE, "")
        case "GET", ("model",):
            return answered(
                200, {"result": [_both(kind, kind.capitalize()) for kind in sorted(TYPES)]}
            )
        case "GET", ("standard", "template"):
            return _list(site, request, _TEMPLATE, "")
        case "GET", ("standard", "template", sys_id):
            return _one(site, _TEMPLATE, sys_id)
        case "GET", (kind,) if kind in TYPES:
            return _list(site, request, _CHANGE, f"type={kind}")
        case "POST", ():
            return _made(site, request, _CHANGE, {"type": "normal"})
        case "POST", ("normal" | "emergency" as kind,):
            return _made(site, request, _CHANGE, {"type": kind, "chg_model": kind})
        case "POST", ("standard", template):
            _found(site, _TEMPLATE, template)
            fixed = {"type": "standard", "chg_model": "standard", _TEMPLATE: template}
            return _made(site, request, _CHANGE, fixed)
        case "GET", (sys_id, "nextstates"):
            return _next_states(_found(site, _CHANGE, sys_id))
        case "GET", (sys_id, "task"):
            return _list(
                site, request, _TASK, f"change_request={_found(site, _CHANGE, sys_id)['sys_id']}"
            )
        case "POST", (sys_id, "task"):
            return _made(
                site, request, _TASK, {"change_request": _found(site, _CHANGE, sys_id)["sys_id"]}
            )
        case "GET", (_, "task", task_id):
            return _one(site, _TASK, task_id)
        case "PATCH", (_, "task", task_id):
            return _changed(site, request, _TASK, task_id)
        case _, (kind, sys_id) if kind in TYPES:
            if _found(site, _CHANGE, sys_id)["type"] != kind:
                raise missing()
            return _with_one(site, request, method, sys_id)
        case _, (sys_id,):
            return _with_one(site, request, method, sys_id)
        case _:
            raise no_such_method(request)


def _with_one(site: Site, request: Request, method: str, sys_id: str) -> Answer:
    match method:
        case "GET":
            return _one(site, _CHANGE, sys_id)
        case "PATCH":
            return _changed(site, request, _CHANGE, sys_id)
        case "DELETE":
            site.rights.check("DELETE", _CHANGE, single=True)
            site.tables.delete(_CHANGE, sys_id, by=site.user)
            return Answer(204, b"", headers())
        case _:
            raise no_such_method(request)


def _found(site: Site, table: str, sys_id: str) -> Record:
    site.rights.check("GET", table, single=True)
    found = site.tables.find(table, sys_id)
    if found is None:
        raise missing()
    return found


def _one(site: Site, table: str, sys_id: str) -> Answer:
    return answered(200, {"result": _shown(site, table, _found(site, table, sys_id))})


def _list(site: Site, request: Request, table: str, also: str) -> Answer:
    site.rights.check("GET", table, single=False)
    found = page(site, request, table, also=also)
    return answered(
        200, {"result": [_shown(site, table, row) for row in found.rows]}, *found.headers
    )


def _made(site: Site, request: Request, table: str, fixed: dict[str, str]) -> Answer:
    site.rights.check("POST", table, single=False)
    sent = _sent(request)
    try:
        made = site.tables.insert(table, sent | fixed, by=site.user)
    except Refused as refused:
        raise _folded(table, "created", refused) from refused
    # 200, not 201.
    return answered(200, {"result": _shown(site, table, made) | _meta(table, sent)})


def _changed(site: Site, request: Request, table: str, sys_id: str) -> Answer:
    site.rights.check("PATCH", table, single=True)
    sent = _sent(request)
    try:
        now = site.tables.update(table, sys_id, sent, by=site.user)
    except Refused as refused:
        raise _folded(table, "updated", refused) from refused
    return answered(200, {"result": _shown(site, table, now) | _meta(table, sent)})


def _sent(request: Request) -> dict[str, Any]:
    """Fields may stand in the body, and in the address."""
    named = {
        name: value for name, value in request.parameters.items() if not name.startswith("sysparm_")
    }
    return named | request.sent


def _meta(table: str, sent: dict[str, Any]) -> dict[str, Any]:
    """The Table API hides what it did not take; here it is said."""
    ignored = [name for name in sent if name not in SCHEMA[table] or is_read_only(table, name)]
    return {"__meta": {"ignoredFields": ignored}}


def _folded(table: str, verb: str, refused: Refused) -> Refused:
    if refused.status != 403:
        return refused
    return Refused(403, f"{_CALLED[table]} record could not be {verb}. {refused.detail}", "")


def _shown(site: Site, table: str, row: Record) -> dict[str, Any]:
    present = Presenter(site, {})
    return {name: _both(value, present.shown(table, name, row)) for name, value in row.items()}


def _both(value: str, display_value: str) -> dict[str, str]:
    return {"value": value, "display_value": display_value}


def _next_states(change: Record) -> Answer:
    labels, state = CHOICES[_CHANGE]["state"], change["state"]
    following = next_states(change["type"], state)
    transitions = [
        {
            "display_value": labels[after],
            "from_state": state,
            "to_state": after,
            "transition_available": True,
            "automatic_transition": False,
        }
        for after in following
    ]
    result = {
        "available_states": [state, *following],
        "state_transitions": [[transition] for transition in transitions],
        "state_label": {one: labels[one] for one in (state, *following)},
    }
    return answered(200, {"result": result})
