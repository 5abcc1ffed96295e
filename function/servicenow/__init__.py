"""ServiceNow, as this function uses it: what its answers mean, and a client that asks.

ServiceNowError      ServiceNow did not do it, or perhaps did; .failure says which, and what to check
"""

from function.servicenow.answers import Record, Reply, Request, ServiceNowError, read, term
from function.servicenow.client import ServiceNowClient
from function.servicenow.credentials import ApiKey, Basic, Credential, OAuth
from function.servicenow.transport import BODY_BYTES_MAX

__all__ = [
    "BODY_BYTES_MAX",
    "ApiKey",
    "Basic",
    "Credential",
    "OAuth",
    "Record",
    "Reply",
    "Request",
    "ServiceNowClient",
    "ServiceNowError",
    "read",
    "term",
]
