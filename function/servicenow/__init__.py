"""ServiceNow, for this function's rules and for anybody else's Python.

itsm.py has ServiceNowClient, errors.py the tree of what it raises.
"""

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
from function.servicenow.itsm import ServiceNowClient
from function.servicenow.network import NetworkSettings
from function.servicenow.responses import (
    Record,
    Reply,
    Request,
    equals,
    interpret,
    is_sys_id,
    wrong_record,
)
from function.servicenow.transport import BODY_BYTES_MAX

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
    "wrong_record",
]
