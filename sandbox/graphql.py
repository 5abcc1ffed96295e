"""Hasura's GraphQL over a project's tables: POST /v1/graphql, on loopback.

    with Hasura(…, graphql_port=0, admin_secret="s3cret") as hasura:
        requests.post(hasura.graphql.url, json={"query": …}, headers={"x-hasura-admin-secret": …})

Written from Hasura's source (v2: Server/Auth.hs, Session.hs, GraphQL/Transport/HTTP.hs,
Backends/Postgres/Execute) and its tests (server/tests-py); no engine was run. Every answer has the
status 200, errors too. What Hasura does and this does not is answered with the code not-supported
and its name.

Not certain: that a role which the metadata does not name sees an empty schema (another engine that
was compared with Hasura refuses it); the texts of parse-failed for types other than numbers.
"""

import hmac
import json
import os
import secrets
import socket
import struct
import threading
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from decimal import Decimal
from enum import StrEnum
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

import psycopg

from sandbox.catalog import Connection
from sandbox.graphql_conditions import ConditionCompiler
from sandbox.graphql_document import (
    Document,
    InvalidDocument,
    Operation,
    exact_number,
    parse_document,
)
from sandbox.graphql_input import (
    GraphQLError,
    InputReader,
    invalid,
    kind_of,
    names_in,
    resolve_variables,
    unsupported,
)
from sandbox.graphql_schema import ADMIN, TableSchema
from sandbox.graphql_selections import FieldCollector
from sandbox.graphql_sql import FieldCompiler, RootStatement
from sandbox.loopback import Loopback
from sandbox.webhook import encode

PATH: Final = "/v1/graphql"
_ADMIN_SECRET: Final = "x-hasura-admin-secret"  # noqa: S105  # a header's name
_ACCESS_KEY: Final = "x-hasura-access-key"
_ROLE: Final = "x-hasura-role"
_TRACE_ID_DIGITS: Final = 32
# Hasura has no limit; this keeps a test's mistake from filling the memory.
_BODY_BYTES_MAX: Final = 16 * 1024 * 1024
# A client that says nothing for so long is hung up on.
_IDLE_SECONDS: Final = 60.0
_CONNECT_SECONDS: Final = 10
# Longer than a test waits for a lock on purpose.
_STATEMENT_SECONDS_MAX: Final = 30


class GraphQLFault(StrEnum):
    """One way in which a mutation goes wrong; queries meet none."""

    # Nothing is stored, and the answer says so in the words for a database that is away.
    ERROR_BEFORE_COMMIT = "error_before_commit"
    # All is stored, and the caller never hears of it.
    COMMIT_THEN_RESET = "commit_then_reset"


class AnswerLost(Exception):  # noqa: N818  # what is to happen
    """The work is done, and its answer is not to arrive."""


@dataclass(frozen=True, slots=True)
class _Request:
    query: str
    variables: Mapping[str, Any]
    operation_name: str | None


class GraphQLServer:
    """The endpoint, from start to stop. *admin_secret* None: who asks is the admin.

    *request_count* requests were made so far; *in_flight* of them are not answered yet, though
    their sender may be gone. *port* 0 takes a free one; an OSError with one sentence says that it
    is taken.
    """

    def __init__(
        self, database_url: str, schema: TableSchema, *, port: int = 0, admin_secret: str | None
    ) -> None:
        self.schema = schema
        self._database_url = database_url
        self._admin_secret = admin_secret
        self.request_count = 0
        self.in_flight = 0
        self._armed: list[GraphQLFault] = []
        self._lock = threading.Lock()
        self._stopped = False
        handler = type("Handler", (_Handler,), {"graphql": self})
        self._server = Loopback("the sandbox's GraphQL", port, handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._server.port}{PATH}"

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        """Stop listening, and wait for what is being done; a second time, do nothing."""
        if not self._stopped:
            self._stopped = True
            self._server.stop()

    def arm(self, fault: GraphQLFault | str, *, times: int = 1) -> None:
        """Let the next mutations meet *fault*, those that reach the database."""
        with self._lock:
            self._armed += [GraphQLFault(fault)] * times

    def disarm(self) -> int:
        """Remove every fault; gives how many nobody has met."""
        with self._lock:
            left, self._armed = len(self._armed), []
        return left

    def answer(self, headers: Mapping[str, str], body: bytes) -> str:
        """The JSON that answers a request; *headers* have lower-case names. Raises AnswerLost."""
        with self._lock:
            self.request_count += 1
            self.in_flight += 1
        try:
            return self._answer(headers, body)
        finally:
            with self._lock:
                self.in_flight -= 1

    def _answer(self, headers: Mapping[str, str], body: bytes) -> str:
        is_admin = False
        try:
            session = self._session(headers)
            is_admin = session[_ROLE] == ADMIN
            return self._answered(_read(body), session, _trace_context(headers))
        except RecursionError:
            # One fragment in another a thousand times; a document alone is not so deep.
            shown = unsupported("what is nested so deeply").shown()
        except GraphQLError as error:
            shown = error.shown()
            if not is_admin:
                # HASURA_GRAPHQL_ADMIN_INTERNAL_ERRORS is on, and for the admin alone.
                shown["extensions"].pop("internal", None)
        return json.dumps({"errors": [shown]})

    def _session(self, headers: Mapping[str, str]) -> dict[str, str]:
        """The session's variables, or the error of who may not ask."""
        session = {name: value for name, value in headers.items() if name.startswith("x-hasura-")}
        given = [session.pop(name, None) for name in (_ADMIN_SECRET, _ACCESS_KEY)]
        if self._admin_secret is not None:
            secret = next((one for one in given if one is not None), None)
            if secret is None:
                # Here without quotes and there with them, as people report both of version 2.
                message = f"{_ADMIN_SECRET}/{_ACCESS_KEY} required, but not found"
                raise GraphQLError("access-denied", message)
            if not hmac.compare_digest(secret.encode(), self._admin_secret.encode()):
                message = f'invalid "{_ADMIN_SECRET}"/"{_ACCESS_KEY}"'
                raise GraphQLError("access-denied", message)
        return session | {_ROLE: session.get(_ROLE) or ADMIN}

    def _answered(
        self, request: _Request, session: Mapping[str, str], trace_context: Mapping[str, str]
    ) -> str:
        try:
            document = parse_document(request.query)
        except InvalidDocument:
            raise invalid("not a valid graphql query", "$.query") from None
        operation = _chosen(document, request.operation_name)
        if operation.kind == "subscription":
            message = "subscriptions are not supported over HTTP, use websockets instead"
            raise GraphQLError("unexpected-payload", message)
        used = frozenset(names_in(operation.selections)) | {
            name for one in document.fragments.values() for name in names_in((one,))
        }
        variables = resolve_variables(operation, used, request.variables)
        reader = InputReader(variables)
        fields = FieldCollector(reader, document.fragments)
        conditions = ConditionCompiler(self.schema, session, reader)
        compiler = FieldCompiler(self.schema, reader, fields, conditions)
        statements = compiler.compile_roots(operation.kind, operation.selections)
        with _connected(self._database_url) as connection:
            if operation.kind == "query":
                return _data([(one.key, _executed(connection, one)) for one in statements])
            return self._mutated(connection, statements, session, trace_context)

    def _mutated(
        self,
        connection: Connection,
        statements: list[RootStatement],
        session: Mapping[str, str],
        trace_context: Mapping[str, str],
    ) -> str:
        """Run a mutation's fields one after the other, in one transaction."""
        fault = self._next_fault()
        try:
            with connection.transaction():
                # What the event triggers read (setHeadersTx and setTraceContextInTx in Hasura).
                connection.execute(
                    "SELECT set_config('hasura.user', %s, true), "
                    "set_config('hasura.tracecontext', %s, true)",
                    [json.dumps(dict(session)), json.dumps(dict(trace_context))],
                )
                answers = [(one.key, _executed(connection, one)) for one in statements]
                if fault is GraphQLFault.ERROR_BEFORE_COMMIT:
                    raise GraphQLError("postgres-error", "connection error")
        except psycopg.Error as error:  # the commit's, where a constraint is deferred
            raise _refused(error, "$") from error
        if fault is GraphQLFault.COMMIT_THEN_RESET:
            raise AnswerLost
        return _data(answers)

    def _next_fault(self) -> GraphQLFault | None:
        with self._lock:
            return self._armed.pop(0) if self._armed else None


def _read(body: bytes) -> _Request:
    """The request's body, its numbers exact."""
    try:
        content = json.loads(body.decode(), parse_float=exact_number, parse_constant=_no_number)
    except (ValueError, RecursionError, InvalidDocument) as error:
        raise GraphQLError("invalid-json", str(error) or "Error in $") from None
    type_name = "Hasura.GraphQL.Transport.HTTP.Protocol.GQLReq(GQLReq)"
    if not isinstance(content, dict):
        message = f"parsing {type_name} failed, expected Object, but encountered {kind_of(content)}"
        raise GraphQLError("parse-failed", message)
    if "query" not in content:
        raise GraphQLError("parse-failed", f'parsing {type_name} failed, key "query" not found')
    expected: dict[str, tuple[type, str]] = {
        "query": (str, "Text failed, expected String"),
        "variables": (dict, "HashMap failed, expected Object"),
        "operationName": (str, "Text failed, expected String"),
    }
    for name, (type_, words) in expected.items():
        value = content.get(name)
        if not isinstance(value, type_) and (value is not None or name == "query"):
            message = f"parsing {words}, but encountered {kind_of(value)}"
            raise GraphQLError("parse-failed", message, f"$.{name}")
    return _Request(content["query"], content.get("variables") or {}, content.get("operationName"))


def _no_number(text: str) -> Decimal:
    raise ValueError(f"{text} is no JSON")


def _chosen(document: Document, name: str | None) -> Operation:
    """The operation that is to be executed (getSingleOperation in Hasura)."""
    if name is None:
        if len(document.operations) != 1:
            raise invalid(
                "exactly one operation has to be present in the document when operationName is "
                "not specified"
            )
        return document.operations[0]
    if any(one.name is None for one in document.operations):
        raise invalid(
            "operationName cannot be used when an anonymous operation exists in the document"
        )
    for one in document.operations:
        if one.name == name:
            return one
    raise invalid(f'no such operation found in the document: "{name}"')


def _trace_context(headers: Mapping[str, str]) -> dict[str, str]:
    """The trace that the caller's B3 headers name, or a new one."""
    given = headers.get("x-b3-traceid", "").lower()
    is_trace = len(given) == _TRACE_ID_DIGITS and set(given) <= set("0123456789abcdef")
    trace_id = given if is_trace else secrets.token_hex(_TRACE_ID_DIGITS // 2)
    return {"trace_id": trace_id, "span_id": secrets.token_hex(8)}


# --- the database
# --------------------------------------------------------------------------------------------------


def _connected(database_url: str) -> Connection:
    try:
        connection = psycopg.connect(
            database_url, autocommit=True, connect_timeout=_CONNECT_SECONDS
        )
        try:
            connection.execute(f"SET statement_timeout = '{_STATEMENT_SECONDS_MAX}s'".encode())
        except psycopg.Error:
            connection.close()
            raise
    except psycopg.Error as error:
        raise _refused(error, "$") from error
    return connection


def _executed(connection: Connection, root: RootStatement) -> str:
    """The answer's JSON, as PostgreSQL writes it."""
    try:
        [(answer, is_permitted)] = connection.execute(root.statement).fetchall()
    except psycopg.Error as error:
        raise _refused(error, root.path) from error
    if not is_permitted:
        message = "check constraint of an insert/update permission has failed"
        raise GraphQLError("permission-error", message, root.path)
    return "null" if answer is None else str(answer)


def _data(answers: list[tuple[str, str]]) -> str:
    shown = ",".join(f"{encode(key)}:{answer}" for key, answer in answers)
    return f'{{"data":{{{shown}}}}}'


# mkTxErrorHandler in Hasura's Backends/Postgres/Execute/Types.hs: by SQLSTATE, or by its class.
_VIOLATIONS: Final = {
    "23001": "Can not delete or update due to data being referred. ",
    "23502": "Not-NULL violation. ",
    "23503": "Foreign key violation. ",
    "23505": "Uniqueness violation. ",
    "23P01": "Exclusion violation. ",
}


def _refused(error: psycopg.Error, path: str) -> GraphQLError:
    """What PostgreSQL said, in the codes of dmlTxErrorHandler."""
    state = error.sqlstate or ""
    words = error.diag.message_primary or str(error).strip()
    if state == "23514":
        # Not a constraint-violation, whatever it is called.
        return GraphQLError("permission-error", f"Check constraint violation. {words}", path)
    if state.startswith("23"):
        return GraphQLError("constraint-violation", _VIOLATIONS.get(state, "") + words, path)
    if state == "22025":
        return GraphQLError("bad-request", words, path)
    if state.startswith("22") or isinstance(error, psycopg.DataError):
        return GraphQLError("data-exception", words, path)
    if state == "42P10":
        words = "there is no unique or exclusion constraint on target column(s)"
        return GraphQLError("constraint-error", words, path)
    if state == "42704":
        return GraphQLError("constraint-error", words, path)
    if not state:
        return GraphQLError("postgres-error", "connection error", path)
    internal = {
        "error": {
            "exec_status": "FatalError",
            "status_code": state,
            "message": words,
            "description": error.diag.message_detail,
            "hint": error.diag.message_hint,
        }
    }
    return GraphQLError("unexpected", "database query error", path, internal=internal)


# --- HTTP
# --------------------------------------------------------------------------------------------------


class _Handler(BaseHTTPRequestHandler):
    graphql: GraphQLServer
    protocol_version = "HTTP/1.1"
    timeout = _IDLE_SECONDS
    disable_nagle_algorithm = True

    def handle(self) -> None:
        with suppress(ConnectionError):  # the caller went away
            super().handle()

    def _serve(self) -> None:
        length = self.headers.get("Content-Length", "0")
        if not length.isascii() or not length.isdigit() or int(length[:20]) > _BODY_BYTES_MAX:
            self.close_connection = True
            return self._send(413, json.dumps({"error": "the body is too large"}))
        body = self.rfile.read(int(length))
        if self.command != "POST" or self.path.partition("?")[0] != PATH:
            missing = {"path": "$", "error": "resource does not exist", "code": "not-found"}
            return self._send(404, json.dumps(missing))
        # Texts, as Hasura reads them; http.server has read each byte as a character.
        headers = {
            name.lower(): value.encode("latin-1", "replace").decode("utf-8", "replace")
            for name, value in self.headers.items()
        }
        try:
            return self._send(200, self.graphql.answer(headers, body))
        except AnswerLost:
            return self._reset()

    do_GET = do_POST = do_PUT = do_DELETE = _serve  # noqa: N815  # http.server's names

    def _send(self, status: int, answer: str) -> None:
        content = answer.encode()
        self.send_response_only(status)
        self.send_header("Content-Type", "application/json; charset=utf-8")
        self.send_header("Content-Length", str(len(content)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(content)

    def _reset(self) -> None:
        """End the connection with a TCP reset: closed at once, with nothing said."""
        self.close_connection = True
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        os.close(self.connection.detach())

    def log_message(self, *_: object) -> None:
        """Say nothing: the terminal is for people."""
