"""Tokens of ServiceNow's OAuth: fetched early, shared by all threads, one request at a time for
however many wait.

Authlib makes the requests' forms; they go over our own transport, for what OAuth2Session (a session
of requests) does not keep: a deadline on the whole exchange, and a bound on what is read.

Sources: RFC 6749 (4.3 password, 4.4 client credentials, 6 refresh); ServiceNow's docs
(client-credentials.md).
"""

import logging
import re
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Final, Protocol, TypeVar
from urllib.parse import urlencode

import msgspec

from function.core.outcome import Failure, Reason, Retryability
from function.http.reply import Reply
from function.servicenow.credentials import REFUSED_KEY, ApiKey, Credential, OAuth
from function.servicenow.responses import UNAUTHORIZED, Record, Request, interpret
from function.servicenow.single_flight import NotFetched, SingleFlight

log = logging.getLogger("function.servicenow")
T = TypeVar("T")

PATH: Final = "/oauth_token.do"
# Of the half hour that a token lives by default: the clocks' difference, and the longest call that
# it is sent with.
MARGIN_SECONDS: Final = 60.0
# Who asks that soon after a request for a token has failed is told the same, without a request: a
# crowd that comes in one by one waited too. No longer, because somebody may have put it right.
PAUSE_SECONDS: Final = 1.0
# A token that is still good is used until it is not; a server that is down is not asked by every
# call meanwhile.
EARLY_PAUSE_SECONDS: Final = 10.0
# What ServiceNow grants by default, where it does not say; and no longer than it could mean.
LIFE_SECONDS: Final = 1800.0
LIFE_SECONDS_MAX: Final = 86_400.0 * 30
# A credential that is replaced is still in the hands of calls that are under way.
CREDENTIALS_MAX: Final = 2

# What a header can carry, and no more than a server takes in one.
_SENDABLE: Final = re.compile(r"[\x21-\x7e]{1,8000}")
_CODE: Final = re.compile(r"[a-z_]{1,40}")
# These mean the same of the token endpoint as of the Table API.
_MEANS_THE_SAME: Final = {
    Reason.UNREACHABLE,
    Reason.TIMEOUT,
    Reason.UNAVAILABLE,
    Reason.HIBERNATING,
    Reason.OVERLOADED,
    Reason.RATE_LIMITED,
    Reason.NOT_SERVICENOW,
}
_SLOW: Final = Failure(
    Retryability.TRANSIENT,
    Reason.TIMEOUT,
    "ServiceNow gave no token in time: it may be restarting or overloaded; see its status "
    "page if this lasts.",
)
_NO_TOKEN: Final = Failure(
    Retryability.TRANSIENT,
    Reason.BAD_ANSWER,
    "ServiceNow's token endpoint answered without a token that can be used.",
)
_NO_ENDPOINT: Final = Failure(
    Retryability.TRANSIENT,
    Reason.NOT_SERVICENOW,
    f"What answered at {PATH} is not ServiceNow's token endpoint: check SERVICENOW_INSTANCE_URL, "
    "and that the plugin OAuth 2.0 (com.snc.platform.security.oauth) is active.",
)


class TokenResponse(msgspec.Struct, frozen=True):
    """What the token endpoint gives (RFC 6749, 5.1)."""

    access_token: str
    token_type: str = "Bearer"  # noqa: S105  # a kind, no secret
    expires_in: float = LIFE_SECONDS
    refresh_token: str = ""


class _TokenRefusal(msgspec.Struct, frozen=True):
    error: str = ""
    error_description: str = ""


def granted(reply: Reply, refused: str, *, now: float) -> TokenResponse | Failure:
    """Say what *reply* of the token endpoint means; *refused* is the hint for a refusal. *now* is
    UNIX seconds.

    Every failure is TRANSIENT, for what needed the token was not sent. Its words are ServiceNow's
    codes or none: what else is said there might repeat what was sent.
    """
    refusal = _decoded(reply, _TokenRefusal)
    if reply.status == 401 or (reply.status in {400, 403} and refusal is not None):
        codes = [refusal.error_description, refusal.error] if refusal else []
        words = ": ".join(code for code in codes if _CODE.fullmatch(code))
        return Failure(
            Retryability.TRANSIENT, Reason.UNAUTHORIZED, refused, words, status=reply.status
        )
    answer = _decoded(reply, TokenResponse) if reply.status == 200 else None
    if answer is not None:
        usable = answer.token_type.lower() == "bearer" and _SENDABLE.fullmatch(answer.access_token)
        return answer if usable else replace(_NO_TOKEN, status=reply.status)
    otherwise = interpret(Request("GET", "oauth_token"), reply, now=now)
    if isinstance(otherwise, Failure) and otherwise.reason in _MEANS_THE_SAME:
        return replace(otherwise, remote_message="")
    return replace(_NO_TOKEN if reply.status == 200 else _NO_ENDPOINT, status=reply.status)


def _decoded(reply: Reply, shape: type[T]) -> T | None:
    try:
        # Not strict: some proxies make "1799" of 1799.
        return msgspec.json.decode(reply.body, type=shape, strict=False)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return None


class Post(Protocol):
    """Posts a form to the instance and receives the answer by *deadline*, on the
    monotonic clock."""

    def __call__(self, path: str, form: bytes, *, deadline: float) -> Reply | Failure: ...


@dataclass(frozen=True, slots=True)
class Token:
    """What is sent, and what the next one can be fetched with. Its times are of the monotonic
    clock."""

    access: str = field(repr=False)
    refresh: str = field(repr=False)
    renew_at: float
    expires_at: float


@dataclass(slots=True)
class _Kept:
    token: Token | None = None
    refresh: str = ""
    failure: Failure | None = None
    quiet_until: float = 0.0

    def good_token(self, now: float) -> str:
        """The token, until it expires; "" without one."""
        return self.token.access if self.token and now < self.token.expires_at else ""

    def answer(self, now: float) -> str | Failure | None:
        """What is answered without a request; None where one is due."""
        good = self.good_token(now)
        if self.token and good and (now < self.token.renew_at or now < self.quiet_until):
            return good
        return self.failure if now < self.quiet_until else None


class TokenCache:
    """Keeps the token of a credential, and fetches the next one before it expires. Threads may
    share it."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._lock = threading.Lock()
        self._kept: dict[OAuth, _Kept] = {}
        self._flights = SingleFlight[OAuth, str | Failure]()

    def token(self, credential: OAuth, *, deadline: float) -> str | Failure:
        """A token to send, by *deadline* on the monotonic clock; however many ask for one, one
        request is made."""

        def fetch() -> str | Failure:
            return self._renew(credential, deadline)

        while True:
            with self._lock:
                kept, now = self._of(credential), time.monotonic()
                answer, good = kept.answer(now), kept.good_token(now)
            if answer is not None:
                return answer
            # While a token is good yet, nobody waits for another thread that fetches the next.
            wait_seconds = 0.0 if good else deadline - now
            try:
                return self._flights.run(credential, fetch, wait_seconds=wait_seconds)
            except _NoTokenError as error:
                return error.failure
            except NotFetched:
                if good:
                    return good
            if time.monotonic() >= deadline:
                return _SLOW

    def drop(self, credential: OAuth, access: str) -> None:
        """Forget the token *access*, if it is still the one that is kept: ServiceNow did not accept
        it."""
        with self._lock:
            kept = self._of(credential)
            if kept.token and kept.token.access == access:
                kept.token = None

    def refuse(self, credential: OAuth, access: str, failure: Failure) -> None:
        """The same of a token that had just been fetched: *failure* is told to who asks next,
        without a request."""
        with self._lock:
            kept = self._of(credential)
            if kept.token and kept.token.access == access:
                kept.token, kept.refresh = None, ""
            # Also where somebody has dropped it meanwhile and fetched another: that one fares no
            # better.
            kept.failure, kept.quiet_until = failure, time.monotonic() + PAUSE_SECONDS

    def _of(self, credential: OAuth) -> _Kept:
        if credential not in self._kept:
            while len(self._kept) >= CREDENTIALS_MAX:
                del self._kept[next(iter(self._kept))]
            self._kept[credential] = _Kept()
        return self._kept[credential]

    def _renew(self, credential: OAuth, deadline: float) -> str | Failure:
        """Fetch the next token: what all who wait are told. Raises _NoTokenError with what concerns
        nobody else."""
        with self._lock:
            kept, now = self._of(credential), time.monotonic()
            answer = kept.answer(now)
            if answer is not None:
                return answer
            if kept.good_token(now):
                # A call must be left time enough to be sent with the token that it has.
                deadline = now + (deadline - now) / 2
        fetched = self._fetch(credential, kept.refresh, deadline)
        with self._lock:
            return _put_down(kept, fetched, ours_alone=time.monotonic() >= deadline)

    def _fetch(self, credential: OAuth, refresh: str, deadline: float) -> Token | Failure:
        if refresh:
            answer = self._request_token(credential, refresh, deadline)
            if not isinstance(answer, Failure) or answer.reason is not Reason.UNAUTHORIZED:
                return answer
            log.info("ServiceNow does not refresh the token any more: asking for one anew")
        return self._request_token(credential, "", deadline)

    def _request_token(self, credential: OAuth, refresh: str, deadline: float) -> Token | Failure:
        # Here, because few need it.
        from authlib.oauth2.client import OAuth2Client  # noqa: PLC0415

        over = _OverOurTransport(self._post, credential.refused, deadline)
        # client_secret_post: the other way, the header of Basic, Authlib sends as Latin-1.
        client = OAuth2Client(
            over,
            credential.client_id,
            credential.client_secret,
            token_endpoint_auth_method="client_secret_post",  # noqa: S106  # a way, no secret
        )
        asked_at = time.monotonic()
        try:
            if refresh:
                client.refresh_token(PATH, refresh_token=refresh)
            elif credential.username:
                client.fetch_token(
                    PATH,
                    grant_type="password",
                    username=credential.username,
                    password=credential.password,
                )
            else:
                client.fetch_token(PATH, grant_type="client_credentials")
        except _NoTokenError as error:
            return error.failure
        answer = over.answer
        life_seconds = min(answer.expires_in, LIFE_SECONDS_MAX) if answer.expires_in > 0 else 0.0
        # While a token lives, asking again gives the same one with what is left of it: halved, a
        # few requests reach its end, where a fixed margin would make one for every call.
        return Token(
            answer.access_token,
            answer.refresh_token or refresh,
            renew_at=asked_at + life_seconds - min(MARGIN_SECONDS, life_seconds / 2),
            expires_at=asked_at + life_seconds,
        )


def _put_down(kept: _Kept, answer: Token | Failure, *, ours_alone: bool) -> str | Failure:
    """Remember *answer* and give what all who wait are told. Raises _NoTokenError with what is its
    asker's own: its time was over."""
    now = time.monotonic()
    if isinstance(answer, Token):
        kept.token, kept.refresh, kept.failure, kept.quiet_until = answer, answer.refresh, None, 0.0
        return answer.access
    if answer.reason is Reason.UNAUTHORIZED:
        # Even if the token is good for a minute yet: a password must not be tried again by every
        # call in it.
        kept.token, kept.refresh = None, ""
    elif good := kept.good_token(now):
        kept.quiet_until = now + EARLY_PAUSE_SECONDS
        return good
    elif ours_alone or answer.reason is Reason.DEADLINE:
        raise _NoTokenError(answer)
    kept.failure, kept.quiet_until = answer, now + PAUSE_SECONDS
    return answer


class _NoTokenError(Exception):
    """The token endpoint gave none."""

    def __init__(self, failure: Failure) -> None:
        super().__init__(failure.hint)
        self.failure = failure


class _OverOurTransport:
    """What Authlib takes for a session of requests; *answer* is what came of its last post."""

    answer: TokenResponse
    status_code = 200

    def __init__(self, post: Post, refused: str, deadline: float) -> None:
        self._post = post
        self._refused = refused
        self._deadline = deadline

    def post(
        self, path: str, *, data: Mapping[str, str], auth: Any, headers: Mapping[str, str]
    ) -> Any:
        """Send the form with the client's id and secret. Raises _NoTokenError."""
        started = time.monotonic()
        _, _, form = auth.prepare("POST", path, dict(headers), urlencode(data))
        reply = self._post(path, form.encode(), deadline=self._deadline)
        answer = (
            granted(reply, self._refused, now=time.time()) if isinstance(reply, Reply) else reply
        )
        if isinstance(answer, Failure) and answer.reason is Reason.TIMEOUT:
            answer = replace(answer, hint=_SLOW.hint)
        log.log(
            logging.WARNING if isinstance(answer, Failure) else logging.INFO,
            "ServiceNow token by %s: %s in %d ms, %s",
            data["grant_type"],
            f"HTTP {reply.status}" if reply.status else "no answer",
            (time.monotonic() - started) * 1000,
            f"{answer.retryability}, {answer.reason}" if isinstance(answer, Failure) else "done",
        )
        if isinstance(answer, Failure):
            raise _NoTokenError(answer)
        self.answer = answer
        return self

    def json(self) -> dict[str, object]:
        """The token, as far as Authlib looks at it."""
        return {"access_token": self.answer.access_token}


class RequestAuth:
    """What one call proves with who we are; a token that has lapsed is replaced once."""

    def __init__(
        self, credential: Callable[[], Credential], tokens: TokenCache, *, deadline: float
    ) -> None:
        self._read_credential = credential
        self._tokens = tokens
        self._deadline = deadline
        self._credential: Credential | None = None
        self._token = ""
        self._lapsed = ""

    @property
    def credential(self) -> Credential | None:
        """What the headers were made of, once they were."""
        return self._credential

    def headers(self) -> Mapping[str, str] | Failure:
        """The headers to send, or why there is no token."""
        credential = self._credential = self._read_credential()
        if not isinstance(credential, OAuth):
            self._token = ""
            return credential.headers()
        token = self._tokens.token(credential, deadline=self._deadline)
        if isinstance(token, Failure):
            return token
        self._token = token
        if token == self._lapsed:
            # ServiceNow gives the same one while it lives, so that is not what is wrong with it.
            return self._refused(credential, replace(UNAUTHORIZED, status=401))
        return {"Authorization": f"Bearer {token}"}

    def has_lapsed(self, reply: Reply | Failure) -> bool:
        """Whether ServiceNow did not accept the token, for the first time: the call may be sent
        with another."""
        if not isinstance(reply, Reply) or reply.status != 401 or not self._token or self._lapsed:
            return False
        if isinstance(self._credential, OAuth):
            self._tokens.drop(self._credential, self._token)
        self._lapsed = self._token
        return True

    def explained(self, answer: list[Record] | Failure) -> list[Record] | Failure:
        """*answer* with what is to be checked of this kind of credential."""
        if not isinstance(answer, Failure) or answer.reason is not Reason.UNAUTHORIZED:
            return answer
        if isinstance(self._credential, OAuth):
            return self._refused(self._credential, answer)
        if isinstance(self._credential, ApiKey) and answer.hint == UNAUTHORIZED.hint:
            return replace(answer, hint=REFUSED_KEY)
        return answer

    def _refused(self, credential: OAuth, failure: Failure) -> Failure:
        if failure.hint == UNAUTHORIZED.hint:
            failure = replace(failure, hint=credential.token_refused)
        self._tokens.refuse(credential, self._token, failure)
        return failure
