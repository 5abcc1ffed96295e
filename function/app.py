"""The routes: authenticate, parse, deliver, answer. Nothing else."""

import io
import json
import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from typing import Final

from flask import Request, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import Map
from werkzeug.routing import Rule as Route

from function import secretmanager
from function.admission import BodyAdmission, MemoryBusy
from function.connection.active import Connection, Switchboard
from function.connection.breaker import Credentials, CredentialUnreadable, Line
from function.connection.probe import Tester, Told
from function.connection.store import ConfigurationError, Configurations, parse
from function.core.outcome import Failure, Kind, Outcome, Reason
from function.core.retry import retry_after
from function.deadline import answer_within
from function.engine import Delivered, Engine
from function.failpoints import reached
from function.ledger.backend import LedgerRefused, LedgerUnavailable
from function.ledger.database import Database
from function.ledger.ledger import Ledger
from function.log import fault
from function.notices.mailer import Notices
from function.rules import loader as rules_file
from function.servicenow import Credential
from function.servicenow.network import read_network
from function.settings import Settings, SettingsError, credential, load
from function.sources import hasura

log = logging.getLogger(__name__)

HOUSEKEEPING: Final = "cron/servicenow_housekeeping"
# Our own trouble is short (a database that restarts); spread, so that what waited does not come back at one moment.
UNAVAILABLE_SECONDS: Final = (5, 15)
# So much of a refused body is read and thrown away, so that its sender hears the answer; Google's front end lets no
# more through over HTTP/1.
DISCARD_BYTES_MAX: Final = 32 * 1024 * 1024
_CHUNK_BYTES: Final = 64 * 1024
# A large event waits so long for others to be done: Hasura keeps it, and sends it again.
PATIENCE_SECONDS: Final = 10.0
# Whether something was done before is not known there: it is found out when the event comes again.
LEDGER_UNAVAILABLE: Final = "the ledger is unavailable: send it again"
# Kept back from every deadline for what is not waiting.
SPARE_SECONDS: Final = 0.3
# Answers are kept in Hasura's log for each attempt.
ERROR_CHARACTERS_MAX: Final = 500
JSON_TYPE: Final = "application/json"
# What clients send that always send JSON.
_NOTHING: Final = {b"", b"{}", b"null"}
# An address, a user name and a password.
CONFIGURATION_BYTES_MAX: Final = 16 * 1024


class App:
    """The function: what `handle` and a WSGI server call."""

    def __init__(
        self,
        settings: Settings,
        switchboard: Switchboard,
        ledger: Ledger,
        configurations: Configurations,
        tester: Tester,
    ) -> None:
        self._settings = settings
        self._switchboard = switchboard
        self._ledger = ledger
        self._configurations = configurations
        self._tester = tester
        self._admission = BodyAdmission(settings.max_body_bytes)
        config = "/api/servicenow/config"
        self._routes = Map(
            [
                Route("/", endpoint=self._hasura, methods=["POST"]),
                Route("/hasura", endpoint=self._hasura, methods=["POST"]),
                Route(config, endpoint=self._by_operator(self._show_configuration), methods=["GET"]),
                Route(config, endpoint=self._by_operator(self._create_configuration), methods=["POST"]),
                Route(config, endpoint=self._by_operator(self._replace_configuration), methods=["PUT"]),
                Route(config, endpoint=self._by_operator(self._delete_configuration), methods=["DELETE"]),
                Route("/api/servicenow/test", endpoint=self._by_operator(self._test_connection), methods=["POST"]),
                Route("/healthz", endpoint=self._healthz, methods=["GET"]),
                Route("/readyz", endpoint=self._readyz, methods=["GET"]),
            ],
            strict_slashes=False,
        )

    @property
    def engine(self) -> Engine:
        """The engine for the configuration that is in force now. Raises LedgerUnavailable."""
        return self._switchboard.connection().engine

    @property
    def connection(self) -> Connection:
        """The connection that is in force now. Raises LedgerUnavailable."""
        return self._switchboard.connection()

    @property
    def deadline_seconds(self) -> float:
        """Within which every event is answered."""
        return self._settings.deadline_seconds

    def test_connection(self) -> Told:
        """Test it, as an operator does. Raises LedgerUnavailable."""
        return self._tester.test(None, self._switchboard.connection())

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def close(self) -> None:
        """Close what is open to the outside."""
        self._switchboard.close()
        self._ledger.database.close()

    def handle(self, request: Request) -> Response:
        """Answer *request*. Whatever happens, nothing of it stands in the log or in the answer of a failure."""
        try:
            endpoint, _ = self._routes.bind_to_environ(request.environ).match()
            allowed = self._settings.deadline_seconds
            with answer_within(allowed - min(SPARE_SECONDS, allowed / 20)):
                answer: Response = endpoint(request)
        except MethodNotAllowed as error:
            # Hasura follows a 302 as a GET and would take a 2xx for delivered.
            methods = sorted(set(error.valid_methods or ["POST"]) - {"HEAD"})
            answer = _answer(405, {"error": f"this route takes {', '.join(methods)} only"})
            answer.headers["Allow"] = ", ".join(error.valid_methods or ["POST"])
        except NotFound:
            answer = _answer(404, {"error": "there is no such route; Hasura's events go to POST / or POST /hasura"})
        except HTTPException as error:
            answer = _answer(error.code or 400, {"error": error.name})
        except LedgerUnavailable as error:
            log.error("answered 503: %s", error)  # noqa: TRY400  # the message is the whole story
            answer = _unavailable(LEDGER_UNAVAILABLE)
        except LedgerRefused as error:
            log.critical("answered 503, for a record was not taken: %s at %s", error, fault(error))
            answer = _unavailable(LEDGER_UNAVAILABLE)
        except Exception as error:  # noqa: BLE001  # the outermost edge
            log.critical("a fault of ours: %s", fault(error))
            answer = _answer(500, {"error": "a fault of ours; it is in the log"})
        _discard_rest(request)
        return answer

    def _hasura(self, request: Request) -> Response:
        if not hasura.authentic(request.headers.get("X-Webhook-Secret"), self._settings.hasura_event_secrets):
            return _answer(401, {"error": "the header X-Webhook-Secret is missing or wrong"})
        started = time.monotonic()
        patience = min(PATIENCE_SECONDS, self._settings.deadline_seconds / 5)
        try:
            with self._admission.admit_reading(request.content_length, timeout_seconds=patience):
                return self._receive(request, started, patience - (time.monotonic() - started))
        except MemoryBusy:
            log.warning("answered 503: other large requests take all the memory")
            return _unavailable("other large requests are worked on just now; nothing was done")

    def _receive(self, request: Request, started: float, patience: float) -> Response:
        limit = self._settings.max_body_bytes
        try:
            body = _read(request, limit, too_large=f"MAX_BODY_BYTES ({limit}): send fewer columns")
        except _TooLarge as error:
            return self._refused(413, str(error))
        if body is None:
            return _answer(400, {"error": BROKEN_OFF})
        with self._admission.admit_work(body, timeout_seconds=patience):
            try:
                event = hasura.parse(body)
            except hasura.RefusedRequest as error:
                return self._refused(400, error.message)
            body.clear()  # the event has it as text
            reached("received")
            engine = self.engine
            if event.source == HOUSEKEEPING:
                return _answer(200, {"event": event.id, "outcomes": [], "housekeeping": engine.housekeep()})
            return _told(engine.deliver(event, spent_seconds=time.monotonic() - started))

    def _refused(self, status: int, message: str) -> Response:
        log.warning("refused", extra={"status": status, "why": message})
        try:
            self.engine.complain(Failure(Kind.PERMANENT, Reason.REFUSED, message, status=status), source="hasura")
        except LedgerUnavailable as error:
            log.error("a refused request was not put down: %s", error)  # noqa: TRY400  # the message is the story
        return _answer(status, {"error": message})

    # What operators may do

    def _by_operator(self, answer: Callable[[Request], Response]) -> Callable[[Request], Response]:
        def endpoint(request: Request) -> Response:
            scheme, _, token = request.headers.get("Authorization", "").partition(" ")
            tokens = (self._settings.console_token,) if self._settings.console_token else ()
            if not hasura.authentic(token.strip() if scheme.lower() == "bearer" else None, tokens):
                refused = _answer(401, {"error": "send Authorization: Bearer and the value of CONSOLE_TOKEN"})
                refused.headers["WWW-Authenticate"] = "Bearer"
                return refused
            try:
                answered = answer(request)
            except ConfigurationError as error:
                answered = _answer(error.status, {"error": str(error)})
            answered.headers["Cache-Control"] = "no-store"
            return answered

        return endpoint

    def _show_configuration(self, request: Request) -> Response:  # noqa: ARG002  # every endpoint is given it
        return _answer(200, self._configurations.show().shown())

    def _create_configuration(self, request: Request) -> Response:
        body = _configuration(request)
        if isinstance(body, Response):
            return body
        stored = self._configurations.create(parse(body))
        log.info("a configuration was stored over HTTP: %s", stored.instance_url)
        return _answer(201, stored.shown())

    def _replace_configuration(self, request: Request) -> Response:
        body = _configuration(request)
        if isinstance(body, Response):
            return body
        stored = self._configurations.replace(parse(body))
        log.info("the stored configuration was replaced over HTTP: %s", stored.instance_url)
        return _answer(200, stored.shown())

    def _delete_configuration(self, request: Request) -> Response:  # noqa: ARG002  # every endpoint is given it
        self._configurations.delete()
        log.info("the stored configuration was removed over HTTP: the environment's is in force")
        return Response(status=204)

    def _test_connection(self, request: Request) -> Response:
        body = _configuration(request, may_be_empty=True)
        if isinstance(body, Response):
            return body
        asked = None if body.strip() in _NOTHING else parse(body)
        told = self._tester.test(asked, self._switchboard.connection())
        answer = _answer(
            200 if told.retry_after_seconds is None else 429,
            {"success": told.success, "message": told.message, "instance": told.instance_url},
        )
        if told.retry_after_seconds is not None:
            answer.headers["Retry-After"] = str(retry_after(told.retry_after_seconds))
        return answer

    def _healthz(self, request: Request) -> Response:  # noqa: ARG002  # every endpoint is given it
        return _answer(200, {"status": "ok"})

    def _readyz(self, request: Request) -> Response:  # noqa: ARG002  # every endpoint is given it
        self._ledger.database.ready()
        return _answer(200, {"status": "ready"})


def build(environ: Mapping[str, str]) -> App:
    """Put the function together from its settings; opens nothing yet.

    Raises SettingsError or RulesError, whose text says all that is wrong, and FileNotFoundError for the rules file.
    """
    settings = load(environ)
    rules = read_rules(settings.rules_file, environ)
    if not settings.hasura_event_secrets:
        log.warning("HASURA_EVENT_SECRETS is not set: every event is answered 401")
    if not settings.console_token:
        log.warning("CONSOLE_TOKEN is not set: /api/servicenow/config and /api/servicenow/test are answered 401")
    elif not settings.config_key:
        log.warning("CONFIG_KEY is not set: no configuration can be stored over HTTP")
    if not settings.smtp_url:
        log.warning("SMTP_URL is not set: no notice is mailed; failures are kept in the ledger")
    for warning in rules.warnings:
        log.warning("%s", warning)
    database = Database(settings.database_url, pool_size=settings.database_pool_size, migrate=settings.ledger_migrate)
    log.info(
        "ready: %d rules of %s, to %s unless another instance is stored, ledger on %s",
        len(rules.rules),
        settings.rules_file,
        settings.servicenow_instance_url or "no instance",
        settings.database_url.partition(":")[0],
    )
    return assemble(settings, rules, Ledger(database), environ)


def assemble(
    settings: Settings,
    rules: rules_file.Rules,
    ledger: Ledger,
    environ: Mapping[str, str],
    *,
    read_secret: Callable[[str], str] = secretmanager.read,
) -> App:
    """The same from parts that are there already."""

    notices = Notices(
        ledger,
        server=settings.smtp_url,
        sender=settings.notify_from,
        recipients=settings.notify_to,
        every_seconds=settings.notify_every_seconds,
    )

    def engine(settings: Settings, line: Line) -> Engine:
        return Engine(
            settings=settings, rules=rules, ledger=ledger, line=line, notices=notices, draw=random.SystemRandom().random
        )

    network = read_network(environ)
    configurations = Configurations(ledger.database, settings.config_key)
    switchboard = Switchboard(
        settings=settings,
        ledger=ledger,
        configurations=configurations,
        environment=_credentials(settings, environ, read_secret),
        engine=engine,
        network=network,
    )
    tables = dict.fromkeys(rule.ticket.table for rule in rules.rules)
    tester = Tester(settings, ledger, configurations, tables=list(tables) or ["incident"], network=network)
    return App(settings, switchboard, ledger, configurations, tester)


def _credentials(
    settings: Settings, environ: Mapping[str, str], read_secret: Callable[[str], str]
) -> Credentials | None:
    """Who we are by the environment; None where it does not say."""
    if not settings.servicenow_instance_url:
        return None

    def read_credential() -> Credential:
        try:
            return credential(environ, read_secret=read_secret)
        except SettingsError as error:
            raise CredentialUnreadable(str(error)) from error

    return Credentials(settings.credential, read_credential, settings.servicenow_instance_url)


def read_rules(path: str, environ: Mapping[str, str]) -> rules_file.Rules:
    """Read and check the rules file. Raises RulesError, also where there is no such file."""
    try:
        with open(path, encoding="utf-8") as file:
            text = file.read()
    except FileNotFoundError as error:
        raise rules_file.RulesError((f"{path}: there is no such file; set RULES_FILE to the rules",)) from error
    except (OSError, UnicodeDecodeError) as error:
        raise rules_file.RulesError((f"{path}: cannot be read: {type(error).__name__}",)) from error
    return rules_file.load(text, name=path.rpartition("/")[2], environ=environ)


BROKEN_OFF: Final = "the body broke off before its end: send it again"


class _TooLarge(Exception):  # noqa: N818  # what is the case
    """The request's body is larger than we take."""


def _read(request: Request, limit: int, *, too_large: str) -> bytearray | None:
    """The body; None where it broke off. Raises _TooLarge over *limit* bytes."""
    if (request.content_length or 0) > limit:
        raise _TooLarge(f"the body is larger than {too_large}")
    body = bytearray()
    try:
        # Bit by bit: asked for all at once, servers hold it two and three times.
        while chunk := request.stream.read(min(_CHUNK_BYTES, limit + 1 - len(body))):
            body += chunk
    except Exception:  # noqa: BLE001  # each server has its own for a body that breaks off or is malformed
        return None
    if len(body) < min(request.content_length or 0, limit):
        return None
    if len(body) > limit:
        raise _TooLarge(f"the body is larger than {too_large}")
    return body


def _discard_rest(request: Request) -> None:
    """Read what is left of the body, and keep nothing of it.

    functions-framework reads it whole into memory after every answer, whoever sent it.
    """
    left = DISCARD_BYTES_MAX
    with suppress(Exception):  # each server has its own for a body that breaks off
        while left > 0 and (chunk := request.stream.read(min(_CHUNK_BYTES, left))):
            left -= len(chunk)
    request.stream = io.BytesIO()


def _configuration(request: Request, *, may_be_empty: bool = False) -> bytes | Response:
    """What an operator sent, or the answer that refuses it."""
    try:
        body = _read(
            request,
            CONFIGURATION_BYTES_MAX,
            too_large=f"{CONFIGURATION_BYTES_MAX} bytes: send instance_url, username and password only",
        )
    except _TooLarge as error:
        return _answer(413, {"error": str(error)})
    if body is None:
        return _answer(400, {"error": BROKEN_OFF})
    if may_be_empty and not body.strip():
        return b""
    if request.mimetype != JSON_TYPE:
        return _answer(415, {"error": f"send JSON, and Content-Type: {JSON_TYPE}"})
    return bytes(body)


def _told(delivered: Delivered) -> Response:
    """What the outcomes of an event mean to Hasura: the worst of them decides."""
    body: dict[str, object] = {
        "event": delivered.event,
        "outcomes": [_outcome(outcome) for outcome in delivered.outcomes],
    }
    hints = dict.fromkeys(outcome.hint for outcome in delivered.outcomes if outcome.hint)
    if hints:
        # Hasura stores and shows the answer: what to do stands where people look first.
        body["error"] = " | ".join(hints)[:ERROR_CHARACTERS_MAX]
    if delivered.retry_after_seconds is not None:
        answer = _answer(503, body)
        answer.headers["Retry-After"] = str(retry_after(delivered.retry_after_seconds))
        return answer
    return _answer(422 if delivered.dead else 200, body)


def _outcome(outcome: Outcome) -> dict[str, object]:
    retry_at = None
    if outcome.retry_at is not None:
        retry_at = datetime.fromtimestamp(math.ceil(outcome.retry_at), UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    return {
        "rule": outcome.rule,
        "key": outcome.key,
        "status": outcome.status.value,
        "ticket": outcome.ticket or None,
        "reason": outcome.reason.value if outcome.reason else None,
        "retry_at": retry_at,
    }


def _unavailable(why: str) -> Response:
    """Try again soon."""
    answer = _answer(503, {"error": why})
    answer.headers["Retry-After"] = str(random.randint(*UNAVAILABLE_SECONDS))  # noqa: S311  # jitter
    return answer


def _answer(status: int, body: Mapping[str, object]) -> Response:
    return Response(json.dumps(body) + "\n", status=status, content_type=JSON_TYPE)
