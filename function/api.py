"""The operators' JSON API: the connection that is stored over HTTP, and its test."""

import logging
from collections.abc import Callable
from typing import Final

from flask import Request, Response
from werkzeug.routing import Rule as Route

from function.answers import BROKEN_OFF, JSON_TYPE, BodyTooLarge, answer_json, read_body
from function.connection.active import ConnectionProvider
from function.connection.probe import ConnectionTester
from function.connection.store import ApiError, ConnectionStore, parse_input
from function.core.retry import retry_after
from function.settings import Settings
from function.sources import hasura

log = logging.getLogger(__name__)


# What clients send that always send JSON.
_NOTHING: Final = {b"", b"{}", b"null"}
# An address, a user name and a password.
CONFIGURATION_BYTES_MAX: Final = 16 * 1024


class OperatorApi:
    """Routes under /api/servicenow, for whoever sends CONSOLE_TOKEN."""

    def __init__(
        self,
        settings: Settings,
        connections: ConnectionProvider,
        configurations: ConnectionStore,
        tester: ConnectionTester,
    ) -> None:
        self._settings = settings
        self._connections = connections
        self._configurations = configurations
        self._tester = tester

    def routes(self) -> list[Route]:
        config = "/api/servicenow/config"
        endpoints = [
            (config, "GET", self._show_configuration),
            (config, "POST", self._create_configuration),
            (config, "PUT", self._replace_configuration),
            (config, "DELETE", self._delete_configuration),
            ("/api/servicenow/test", "POST", self._test_connection),
        ]
        return [
            Route(path, endpoint=self._require_operator(answer), methods=[method])
            for path, method, answer in endpoints
        ]

    def _require_operator(
        self, answer: Callable[[Request], Response]
    ) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            tokens = (self._settings.console_token,) if self._settings.console_token else ()
            if not hasura.verify_secret(
                token.strip() if scheme.lower() == "bearer" else None, tokens
            ):
                refused = answer_json(
                    401, {"error": "send Authorization: Bearer and the value of CONSOLE_TOKEN"}
                )
                refused.headers["WWW-Authenticate"] = "Bearer"
                return refused
            try:
                answered = answer(request)
            except ApiError as error:
                answered = answer_json(error.status, {"error": str(error)})
            answered.headers["Cache-Control"] = "no-store"
            return answered

        return endpoint

    def _show_configuration(self, request: Request) -> Response:  # noqa: ARG002  # every endpoint is given it
        return answer_json(200, self._configurations.show().shown())

    def _create_configuration(self, request: Request) -> Response:
        body = _read_configuration(request)
        if isinstance(body, Response):
            return body
        stored = self._configurations.create(parse_input(body))
        log.info("a configuration was stored over HTTP: %s", stored.instance_url)
        return answer_json(201, stored.shown())

    def _replace_configuration(self, request: Request) -> Response:
        body = _read_configuration(request)
        if isinstance(body, Response):
            return body
        stored = self._configurations.replace(parse_input(body))
        log.info("the stored configuration was replaced over HTTP: %s", stored.instance_url)
        return answer_json(200, stored.shown())

    def _delete_configuration(self, request: Request) -> Response:  # noqa: ARG002  # every endpoint is given it
        self._configurations.delete()
        log.info("the stored configuration was removed over HTTP: the environment's is in force")
        return Response(status=204)

    def _test_connection(self, request: Request) -> Response:
        body = _read_configuration(request, may_be_empty=True)
        if isinstance(body, Response):
            return body
        asked = None if body.strip() in _NOTHING else parse_input(body)
        report = self._tester.test(asked, self._connections.current(at_once=True))
        answer = answer_json(
            200 if report.retry_after_seconds is None else 429,
            {"success": report.success, "message": report.message, "instance": report.instance_url},
        )
        if report.retry_after_seconds is not None:
            answer.headers["Retry-After"] = str(retry_after(report.retry_after_seconds))
        return answer


def _read_configuration(request: Request, *, may_be_empty: bool = False) -> bytes | Response:
    """What an operator sent, or the answer that refuses it."""
    try:
        body = read_body(
            request,
            CONFIGURATION_BYTES_MAX,
            too_large=(
                f"{CONFIGURATION_BYTES_MAX} bytes: send instance_url, username and password only"
            ),
        )
    except BodyTooLarge as error:
        return answer_json(413, {"error": str(error)})
    if body is None:
        return answer_json(400, {"error": BROKEN_OFF})
    if may_be_empty and not body.strip():
        return b""
    if request.mimetype != JSON_TYPE:
        return answer_json(415, {"error": f"send JSON, and Content-Type: {JSON_TYPE}"})
    return bytes(body)
