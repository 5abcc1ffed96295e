"""The instance's OAuth: POST /oauth_token.do, and who holds a token that is good.

https://www.servicenow.com/docs/bundle/latest/page/platform-security/authentication/concept/c_OAuthApplications.html
Every refusal reads the same, whatever the cause, as in a real instance.
"""

import base64
import hashlib
import hmac
import json
import math
import secrets
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import parse_qsl

from sandbox.rest import JSON, Answer, Request

JWT_BEARER: Final = "urn:ietf:params:oauth:grant-type:jwt-bearer"
GRANTS: Final = frozenset({"password", "refresh_token", "client_credentials", JWT_BEARER})
# The platform's own defaults.
ACCESS_SECONDS: Final = 1_800.0
REFRESH_SECONDS: Final = 8_640_000.0
_HEADERS: Final = (JSON, ("Cache-Control", "no-store"), ("Pragma", "no-cache"))
_DENIED: Final = {"error_description": "access_denied", "error": "server_error"}


@dataclass(frozen=True, slots=True)
class TokenRequest:
    """One request for a token, as it was answered. *at* is UNIX seconds."""

    grant: str
    status: int
    at: float


@dataclass(frozen=True, slots=True)
class _Token:
    access: str
    refresh: str
    expires_at: float


class OAuth:
    """The one registered client of the instance and the tokens it was given, each for a user.

    *login* says if a user name and a password are right, and counts them if not. *user* names who
    the client itself stands for, and *may_sign_in* says for whom else it may vouch.
    """

    def __init__(
        self,
        *,
        client_id: str,
        client_secret: str,
        grants: Collection[str],
        login: Callable[[str, str], bool],
        user: Callable[[], str],
        may_sign_in: Callable[[str], bool],
        clock: Callable[[], float],
    ) -> None:
        self.client_id = client_id
        self.client_secret = client_secret
        self.requests: list[TokenRequest] = []
        self._grants = grants
        self._login = login
        self._user = user
        self._may_sign_in = may_sign_in
        self._clock = clock
        self._lock = threading.Lock()
        # By user, and whether there is a refresh token: a repeat gets the token that is still good.
        self._issued: dict[tuple[str, bool], _Token] = {}
        # Until when a refresh token is good, and for whom.
        self._refreshable: dict[str, tuple[float, str]] = {}

    def answer(self, request: Request) -> Answer:
        form = _form(request)
        grant = form.get("grant_type", "")
        granted = self._granted(request, grant, form) if request.method == "POST" else None
        told = _DENIED if granted is None else granted
        status = 401 if granted is None else 200
        with self._lock:
            self.requests.append(TokenRequest(grant, status, self._clock()))
        return Answer(status, json.dumps(told).encode(), _HEADERS)

    def holder(self, token: str) -> str:
        """The user that an access token is for; empty where it is none, or has expired."""
        now = self._clock()
        with self._lock:
            held = (
                user
                for (user, _), known in self._issued.items()
                if hmac.compare_digest(known.access.encode(), token.encode())
                and now < known.expires_at
            )
            return next(held, "")

    def expire(self) -> None:
        """Let every access token have expired; refresh tokens stay good."""
        with self._lock:
            self._issued.clear()

    def _granted(self, request: Request, grant: str, form: dict[str, str]) -> dict[str, Any] | None:
        if grant not in self._grants or not self._knows_client(request, form):
            return None
        match grant:
            case "password":
                user = form.get("username", "")
                good = self._login(user, form.get("password", ""))
            case "refresh_token":
                with self._lock:
                    until, user = self._refreshable.get(form.get("refresh_token", ""), (0.0, ""))
                good = self._clock() < until
            case "client_credentials":
                user, good = self._user(), True
            case _:
                user = self._vouched(form.get("assertion", ""))
                good = self._may_sign_in(user)
        # Only who logged in with a password comes back without one.
        return (
            self._token(user, refreshable=grant in {"password", "refresh_token"}) if good else None
        )

    def _knows_client(self, request: Request, form: dict[str, str]) -> bool:
        """The client's credentials stand in the form, or in the header, as RFC 6749 section 2.3.1
        prefers."""
        given = f"{form.get('client_id', '')}:{form.get('client_secret', '')}".encode()
        scheme, _, encoded = request.headers.get("authorization", "").partition(" ")
        if scheme.lower() == "basic":
            try:
                given = base64.b64decode(encoded, validate=True)
            except ValueError:
                return False
        return hmac.compare_digest(given, f"{self.client_id}:{self.client_secret}".encode())

    def _vouched(self, assertion: str) -> str:
        """The user that a JWT is about, if it is signed with the client's secret (HS256) and is of
        now; else empty."""
        try:
            head, claims, signature = assertion.split(".")
            algorithm = json.loads(_decoded(head))["alg"]
            told = json.loads(_decoded(claims))
            signed = hmac.digest(
                self.client_secret.encode(), f"{head}.{claims}".encode(), hashlib.sha256
            )
            good = (
                algorithm == "HS256"
                and hmac.compare_digest(signed, _decoded(signature))
                and told["iss"] == self.client_id
                and bool(told["aud"])
                and float(told["iat"]) <= self._clock() < float(told["exp"])
            )
            return str(told["sub"]) if good else ""
        except (ValueError, TypeError, KeyError):
            return ""

    def _token(self, user: str, *, refreshable: bool) -> dict[str, Any]:
        now = self._clock()
        with self._lock:
            token = self._issued.get((user, refreshable))
            if token is None or token.expires_at <= now:
                token = _Token(
                    secrets.token_urlsafe(64), secrets.token_urlsafe(64), now + ACCESS_SECONDS
                )
                self._issued[user, refreshable] = token
            if refreshable:
                self._refreshable[token.refresh] = (now + REFRESH_SECONDS, user)
        told = {"access_token": token.access, "scope": "useraccount", "token_type": "Bearer"}
        if refreshable:
            told["refresh_token"] = token.refresh
        # A real one says 1799 at first.
        return told | {"expires_in": math.ceil(token.expires_at - now) - 1}


def _form(request: Request) -> dict[str, str]:
    """The fields of a form; JSON is none, and a token is never given for it."""
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        return {}
    return dict(parse_qsl((request.body or b"").decode(errors="replace"), keep_blank_values=True))


def _decoded(part: str) -> bytes:
    return base64.urlsafe_b64decode(part + "=" * (-len(part) % 4))
