"""The routes: authenticate, parse, deliver, answer. Nothing else."""

import logging
import math
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from flask import Request, Response
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound
from werkzeug.routing import Map
from werkzeug.routing import Rule as Route

from function.admission import BodyAdmission, MemoryBusy
from function.answers import (
    BROKEN_OFF,
    JSON_TYPE,
    BodyTooLarge,
    answer_json,
    answer_unavailable,
    discard_rest,
    read_body,
)
from function.api import OperatorApi
from function.connection.active import Connection, ConnectionProvider
from function.connection.probe import ConnectionTester, TestReport
from function.connection.store import ConnectionStore
from function.core.event import Event
from function.core.outcome import Failure, Outcome, Reason, Retryability
from function.core.retry import retry_after
from function.deadline import Deadline, answer_within
from function.engine import DeliveryResult, Engine
from function.failpoints import failpoint
from function.housekeeping import Housekeeping
from function.ledger.backend import LedgerRefused, LedgerUnavailable
from function.ledger.inbox import InboxEntry, ticket_entry
from function.ledger.ledger import Ledger
from function.log import fault, log_event, name_event
from function.rule_variables import RuleVariables
from function.settings import Settings
from function.sources import hasura

if TYPE_CHECKING:
    from function.inbound.work import InboundWork
    from function.sources.servicenow import TicketNotification
    from function.sources.slack import SlackCommand

log = logging.getLogger(__name__)

HOUSEKEEPING: Final = "cron/servicenow_housekeeping"
SYNC: Final = "cron/servicenow_sync"
INBOX: Final = "hasura/servicenow.inbox"
# ServiceNow waits ten seconds for an answer, and sends nothing again.
NOTIFICATION_SECONDS: Final = 8.0
# Slack waits three seconds for an answer, and sends no command again.
COMMAND_SECONDS: Final = 2.0
UNCERTAIN: Final = (
    "Your command is not certain to be taken: the function's database does not answer just now. If "
    "it was, you hear what became of it within half an hour; if you hear nothing, it was not."
)
# A large event waits so long for others to be done: Hasura keeps it, and sends it again.
ADMISSION_PATIENCE_SECONDS: Final = 10.0
# Whether something was done before is not known there: it is found out when the event comes again.
LEDGER_UNAVAILABLE: Final = "the ledger is unavailable: send it again"
# Kept back from every deadline for what is not waiting.
SPARE_SECONDS: Final = 0.3
# Answers are kept in Hasura's log for each attempt.
ERROR_CHARACTERS_MAX: Final = 500


class App:
    """The function: what `handle` and a WSGI server call."""

    def __init__(
        self,
        settings: Settings,
        engine: Engine,
        connections: ConnectionProvider,
        ledger: Ledger,
        configurations: ConnectionStore,
        tester: ConnectionTester,
        inbound: Callable[[], "InboundWork"],
        variables: RuleVariables,
        opened: ExitStack,
    ) -> None:
        """*inbound* gives what works on tickets' changes: it is loaded when the first one comes.
        *opened* closes the connections to other systems than ServiceNow."""
        self._settings = settings
        self.variables = variables
        self._engine = engine
        self.inbound = inbound
        self.housekeeping = Housekeeping(engine, lambda: inbound().inbox)
        self._connections = connections
        self._opened = opened
        self._ledger = ledger
        self._configurations = configurations
        self._tester = tester
        self._admission = BodyAdmission(settings.max_body_bytes)
        self.routes = Map(
            [
                Route("/", endpoint=self._hasura, methods=["POST"]),
                Route("/hasura", endpoint=self._hasura, methods=["POST"]),
                Route("/servicenow", endpoint=self._servicenow, methods=["POST"]),
                Route("/slack", endpoint=self._slack, methods=["GET", "POST"]),
                *OperatorApi(settings, connections, configurations, tester).routes(),
                Route("/healthz", endpoint=self._healthz, methods=["GET"]),
                Route("/readyz", endpoint=self._readyz, methods=["GET"]),
            ],
            strict_slashes=False,
        )

    @property
    def engine(self) -> Engine:
        return self._engine

    @property
    def connection(self) -> Connection:
        """The connection that is in force now. Raises LedgerUnavailable."""
        return self._connections.current(at_once=True)

    @property
    def deadline_seconds(self) -> float:
        """Within which every event is answered."""
        return self._settings.deadline_seconds

    def test_connection(self) -> TestReport:
        """Test it, as an operator does. Raises LedgerUnavailable."""
        return self._tester.test(None, self._connections.current(at_once=True))

    @property
    def ledger(self) -> Ledger:
        return self._ledger

    def close(self) -> None:
        """Close what is open to the outside."""
        self._opened.close()
        self._connections.close()
        self._ledger.database.close()

    def handle(self, request: Request) -> Response:
        """Answer *request*. Whatever happens, nothing of it stands in the log or in the answer of a
        failure."""
        with log_event():
            return self._handle(request)

    def _handle(self, request: Request) -> Response:
        try:
            endpoint, _ = self.routes.bind_to_environ(request.environ).match()
            allowed = self._settings.deadline_seconds
            with answer_within(allowed - min(SPARE_SECONDS, allowed / 10)):
                answer: Response = endpoint(request)
        except MethodNotAllowed as error:
            # Hasura follows a 302 as a GET and would take a 2xx for delivered.
            methods = sorted(set(error.valid_methods or ["POST"]) - {"HEAD"})
            answer = answer_json(405, {"error": f"this route takes {', '.join(methods)} only"})
            answer.headers["Allow"] = ", ".join(error.valid_methods or ["POST"])
        except NotFound:
            answer = answer_json(
                404,
                {"error": "there is no such route; Hasura's events go to POST / or POST /hasura"},
            )
        except HTTPException as error:
            answer = answer_json(error.code or 400, {"error": error.name})
        except LedgerUnavailable as error:
            log.error("answered 503: %s", error)  # noqa: TRY400  # the message is the whole story
            answer = answer_unavailable(LEDGER_UNAVAILABLE)
        except LedgerRefused as error:
            log.critical("answered 503, for a record was not taken: %s at %s", error, fault(error))
            answer = answer_unavailable(LEDGER_UNAVAILABLE)
        except Exception as error:  # noqa: BLE001  # the outermost edge
            log.critical("a fault of ours: %s", fault(error))
            answer = answer_json(500, {"error": "a fault of ours; it is in the log"})
        discard_rest(request)
        return answer

    def _hasura(self, request: Request) -> Response:
        if not hasura.verify_secret(
            request.headers.get("X-Webhook-Secret"), self._settings.hasura_event_secrets
        ):
            return answer_json(401, {"error": "the header X-Webhook-Secret is missing or wrong"})
        started = time.monotonic()
        patience = min(ADMISSION_PATIENCE_SECONDS, self._settings.deadline_seconds / 5)
        try:
            with self._admission.admit_reading(request.content_length, timeout_seconds=patience):
                return self._receive(request, started, patience - (time.monotonic() - started))
        except MemoryBusy:
            log.warning("answered 503: other large requests take all the memory")
            return answer_unavailable(
                "other large requests are worked on just now; nothing was done"
            )

    def _receive(self, request: Request, started: float, patience: float) -> Response:
        limit = self._settings.max_body_bytes
        try:
            body = read_body(
                request, limit, too_large=f"MAX_BODY_BYTES ({limit}): send fewer columns"
            )
        except BodyTooLarge as error:
            return self._refused(413, str(error))
        if body is None:
            return answer_json(400, {"error": BROKEN_OFF})
        with self._admission.admit_work(body, timeout_seconds=patience):
            try:
                event = hasura.parse_event(body)
            except hasura.InvalidRequest as error:
                return self._refused(400, error.message)
            body.clear()  # the event has it as text
            name_event(event.id, event.correlation_id)
            failpoint("received")
            if event.source == HOUSEKEEPING:
                return answer_json(
                    200,
                    {"event": event.id, "outcomes": [], "housekeeping": self.housekeeping.run()},
                )
            spent_seconds = time.monotonic() - started
            if event.source == SYNC:
                return self._read_changes(event, self._engine.deadline(spent_seconds))
            if event.source == INBOX:
                return self._work_inbox(event, self._engine.deadline(spent_seconds))
            return _event_response(self._engine.deliver(event, spent_seconds=spent_seconds))

    def _read_changes(self, event: Event, deadline: Deadline) -> Response:
        """Look at what has changed in ServiceNow, whether anybody told of it or not."""
        result = self.inbound().poll.run(deadline)
        counts = {"read": result.read, "queued": result.queued, "worked": result.worked}
        body = {"event": event.id, "outcomes": [], "sync": counts}
        if result.failure is None:
            return answer_json(200, body)
        return answer_json(503, {**body, "error": result.failure.hint[:ERROR_CHARACTERS_MAX]})

    def _work_inbox(self, event: Event, deadline: Deadline) -> Response:
        """What the inbox keeps comes back as an event of its INSERT."""
        row = event.new if isinstance(event.new, dict) else {}
        result = self.inbound().inbox.work(str(row.get("id")), deadline=deadline)
        return _event_response(
            DeliveryResult(event.id, result.outcomes, result.retry_after_seconds)
        )

    def _servicenow(self, request: Request) -> Response:
        from function.sources import servicenow  # noqa: PLC0415  # for those whom ServiceNow answers

        started = time.monotonic()
        try:
            body = read_body(
                request,
                servicenow.NOTIFICATION_BYTES_MAX,
                too_large=f"{servicenow.NOTIFICATION_BYTES_MAX} bytes",
            )
        except BodyTooLarge as error:
            return answer_json(413, {"error": str(error)})
        if body is None or not servicenow.verify_signature(
            request.headers.get("X-ServiceNow-Timestamp"),
            request.headers.get("X-ServiceNow-Signature"),
            body,
            self._settings.servicenow_webhook_secrets,
            now=time.time(),
        ):
            return answer_json(401, {"error": "the signature is missing, wrong or too old"})
        try:
            notification = servicenow.parse_notification(body)
        except hasura.InvalidRequest as error:
            log.warning("refused", extra={"status": 400, "why": error.message})
            return answer_json(400, {"error": error.message})
        return self._take_notification(notification, started)

    def _take_notification(self, notification: "TicketNotification", started: float) -> Response:
        table, sys_id = notification.table, notification.sys_id
        if not self._engine.rules.from_table(table):
            what = f"no rule in the rules file is from servicenow/{table}"
            log.warning("a notification came for a table that no rule is from: %s", table)
            return answer_json(422, {"error": what})
        failpoint("received")
        name_event(f"{table}/{sys_id}", f"{table}/{sys_id}")
        allowed = min(NOTIFICATION_SECONDS, self._settings.deadline_seconds)
        with answer_within(allowed - SPARE_SECONDS):
            result = self.inbound().tickets.sync_ticket(
                table,
                sys_id,
                mod_count=notification.mod_count,
                deadline=self._engine.deadline(
                    time.monotonic() - started + self._settings.deadline_seconds - allowed
                ),
            )
            if result.retry_after_seconds is None:
                return _event_response(DeliveryResult(result.event, result.outcomes, None))
            self._ledger.inbox.put(ticket_entry(table, sys_id))
        outcomes = [_outcome(outcome) for outcome in result.outcomes]
        return answer_json(202, {"event": result.event, "status": "queued", "outcomes": outcomes})

    def _slack(self, request: Request) -> Response:
        """Accept a slash command; nothing of it is worked here. What is answered 200 is shown to
        its person alone."""
        from function.sources import slack  # noqa: PLC0415  # for those who have Slack

        if request.method != "POST":
            if slack.is_ssl_check(request.query_string):
                return answer_json(200, {})
            raise MethodNotAllowed(["POST"])
        try:
            body = read_body(
                request, slack.COMMAND_BYTES_MAX, too_large=f"{slack.COMMAND_BYTES_MAX} bytes"
            )
        except BodyTooLarge as error:
            return answer_json(413, {"error": str(error)})
        if body is not None and slack.is_ssl_check(body):
            return answer_json(200, {})
        signature = request.headers.get("X-Slack-Signature")
        if body is None or not slack.verify_signature(
            request.headers.get("X-Slack-Request-Timestamp"),
            signature,
            body,
            self._settings.slack_signing_secret,
            now=time.time(),
        ):
            return answer_json(401, {"error": "the signature is missing, wrong or too old"})
        try:
            command = slack.parse_command(body, sandbox_url=self._settings.slack_sandbox_url)
        except hasura.InvalidRequest as error:
            log.warning("refused", extra={"status": 400, "why": error.message})
            return answer_json(400, {"error": error.message})
        return self._accept_command(command, slack.command_id(signature or ""))

    def _accept_command(self, command: "SlackCommand", identity: str) -> Response:
        from function.command_access import refuse_command  # noqa: PLC0415  # likewise
        from function.sources.slack import KeptCommand, write_command  # noqa: PLC0415  # likewise
        from function.targets.reply.words import PROCESSING, write_message  # noqa: PLC0415  # for those who have Slack

        name_event(identity, identity)
        fields = {"command": command.name, "team": command.team_id, "user": command.user_id}
        refusal = refuse_command(command, self._settings, self._engine.rules.rules)
        if refusal:
            text, why = refusal
            log.warning("a command was refused: %s", why, extra=fields)
            return _shown(write_message(text))
        failpoint("received")
        entry = InboxEntry(identity, "slack", command.name, write_command(KeptCommand(command)))
        try:
            with answer_within(COMMAND_SECONDS):
                self._ledger.inbox.put_new(entry)
        except LedgerUnavailable as error:
            log.error("a command may not have been taken: %s", error)  # noqa: TRY400  # the message is the whole story
            return _shown(write_message(UNCERTAIN))
        failpoint("accepted")
        log.info("a command was taken", extra=fields)
        return _shown(write_message(PROCESSING))

    def _refused(self, status: int, message: str) -> Response:
        log.warning("refused", extra={"status": status, "why": message})
        try:
            self._engine.report_bad_request(
                Failure(Retryability.PERMANENT, Reason.REFUSED, message, status=status),
                source="hasura",
            )
        except LedgerUnavailable as error:
            log.error("a refused request was not put down: %s", error)  # noqa: TRY400  # the message is the story
        return answer_json(status, {"error": message})

    def _healthz(self, request: Request) -> Response:  # noqa: ARG002  # every endpoint is given it
        return answer_json(200, {"status": "ok"})

    def _readyz(self, request: Request) -> Response:  # noqa: ARG002  # every endpoint is given it
        self._ledger.database.ready()
        return answer_json(200, {"status": "ready"})


def _shown(body: bytes) -> Response:
    """What Slack shows the person who gave a command."""
    return Response(body, status=200, content_type=JSON_TYPE)


def _event_response(delivered: DeliveryResult) -> Response:
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
        answer = answer_json(503, body)
        answer.headers["Retry-After"] = str(retry_after(delivered.retry_after_seconds))
        return answer
    return answer_json(422 if delivered.dead else 200, body)


def _outcome(outcome: Outcome) -> dict[str, object]:
    retry_at = None
    if outcome.retry_at is not None:
        retry_at = datetime.fromtimestamp(math.ceil(outcome.retry_at), UTC).strftime(
            "%Y-%m-%dT%H:%M:%SZ"
        )
    answered = {} if outcome.answer is None else {"answer": outcome.answer}
    return {
        "rule": outcome.rule,
        "key": outcome.key,
        "status": outcome.status.value,
        "ticket": outcome.ticket or None,
        "reason": outcome.reason.value if outcome.reason else None,
        "retry_at": retry_at,
        **answered,
    }
