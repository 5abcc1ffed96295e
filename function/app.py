"""The routes: authenticate, parse, deliver, answer. Nothing else."""

import json
import logging
import math
import random
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final

from flask import Request, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import Map
from werkzeug.routing import Rule as Route

from function import rules as rules_file
from function import secretmanager
from function.checkpoint import reached
from function.database import Database, LedgerUnavailable
from function.engine import Delivered, Engine
from function.event import Failure, Kind, Outcome, Reason
from function.ledger import Ledger
from function.line import Credentials, CredentialUnreadable, Line
from function.log import fault
from function.notices import Notices
from function.retry import retry_after
from function.servicenow import Credential, ServiceNowClient
from function.settings import Settings, SettingsError, credential, load
from function.sources import hasura

log = logging.getLogger(__name__)

HOUSEKEEPING: Final = "cron/servicenow_housekeeping"
# Our own trouble is short (a database that restarts); spread, so that what waited does not come back at one moment.
UNAVAILABLE_SECONDS: Final = (5, 15)
# Answers are kept in Hasura's log for each attempt.
ERROR_CHARACTERS_MAX: Final = 500
JSON_TYPE: Final = "application/json"


class App:
    """The function: what `handle` and a WSGI server call."""

    def __init__(self, settings: Settings, engine: Engine, ledger: Ledger, client: ServiceNowClient) -> None:
        self._settings = settings
        self._engine = engine
        self._ledger = ledger
        self._client = client
        self._routes = Map(
            [
                Route("/", endpoint=self._hasura, methods=["POST"]),
                Route("/hasura", endpoint=self._hasura, methods=["POST"]),
                Route("/healthz", endpoint=self._healthz, methods=["GET"]),
                Route("/readyz", endpoint=self._readyz, methods=["GET"]),
            ],
            strict_slashes=False,
        )

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def close(self) -> None:
        """Close what is open to the outside."""
        self._client.close()
        self._ledger.database.close()

    def handle(self, request: Request) -> Response:
        """Answer *request*. Whatever happens, nothing of it stands in the log or in the answer of a failure."""
        try:
            endpoint, _ = self._routes.bind_to_environ(request.environ).match()
            answer: Response = endpoint(request)
        except MethodNotAllowed as error:
            # Hasura follows a 302 as a GET and would take a 2xx for delivered.
            answer = _answer(405, {"error": "this route takes POST only"})
            answer.headers["Allow"] = ", ".join(error.valid_methods or ["POST"])
        except NotFound:
            answer = _answer(404, {"error": "there is no such route; Hasura's events go to POST / or POST /hasura"})
        except HTTPException as error:
            answer = _answer(error.code or 400, {"error": error.name})
        except LedgerUnavailable as error:
            log.error("answered 503: %s", error)  # noqa: TRY400  # the message is the whole story
            answer = _answer(503, {"error": "the ledger is unavailable; nothing was done"})
            answer.headers["Retry-After"] = str(random.randint(*UNAVAILABLE_SECONDS))  # noqa: S311  # jitter
        except Exception as error:  # noqa: BLE001  # the outermost edge
            log.critical("a fault of ours: %s", fault(error))
            answer = _answer(500, {"error": "a fault of ours; it is in the log"})
        return answer

    def _hasura(self, request: Request) -> Response:
        if not hasura.authentic(request.headers.get("X-Webhook-Secret"), self._settings.hasura_event_secrets):
            return _answer(401, {"error": "the header X-Webhook-Secret is missing or wrong"})
        limit = self._settings.max_body_bytes
        if (request.content_length or 0) > limit:
            return self._refused(413, f"the body is larger than MAX_BODY_BYTES ({limit}): send fewer columns")
        try:
            body = request.stream.read(limit + 1)
        except Exception:  # noqa: BLE001  # each server has its own for a body that breaks off or is malformed
            body = None
        if body is None or len(body) < min(request.content_length or 0, limit):
            return _answer(400, {"error": "the body broke off before its end: send it again"})
        if len(body) > limit:
            return self._refused(413, f"the body is larger than MAX_BODY_BYTES ({limit}): send fewer columns")
        try:
            event = hasura.parse(body)
        except hasura.RefusedRequest as error:
            return self._refused(400, error.message)
        reached("received")
        if event.source == HOUSEKEEPING:
            return _answer(200, {"event": event.id, "outcomes": [], "housekeeping": self._engine.housekeep()})
        return _told(self._engine.deliver(event))

    def _refused(self, status: int, message: str) -> Response:
        log.warning("refused", extra={"status": status, "why": message})
        try:
            self._engine.complain(Failure(Kind.PERMANENT, Reason.REFUSED, message, status=status), source="hasura")
        except LedgerUnavailable as error:
            log.error("a refused request was not put down: %s", error)  # noqa: TRY400  # the message is the story
        return _answer(status, {"error": message})

    def _healthz(self, request: Request) -> Response:  # noqa: ARG002  # every endpoint is given it
        return _answer(200, {"status": "ok"})

    def _readyz(self, request: Request) -> Response:  # noqa: ARG002  # every endpoint is given it
        self._ledger.now()
        return _answer(200, {"status": "ready"})


def build(environ: Mapping[str, str]) -> App:
    """Put the function together from its settings; opens nothing yet.

    Raises SettingsError or RulesError, whose text says all that is wrong, and FileNotFoundError for the rules file.
    """
    settings = load(environ)
    rules = read_rules(settings.rules_file, environ)
    if not settings.hasura_event_secrets:
        log.warning("HASURA_EVENT_SECRETS is not set: every event is answered 401")
    if not settings.smtp_url:
        log.warning("SMTP_URL is not set: no notice is mailed; failures are kept in the ledger")
    database = Database(settings.database_url, pool_size=settings.database_pool_size, migrate=settings.ledger_migrate)
    log.info(
        "ready: %d rules of %s, to %s, ledger on %s",
        len(rules.rules),
        settings.rules_file,
        settings.servicenow_instance_url,
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

    def read_credential() -> Credential:
        try:
            return credential(environ, read_secret=read_secret)
        except SettingsError as error:
            raise CredentialUnreadable(str(error)) from error

    credentials = Credentials(settings.credential, read_credential, settings.servicenow_instance_url)
    client = ServiceNowClient(
        settings.servicenow_instance_url,
        credentials.current,
        timeout_seconds=settings.servicenow_timeout_seconds,
        concurrency_max=settings.servicenow_max_concurrency,
    )
    line = Line(
        client,
        ledger,
        credentials,
        auth_hold_seconds=settings.auth_hold_seconds,
        concurrency_max=settings.servicenow_max_concurrency,
    )
    notices = Notices(
        ledger,
        server=settings.smtp_url,
        sender=settings.notify_from,
        recipients=settings.notify_to,
        every_seconds=settings.notify_every_seconds,
    )
    engine = Engine(
        settings=settings, rules=rules, ledger=ledger, line=line, notices=notices, draw=random.SystemRandom().random
    )
    return App(settings, engine, ledger, client)


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


def _told(delivered: Delivered) -> Response:
    """DESIGN.md's table: what an answer means."""
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


def _answer(status: int, body: Mapping[str, object]) -> Response:
    return Response(json.dumps(body) + "\n", status=status, content_type=JSON_TYPE)
