"""The Table API: any table, by its name.

https://www.servicenow.com/docs/bundle/latest/page/integrate/inbound-rest/concept/c_TableAPI.html
"""

from typing import Final

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
from sandbox.scripts import unimplemented

# What the tables of incidents, problems, changes and their tasks extend.
_TASK: Final = "task"


def answer(site: Site, request: Request, target: Target) -> Answer:
    """Do what *request* asks of *target*, or raise Refused."""
    table, sys_id = target.table, target.sys_id
    present = Presenter(site, request.parameters)
    shown = request.parameters.get("sysparm_input_display_value") == "true"
    if table != _TASK or request.meant in {"GET", "HEAD"}:
        site.rights.check(request.meant, table, single=bool(sys_id))
    match request.meant, bool(sys_id):
        case "GET" | "HEAD", False:
            return _list(site, request, target, present)
        case "GET" | "HEAD", True:
            return answered(200, {"result": present.record(table, _found(site, table, sys_id))})
        case "POST", False if table == _TASK:
            raise unimplemented(
                "a task that is nothing else: make it where it belongs, as in incident"
            )
        case "POST", False:
            made = site.tables.insert(table, request.sent, by=site.user, shown=shown)
            location = ("Location", f"{site.api_url}/table/{table}/{made['sys_id']}")
            if request.headers.get("x-no-response-body") == "true":
                return Answer(201, b"", (*headers(), location))
            return answered(201, {"result": present.record(table, made)}, location)
        case "PUT" | "PATCH", True:
            own = _own_table(site, request, target)
            now = site.tables.update(own, sys_id, request.sent, by=site.user, shown=shown)
            if own != table:
                now = _found(site, table, sys_id)
            return answered(200, {"result": present.record(table, now)})
        case "DELETE", True:
            site.tables.delete(_own_table(site, request, target), sys_id, by=site.user)
            return Answer(204, b"", headers())
        case _:
            raise no_such_method(request)


def _found(site: Site, table: str, sys_id: str) -> Record:
    found = site.tables.find(table, sys_id)
    if found is None or not site.rights.sees(table, found):
        raise missing()
    return found


def _own_table(site: Site, request: Request, target: Target) -> str:
    """Where a record is written: a task is changed and deleted as what it is."""
    if target.table != _TASK:
        return target.table
    own = _found(site, _TASK, target.sys_id)["sys_class_name"]
    site.rights.check(request.meant, own, single=True)
    return own


def _list(site: Site, request: Request, target: Target, present: Presenter) -> Answer:
    found = page(site, request, target.table)
    if not found.rows and target.version == "v1":
        words = "Records matching query not found. Check query parameter or offset parameter"
        raise Refused(404, "No Record found", words)
    return answered(
        200, {"result": [present.record(target.table, row) for row in found.rows]}, *found.headers
    )
