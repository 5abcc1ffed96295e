"""Who we are to ServiceNow."""

import base64
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Final, TypeAlias

from function.core.values import digest, digest_secret

REFUSED_KEY: Final = (
    "ServiceNow does not accept the API key: check SERVICENOW_API_KEY, that the key is active "
    "and its user too, and that a REST API access policy lets API keys use the Table API (plugin "
    "com.glide.tokenbased_auth)."
)


@dataclass(frozen=True, slots=True)
class Basic:
    """A user name and a password, sent with every call (RFC 7617)."""

    username: str
    password: str = field(repr=False)

    def digest(self, instance_url: str) -> str:
        """What stands for this credential in the ledger, as 32 hex digits. Slow: see
        digest_secret."""
        salt = digest(instance_url.rstrip("/"), self.username)
        return digest_secret(self.password, salt=salt)

    def headers(self) -> Mapping[str, str]:
        """What proves it to ServiceNow. UTF-8: requests' own would refuse a password outside
        Latin-1."""
        proof = base64.b64encode(f"{self.username}:{self.password}".encode()).decode()
        return {"Authorization": f"Basic {proof}"}


@dataclass(frozen=True, slots=True)
class OAuth:
    """A client of ServiceNow's OAuth: it acts for itself, or with *username* for that user (the
    password grant).

    What is sent with a call is a token, which is fetched with this: see oauth.py.
    """

    client_id: str
    client_secret: str = field(repr=False)
    username: str = ""
    password: str = field(default="", repr=False)

    def digest(self, instance_url: str) -> str:
        """As that of Basic; never the same as that of another kind."""
        # Joined by what tells where one ends: ("ab", "c") is not ("a", "bc").
        secrets = digest(self.client_secret, self.password)
        salt = digest(instance_url.rstrip("/"), "oauth", self.client_id, self.username)
        return digest_secret(secrets, salt=salt)

    @property
    def refused(self) -> str:
        """What to check when the token endpoint refuses it, which says ``access_denied`` whatever
        the cause."""
        registered = (
            "ServiceNow gives no token (its answer is the same whatever the cause): check "
            "SERVICENOW_CLIENT_ID and SERVICENOW_CLIENT_SECRET, that their entry in the "
            "Application Registry is active, and that"
        )
        if self.username:
            return (
                f"{registered} SERVICENOW_USERNAME and SERVICENOW_PASSWORD are right and the "
                "account is active, not locked out and free of multi-factor authentication."
            )
        return (
            f"{registered} the system property "
            "glide.oauth.inbound.client.credential.grant_type.enabled is true and the entry "
            "names an active OAuth Application User."
        )

    @property
    def token_refused(self) -> str:
        """What to check when a token that was just fetched is refused."""
        user = (
            "the account SERVICENOW_USERNAME"
            if self.username
            else "the entry's OAuth Application User"
        )
        return (
            f"ServiceNow gave a token and does not accept it: check that {user} is active and not "
            "locked out, and that the scope of the entry in the Application Registry and the "
            "REST API access policies allow the Table API."
        )


@dataclass(frozen=True, slots=True)
class ApiKey:
    """An API key of ServiceNow's, sent with every call."""

    key: str = field(repr=False)

    def digest(self, instance_url: str) -> str:
        """As that of Basic; never the same as that of another kind."""
        return digest_secret(self.key, salt=digest(instance_url.rstrip("/"), "api key", "", ""))

    def headers(self) -> Mapping[str, str]:
        """What proves it to ServiceNow."""
        return {"x-sn-apikey": self.key}


Credential: TypeAlias = Basic | OAuth | ApiKey
