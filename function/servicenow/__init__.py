"""ServiceNow, for this function's rules and for anybody else's Python.

itsm.py has ServiceNowClient, errors.py the tree of what it raises. The function itself needs
TableClient alone, so the other one is loaded when it is asked for.
"""

from typing import TYPE_CHECKING, Any

from function.http.network import NetworkSettings
from function.http.reply import Reply
from function.servicenow.client import TableClient
from function.servicenow.credentials import ApiKey, Basic, Credential, OAuth
from function.servicenow.errors import (
    InDoubt,
    InvalidArgument,
    NotAuthorized,
    NotFound,
    Refused,
    ServiceNowError,
    Unavailable,
    UnknownReference,
)
from function.servicenow.responses import (
    Record,
    Request,
    equals,
    interpret,
    is_sys_id,
    split_shown,
    wrong_record,
)
from function.servicenow.transport import BODY_BYTES_MAX

if TYPE_CHECKING:
    from function.servicenow.itsm import ServiceNowClient

__all__ = [
    "BODY_BYTES_MAX",
    "ApiKey",
    "Basic",
    "Credential",
    "InDoubt",
    "InvalidArgument",
    "NetworkSettings",
    "NotAuthorized",
    "NotFound",
    "OAuth",
    "Record",
    "Refused",
    "Reply",
    "Request",
    "ServiceNowClient",
    "ServiceNowError",
    "TableClient",
    "Unavailable",
    "UnknownReference",
    "equals",
    "interpret",
    "is_sys_id",
    "split_shown",
    "wrong_record",
]


def __getattr__(name: str) -> Any:
    if name == "ServiceNowClient":
        from function.servicenow.itsm import ServiceNowClient  # noqa: PLC0415  # see above

        return ServiceNowClient
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
