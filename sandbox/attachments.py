"""The Attachment API: files that belong to records.

https://www.servicenow.com/docs/bundle/latest/page/integrate/inbound-rest/concept/c_AttachmentAPI.html
"""

import io
import json
from contextlib import closing
from typing import Any, Final
from urllib.parse import quote

from werkzeug.formparser import parse_form_data

from sandbox.rest import Answer, Request, Site, Target, answered, headers, no_such_method, page
from sandbox.schema import Record, Refused, missing
from sandbox.tables import SCHEMA

_TABLE: Final = "sys_attachment"
_UNNAMED_TYPE: Final = "application/octet-stream"


def answer(site: Site, request: Request, target: Target) -> Answer:
    """Do what *request* asks of *target*, or raise Refused."""
    match request.meant, target.sys_id, target.rest:
        case "POST", "file", ():
            named = request.parameters
            kind = request.headers.get("content-type", "") or _UNNAMED_TYPE
            return _attached(site, named, named.get("file_name", ""), request.body or b"", kind)
        case "POST", "upload", ():
            return _uploaded(site, request)
        case "GET" | "HEAD", "", ():
            site.rights.check("GET", _TABLE, single=False)
            found = page(site, request, _TABLE)
            return answered(
                200, {"result": [_shown(site, row) for row in found.rows]}, *found.headers
            )
        case "GET" | "HEAD", sys_id, ():
            return answered(200, {"result": _shown(site, _record(site, sys_id))})
        case "GET" | "HEAD", sys_id, ("file",):
            return _file(site, _record(site, sys_id))
        case "DELETE", sys_id, () if sys_id:
            attached = _record(site, sys_id, method="DELETE")
            site.tables.delete(_TABLE, attached["sys_id"], by=site.user)
            return Answer(204, b"", headers())
        case _:
            raise no_such_method(request)


def _record(site: Site, sys_id: str, *, method: str = "GET") -> Record:
    found = site.tables.find(_TABLE, sys_id)
    site.rights.check_file(method, found["table_name"] if found else "", single=True)
    if found is None or not site.rights.sees(_TABLE, found):
        raise missing()
    return found


def _uploaded(site: Site, request: Request) -> Answer:
    environ = {
        "REQUEST_METHOD": "POST",
        "CONTENT_TYPE": request.headers.get("content-type", ""),
        "CONTENT_LENGTH": str(request.length),
        "wsgi.input": io.BytesIO(request.body or b""),
    }
    _, form, files = parse_form_data(environ)
    if not files:
        raise Refused(
            400, "Failed to create the attachment", "File part might be missing in the request."
        )
    file = next(iter(files.values()))
    with closing(file):
        kind = file.content_type or _UNNAMED_TYPE
        return _attached(site, form.to_dict(), file.filename or "", file.read(), kind)


def _attached(
    site: Site, named: dict[str, str], file_name: str, content: bytes, kind: str
) -> Answer:
    table, sys_id = named.get("table_name", ""), named.get("table_sys_id", "")
    lacking = [
        name for name, value in (("table_name", table), ("table_sys_id", sys_id)) if not value
    ]
    if lacking:
        raise Refused(400, "Failed to create the attachment", f"Missing parameter {lacking[0]}")
    if table not in SCHEMA:
        raise Refused(400, f"Invalid table {table}")
    site.rights.check_file("POST", table, single=False)
    made = site.tables.attach(table, sys_id, file_name, content, content_type=kind, by=site.user)
    location = ("Location", f"{site.api_url}/attachment/{made['sys_id']}/file")
    return answered(201, {"result": _shown(site, made)}, location)


def _shown(site: Site, row: Record) -> dict[str, Any]:
    """Plain values, whatever was asked, and where the file is."""
    return {**row, "download_link": f"{site.url}/api/now/attachment/{row['sys_id']}/file"}


def _file(site: Site, row: Record) -> Answer:
    content = site.tables.content(row["sys_id"])
    others = tuple(header for header in headers() if header[0] != "Content-Type")
    return Answer(
        200,
        content,
        (
            ("Content-Type", row["content_type"]),
            ("Content-Disposition", f"attachment;filename*=UTF-8''{quote(row['file_name'])}"),
            ("X-Attachment-Metadata", json.dumps(_shown(site, row))),
            *others,
        ),
    )
