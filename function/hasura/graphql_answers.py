"""What the answers of Hasura's GraphQL mean. Pure: an answer is a value, and so is what is wrong
with it.

By the code of an error rather than by status: version 2 answers nearly all with HTTP 200. Sources:
Hasura/Base/Error.hs (the codes), Backends/Postgres/Execute/Types.hs (what becomes of PostgreSQL's
errors), and issue #9705 of hasura/graphql-engine (a rate limit).
"""

import re
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final

import msgspec

from function.core.outcome import Failure, Reason, Retryability
from function.core.values import Json
from function.http.reply import Reply, bound_wait, is_page, read_retry_after, shorten_words

_DECODER: Final = msgspec.json.Decoder(dict[str, Any], float_hook=Decimal)


@dataclass(frozen=True, slots=True)
class _AnsweredError:
    code: str
    message: str


def interpret(reply: Reply, *, now: float) -> dict[str, Json] | Failure:
    """Say what *reply* means: its data, or why there is none. *now* is UNIX seconds.

    A mutation can be repeated, so that whatever may pass is TRANSIENT, done or not. PERMANENT is
    what Hasura or the app's database says to the mutation itself. Data beside an error is an error.
    """
    body = _decode(reply.body)
    errors = _read_errors(body)
    data = body.get("data") if body else None
    if reply.status == 200 and isinstance(data, dict) and not errors:
        return data
    failure = _find_failure(reply, errors)
    wait = read_retry_after(reply, now)
    permanent = failure.retryability is Retryability.PERMANENT
    return replace(
        failure,
        remote_message=shorten_words("; ".join(_blank_values(error.message) for error in errors)),
        retry_after_seconds=None if wait is None or permanent else bound_wait(wait),
        status=reply.status,
    )


def reword_for_query(failure: Failure) -> Failure:
    """*failure* as that of a query, which changes nothing."""
    if failure.reason not in _OF_QUERIES:
        return failure
    reason, hint = _OF_QUERIES[failure.reason]
    return replace(failure, reason=reason, hint=hint)


# Behind these words stands a name; whatever else PostgreSQL quotes may be of a row.
_QUOTED: Final = re.compile(
    r"(\b(?:constraint|table|relation|column|field|type|named|role|function|index)s?:? +)?"
    r"(\"[^\"]*\"?|'[^']*'?)"
)


def _blank_values(message: str) -> str:
    """*message* without the values that it quotes: a mail holds nothing of a row."""
    return _QUOTED.sub(lambda found: str(found[0]) if found[1] else '"…"', message)


def _find_failure(reply: Reply, errors: list[_AnsweredError]) -> Failure:
    match reply.status:
        case 401 | 403 if not is_page(reply):
            return UNAUTHORIZED
        case 408 | 499 | 504:
            return _GIVEN_UP
        case 413:
            return _TOO_LARGE
        case 429:
            return _OVERLOADED
        case status if status >= 500:
            return _UNAVAILABLE
        case 404 | 405:
            return _NOT_HASURA
    if errors:
        # What may pass keeps what cannot from being final.
        found = [_CODES.get(error.code, _FAILED) for error in errors]
        return min(found, key=lambda failure: _WORST_FIRST.index(failure.retryability))
    return _NOT_HASURA if is_page(reply) or reply.status != 200 else _UNREADABLE


def _decode(body: bytes) -> dict[str, Any] | None:
    try:
        return _DECODER.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError, ArithmeticError):
        return None


def _read_errors(body: dict[str, Any] | None) -> list[_AnsweredError]:
    """The errors of an answer; also one in the form that Hasura has beside GraphQL's."""
    if body is None:
        return []
    if "error" in body and "errors" not in body:
        return [_AnsweredError(_text(body.get("code")), _text(body["error"]))]
    errors = body.get("errors")
    if not errors:
        return []
    return [_read_error(error) for error in (errors if isinstance(errors, list) else [errors])]


def _read_error(error: Any) -> _AnsweredError:
    if not isinstance(error, dict):
        return _AnsweredError("", "")
    extensions = error.get("extensions")
    code = extensions.get("code") if isinstance(extensions, dict) else ""
    return _AnsweredError(_text(code), _text(error.get("message")))


def _text(value: Any) -> str:
    return value if isinstance(value, str) else ""


_WORST_FIRST: Final = (Retryability.TRANSIENT, Retryability.PERMANENT)


def _transient(reason: Reason, hint: str) -> Failure:
    return Failure(Retryability.TRANSIENT, reason, hint)


def _permanent(reason: Reason, hint: str) -> Failure:
    return Failure(Retryability.PERMANENT, reason, hint)


UNAUTHORIZED: Final = _transient(
    Reason.HASURA_UNAUTHORIZED,
    "Hasura does not let the function in: check HASURA_ADMIN_SECRET and HASURA_ROLE.",
)
_OVERLOADED: Final = _transient(
    Reason.HASURA_OVERLOADED,
    "Hasura, or its database, takes no more requests for now: a rate limit, or all connections "
    "are in use.",
)
_UNAVAILABLE: Final = _transient(
    Reason.HASURA_UNAVAILABLE,
    "Hasura, what is before it, or its database does not work: it may be restarting, or "
    "loading its metadata.",
)
_GIVEN_UP: Final = _transient(
    Reason.HASURA_TIMEOUT, "Something between here and Hasura gave up waiting for it."
)
_NOT_HASURA: Final = _transient(
    Reason.HASURA_BAD_ANSWER,
    "Something other than Hasura's GraphQL answers: HASURA_GRAPHQL_URL must be the address of "
    "/v1/graphql itself, without a redirect or a login before it.",
)
_UNREADABLE: Final = _transient(
    Reason.HASURA_BAD_ANSWER,
    "Hasura's answer was cut off, or is none of GraphQL: HASURA_GRAPHQL_URL must be the address "
    "of /v1/graphql.",
)
_FAILED: Final = _transient(
    Reason.MUTATION_FAILED,
    "Hasura, or the app's database, failed on the mutation: a trigger that raises an error, a "
    "lock, a time limit, or an error of an Action. Its own words and its log say more.",
)
_INVALID: Final = _permanent(
    Reason.MUTATION_INVALID,
    "Hasura cannot make sense of the mutation: the app's tables, columns or types are others, or "
    "HASURA_ROLE does not see them. Its own words say which.",
)
_TOO_LARGE: Final = _permanent(
    Reason.MUTATION_INVALID,
    "The mutation is larger than Hasura, or a proxy before it, takes: shorten what its variables "
    "are given.",
)
_FORBIDDEN: Final = _permanent(
    Reason.MUTATION_FORBIDDEN,
    "A permission of HASURA_ROLE, or a check constraint of the app's database, does not let the "
    "mutation pass. Hasura's own words say which.",
)
_REFUSED: Final = _permanent(
    Reason.MUTATION_REFUSED,
    "The app's database refuses what the mutation writes: a constraint, or a value that its "
    "column does not take. Hasura's own words say which.",
)
# Every other code, such as `unexpected` (also of a statement that the database cancelled),
# `concurrent-update` or an Action's own, may pass.
_CODES: Final = {
    **dict.fromkeys(
        (
            "access-denied",
            "invalid-headers",
            "invalid-jwt",
            "invalid-jwt-key",
            "jwt-invalid-claims",
            "jwt-missing-role-claims",
        ),
        UNAUTHORIZED,
    ),
    **dict.fromkeys(("busy", "postgres-max-connections-error", "rate-limit-exceeded"), _OVERLOADED),
    **dict.fromkeys(("connection-timeout-error", "postgres-error"), _UNAVAILABLE),
    **dict.fromkeys(
        (
            "bad-request",
            "coercion-error",
            "constraint-error",  # of the constraint that an on_conflict names
            "invalid-json",
            "invalid-params",
            "not-exists",
            "not-found",  # a session variable that a permission asks for
            "not-supported",
            "parse-failed",
            "unexpected-payload",
            "validation-failed",
        ),
        _INVALID,
    ),
    **dict.fromkeys(("permission-denied", "permission-error"), _FORBIDDEN),
    **dict.fromkeys(("constraint-violation", "data-exception", "not-null-violation"), _REFUSED),
}
_DATA_INVALID: Final = (
    Reason.DATA_INVALID,
    "Hasura cannot make sense of the query for `data`: the app's tables, columns or types are "
    "others, HASURA_ROLE does not see them, or a variable is given what its type does not take. "
    "Hasura's own words say which.",
)
_OF_QUERIES: Final = {
    Reason.MUTATION_FAILED: (
        Reason.DATA_FAILED,
        "Hasura, or the app's database, failed on the query for `data`: a lock, a time limit, or "
        "an error of an Action. Its own words and its log say more.",
    ),
    Reason.MUTATION_INVALID: _DATA_INVALID,
    Reason.MUTATION_REFUSED: _DATA_INVALID,
    Reason.MUTATION_FORBIDDEN: (
        Reason.DATA_FORBIDDEN,
        "A permission of HASURA_ROLE does not let the query for `data` pass. Hasura's own words "
        "say which.",
    ),
}
