"""The Table API: any table, by its name.

https://www.servicenow.com/docs/bundle/latest/page/integrate/inbound-rest/concept/c_TableAPI.html
"""

from sandbox.rest import Answer, Presenter, Request, Site, Target, answered, headers, no_such_method, page
from sandbox.schema import Refused, missing


def answer(site: Site, request: Request, target: Target) -> Answer:
    """Do what *request* asks of *target*, or raise Refused."""
    table, sys_id = target.table, target.sys_id
    present = Presenter(site, request.parameters)
    shown = request.parameters.get("sysparm_input_display_value") == "true"
    site.rights.check(request.meant, table, single=bool(sys_id))
    match request.meant, bool(sys_id):
        case "GET" | "HEAD", False:
            return _list(site, request, target, present)
        case "GET" | "HEAD", True:
            found = site.tables.find(table, sys_id)
            if found is None or not site.rights.sees(table, found):
                raise missing()
            return answered(200, {"result": present.record(table, found)})
        case "POST", False:
            made = site.tables.insert(table, request.sent, by=site.user, shown=shown)
            location = ("Location", f"{site.api_url}/table/{table}/{made['sys_id']}")
            if request.headers.get("x-no-response-body") == "true":
                return Answer(201, b"", (*headers(), location))
            return answered(201, {"result": present.record(table, made)}, location)
        case "PUT" | "PATCH", True:
            now = site.tables.update(table, sys_id, request.sent, by=site.user, shown=shown)
            return answered(200, {"result": present.record(table, now)})
        case "DELETE", True:
            site.tables.delete(table, sys_id)
            return Answer(204, b"", headers())
        case _:
            raise no_such_method(request)


def _list(site: Site, request: Request, target: Target, present: Presenter) -> Answer:
    found = page(site, request, target.table)
    if not found.rows and target.version == "v1":
        words = "Records matching query not found. Check query parameter or offset parameter"
        raise Refused(404, "No Record found", words)
    return answered(200, {"result": [present.record(target.table, row) for row in found.rows]}, *found.headers)
