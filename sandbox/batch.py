"""The Batch API: many requests in one, independent of each other.

https://www.servicenow.com/docs/bundle/latest/page/integrate/inbound-rest/concept/batch-api.html
"""

import base64
import binascii
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, Final
from urllib.parse import urlsplit

from sandbox.rest import Answer, Request, answered
from sandbox.schema import Refused

_ITEM_BYTES_MAX: Final = 5 * 1024 * 1024
_BAD: Final = "Exception while reading request"


def answer(
    request: Request, ask: Callable[[Request], Answer | None], *, items_max: int | None
) -> Answer:
    """Ask each request in the body and collect the answers.

    What gets no answer, and what is beyond *items_max*, comes back unserviced and may be sent
    again, as after the 30 seconds that a batch has.
    """
    sent = request.sent
    items = sent.get("rest_requests")
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise Refused(400, _BAD, "rest_requests is missing")
    within = items if items_max is None else items[:items_max]
    serviced, unserviced = [], [str(item.get("id", "")) for item in items[len(within) :]]
    for item in within:
        began = time.monotonic()
        told = ask(_unpacked(request, item))
        if told is None:
            unserviced.append(str(item.get("id", "")))
        else:
            serviced.append(
                _packed(item, told, milliseconds=int((time.monotonic() - began) * 1000))
            )
    result = {
        "batch_request_id": str(sent.get("batch_request_id", "")),
        "serviced_requests": serviced,
        "unserviced_requests": unserviced,
    }
    return answered(200, result)


def _unpacked(request: Request, item: Mapping[str, Any]) -> Request:
    """An item as a request of its own, from the same sender. Raises Refused (400)."""
    address = urlsplit(str(item.get("url", "")))
    # ServiceNow's own client says in no item what it accepts: what the whole batch said holds.
    named = {"accept": request.headers.get("accept", "")}
    named |= {
        str(h.get("name", "")).lower(): str(h.get("value", "")) for h in item.get("headers") or []
    }
    try:
        body = base64.b64decode(item.get("body") or "", validate=True)
    except (ValueError, TypeError, binascii.Error) as wrong:
        raise Refused(400, _BAD, "The body of an item is no base64") from wrong
    whole = body if len(body) <= _ITEM_BYTES_MAX else None
    method = str(item.get("method", "GET")).upper()
    return Request(method, address.path, address.query, named, whole, len(body), request.peer)


def _packed(item: Mapping[str, Any], told: Answer, *, milliseconds: int) -> dict[str, Any]:
    packed = {
        "id": item.get("id", ""),
        "body": base64.b64encode(told.body).decode(),
        "status_code": told.status,
        "status_text": HTTPStatus(told.status).phrase,
        "execution_time": milliseconds,
    }
    if item.get("exclude_response_headers") is not True:
        packed["headers"] = [
            {"name": name, "value": value} for name, value in told.headers if name != "Set-Cookie"
        ]
    return packed
