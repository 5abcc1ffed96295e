"""Bodies as Hasura posts them: compact, UTF-8, keys in code-point order. Every one is a new event
unless *id* is given.

A table is named ``outages`` (in schema public) or ``shop.outages``.
"""

import json
import uuid
from typing import Any, TypedDict, Unpack

# Facts of the delivery that a test seldom cares for.
CREATED_AT = "2026-03-04T05:06:07.123456"
TRACE_ID = "00112233445566778899aabbccddeeff"


class Over(TypedDict, total=False):
    """What a test may say differently."""

    id: str
    created_at: str
    trigger: str
    current_retry: int
    max_retries: int
    session_variables: dict[str, str] | None
    trace_context: dict[str, str | int] | None


def insert(table: str, new: object, **over: Unpack[Over]) -> bytes:
    return encode(envelope(table, "INSERT", None, new, **over))


def update(table: str, old: object, new: object, **over: Unpack[Over]) -> bytes:
    return encode(envelope(table, "UPDATE", old, new, **over))


def delete(table: str, old: object, **over: Unpack[Over]) -> bytes:
    return encode(envelope(table, "DELETE", old, None, **over))


def manual(table: str, new: object, **over: Unpack[Over]) -> bytes:
    return encode(envelope(table, "MANUAL", None, new, **over))


def mssql_insert(table: str, new: object, **over: Unpack[Over]) -> bytes:
    return encode(_of_mssql(envelope(table, "INSERT", None, new, **over)))


def mssql_update(
    table: str, old: dict[str, Any] | None, new: dict[str, Any], **over: Unpack[Over]
) -> bytes:
    """Columns that are NULL are left out, as SQL Server's FOR JSON does."""
    return encode(
        _of_mssql(envelope(table, "UPDATE", _without_nulls(old), _without_nulls(new), **over))
    )


def mssql_delete(table: str, old: object, **over: Unpack[Over]) -> bytes:
    return encode(_of_mssql(envelope(table, "DELETE", old, None, **over)))


def mssql_manual(table: str, new: object, **over: Unpack[Over]) -> bytes:
    """Neither op nor data: what is stored for MSSQL is the images alone."""
    body = _of_mssql(envelope(table, "MANUAL", None, new, **over))
    body["event"] = {"new": new, "old": None}
    return encode(body)


def cron(name: str, payload: object = None, *, id: str = "", comment: str | None = None) -> bytes:
    body = {
        "id": id or str(uuid.uuid4()),
        "name": name,
        "payload": payload,
        "scheduled_time": "2026-03-04T05:00:00Z",
    }
    return encode(body | ({} if comment is None else {"comment": comment}))


def one_off(payload: object = None, *, id: str = "", comment: str | None = None) -> bytes:
    body = {
        "created_at": "2026-03-04T04:00:00Z",
        "id": id or str(uuid.uuid4()),
        "payload": payload,
        "scheduled_time": "2026-03-04T05:00:00Z",
    }
    return encode(body | ({} if comment is None else {"comment": comment}))


def envelope(table: str, op: str, old: object, new: object, **over: Unpack[Over]) -> dict[str, Any]:
    """The body as a dict, for a test that wants to break it before encode()."""
    schema, _, name = table.rpartition(".")
    return {
        "created_at": over.get("created_at", CREATED_AT),
        "delivery_info": {
            "current_retry": over.get("current_retry", 0),
            "max_retries": over.get("max_retries", 3),
        },
        "event": {
            "data": {"new": new, "old": old},
            "op": op,
            "session_variables": over.get("session_variables", {"x-hasura-role": "admin"}),
            "trace_context": over.get(
                "trace_context",
                {
                    "sampling_state": "1",
                    "span_id": "0123456789abcdef",
                    "trace_id": TRACE_ID,
                },
            ),
        },
        "id": over.get("id") or str(uuid.uuid4()),
        "table": {"name": name, "schema": schema or "public"},
        "trigger": {"name": over.get("trigger", f"{name}_to_servicenow")},
    }


def encode(body: object) -> bytes:
    return json.dumps(body, ensure_ascii=False, sort_keys=True, separators=(",", ":")).encode()


def _of_mssql(body: dict[str, Any]) -> dict[str, Any]:
    body["event"] = {"data": body["event"]["data"], "op": body["event"]["op"]}
    body["id"] = body["id"].upper()
    if body["table"]["schema"] == "public":
        body["table"]["schema"] = "dbo"
    return body


def _without_nulls(image: dict[str, Any] | None) -> dict[str, Any] | None:
    return (
        None
        if image is None
        else {column: value for column, value in image.items() if value is not None}
    )
