"""A row's life, written in SQL and told line by line; then what a person does in ServiceNow comes
back to it."""

import json
import time
from collections.abc import Callable
from email.message import EmailMessage
from typing import Any, Final
from urllib.parse import parse_qs, urlencode, urlsplit

from sandbox.loopback import DIRECT
from sandbox.notifier import SentNotification
from sandbox.parts import SETTINGS, World
from sandbox.receiver import Receiver
from sandbox.slack import Slack

STATES: Final = {
    "1": "New",
    "2": "In Progress",
    "3": "On Hold",
    "6": "Resolved",
    "7": "Closed",
    "8": "Canceled",
}
STEP_SECONDS_MAX: Final = 60.0
# What the tour does to rows; each is one transaction of the app.
OPENED: Final = (
    "INSERT INTO outages (id, title, details, severity) "
    "VALUES (42, 'Checkout is down', 'Payments fail since 08:02 UTC.', 'critical')"
)
WORSE: Final = "UPDATE outages SET title = 'Checkout and refunds are down' WHERE id = 42"
FIXED: Final = (
    "UPDATE outages SET status = 'fixed', resolution = 'Rolled back the 08:00 "
    "release.' WHERE id = 42"
)
REFUSED: Final = "INSERT INTO outages (id, title, severity) VALUES (43, 'Search is slow', 'major')"
KILLED: Final = "INSERT INTO outages (id, title, severity) VALUES (44, 'Mails are late', 'major')"
ASKED: Final = (
    "INSERT INTO outage_comments (outage_id, author, body) VALUES (44, 'ada', 'How long?')"
)
LAST_COMMENT: Final = "SELECT author FROM outage_comments ORDER BY id DESC LIMIT 1"
STATUS: Final = "SELECT status FROM outages WHERE id = 44"
LOOK: Final = (
    "SELECT id, title, status, number, state FROM outages LEFT JOIN ticket_outage USING (id)"
)
COMMENTS: Final = "SELECT outage_id, author, body FROM outage_comments"
# What is shown of records that have no page.
SHOWN: Final = "number,state,short_description,close_code,close_notes"
NEWEST: Final = "correlation_idISNOTEMPTY^ORDERBYDESCnumber"
PASTE: Final = "INSERT INTO outages (title, severity) VALUES ('Login is slow', 'major')"


class TourStuckError(Exception):
    """Something that the tour waits for did not come; the text is a sentence for its reader."""


class Tour:
    """A row's life, told line by line."""

    def __init__(self, world: World) -> None:
        self._world = world
        self._steps = 0
        # The incident that people work on at the end.
        self._worked_on = ""

    def introduce(self) -> None:
        """Say what is where."""
        world = self._world
        print(
            f"\nRows are in PostgreSQL; their events go to {world.url}/ ; tickets go to "
            f"{world.instance.url} ;\nwhat people change there comes back to {world.graphql_url}\n"
            if world.instance.notifier
            else f"\nRows are in PostgreSQL; their events go to {world.url}/ ; tickets go to "
            f"{world.instance.url}\n"
        )

    def go(self) -> None:
        """Change rows, and incidents, and show what came of each change."""
        self.step("a row is inserted", lambda: self._world.sql(OPENED))
        first = self._last_event()
        self.step("the row is updated", lambda: self._world.sql(WORSE))
        self.step("the row says it is fixed", lambda: self._world.sql(FIXED))
        self.step(
            "Hasura sends the first event again",
            lambda: self._world.hasura.redeliver(first),
            event=first,
        )
        self._world.instance.arm("data_policy_403", method="POST")
        self.step("ServiceNow refuses the next row", lambda: self._world.sql(REFUSED))
        self.step("the function is killed half-way", self._kill_half_way)
        self._work_both_ways()
        for message in self._world.mailbox.wait(1, 10.0)[:1]:
            self.show(message)

    def _kill_half_way(self) -> None:
        """kill -9 after ServiceNow has made the ticket and before anybody knows; then Hasura sends
        the event again."""
        world = self._world
        world.instance.arm("commit_then_hang", method="POST", seconds=2)
        made = len(world.instance.rows("incident"))
        world.sql(KILLED)
        _wait_for(lambda: len(world.instance.rows("incident")) > made)
        print(
            "   kill -9; another one is started, and takes over when the dead one's "
            "lease ends: 16 s …",
            flush=True,
        )
        world.kill_function()
        # Hasura waits for interval_sec before it sends again; the tour does not.
        event = self._last_event()
        _wait_for(lambda: self._invocations(event))
        world.sql("UPDATE hdb_catalog.event_log SET next_retry_at = NULL WHERE id = %s", event)

    def _work_both_ways(self) -> None:
        """The app and a person talk about an outage; the person resolves it."""
        self.step("the app comments on it", lambda: self._world.sql(ASKED))
        self.person(
            "comments on the incident's page",
            lambda: self._send_form("comment", text="An hour, I think.", kind="comments"),
            lambda: f"comment by {self._world.sql(LAST_COMMENT)[0]['author']}",
        )
        self.person(
            "resolves it there",
            lambda: self._send_form(
                "resolve", close_code="Solution provided", close_notes="Emptied the queue."
            ),
            lambda: f"outage 44 is {self._world.sql(STATUS)[0]['status']}",
        )

    def step(self, what: str, do: Callable[[], object], *, event: str = "") -> None:
        """Do it, wait until its event is delivered or given up, and print one line of it."""
        world = self._world
        world.instance.forget()
        seen = len(self._invocations(event)) if event else 0
        do()
        event = event or self._last_event()
        _wait_for(lambda: len(self._invocations(event)) > seen and self._is_over(event))
        [row] = world.sql("SELECT payload FROM hdb_catalog.event_log WHERE id = %s", event)
        last = self._invocations(event)[-1]
        answer = _answer(last["response"])
        ticket = self._ticket(answer["outcomes"][0]["ticket"])
        became = (
            f"{ticket['number']} {STATES.get(ticket['state'], ticket['state'])}"
            if ticket
            else "no ticket"
        )
        self._worked_on = ticket["number"] if ticket else self._worked_on
        self._print_step(row["payload"]["op"], what, _said(last["status"], answer), became)

    def person(
        self, what: str, do: Callable[[], object], find_result: Callable[[], object]
    ) -> None:
        """Have a person do it in ServiceNow, wait until the app has been told and the event that
        this made is delivered, and print one line of it."""
        world = self._world
        world.instance.forget()
        seen, event = len(world.notifications), self._last_event()
        do()
        _wait_for(lambda: len(world.notifications) > seen)
        sent = world.notifications[seen]
        _wait_for(lambda: self._last_event() != event and self._is_over(self._last_event()))
        self._print_step("person", what, said_of(sent), str(find_result()))

    def _print_step(self, op: str, what: str, said: str, became: str) -> None:
        self._steps += 1
        calls = ", ".join(self._calls()) or "none"
        print(
            f"{self._steps}. {op:6} {what:34} -> {said:31} | {became:19} | calls: {calls}",
            flush=True,
        )

    def _calls(self) -> list[str]:
        """Those of this step: what Hasura's cron trigger has the function ask for all tickets that
        have changed is none of it."""
        return [
            f"{call.method} {call.table}"
            for call in self._world.instance.calls
            if not call.asks_for_changes
        ]

    def _send_form(self, form: str, **fields: str) -> None:
        """What a browser does when a person sends a form of the incident's page."""
        page = f"{self._incidents}/{self._worked_on}"
        with DIRECT.open(f"{page}/{form}", urlencode(fields).encode(), timeout=10) as answer:
            refused = parse_qs(urlsplit(answer.url).query).get("said")
        if refused:
            raise TourStuckError(f"{page} says: {refused[0]}")

    @property
    def _incidents(self) -> str:
        return f"{self._world.instance.url}/incidents"

    def _ticket(self, number: str | None) -> dict[str, str] | None:
        rows = self._world.instance.rows("incident")
        return next((row for row in rows if row["number"] == number), None)

    def _last_event(self) -> str:
        [row] = self._world.sql(
            "SELECT id FROM hdb_catalog.event_log ORDER BY created_at DESC LIMIT 1"
        )
        return str(row["id"])

    def _invocations(self, event: str) -> list[dict[str, Any]]:
        return self._world.sql(
            "SELECT status, response FROM hdb_catalog.event_invocation_logs WHERE event_id = %s "
            "ORDER BY created_at",
            event,
        )

    def _is_over(self, event: str) -> bool:
        """Delivered; or refused, which Hasura tries again in vain, and the tour does
        not wait for."""
        [row] = self._world.sql(
            "SELECT delivered, error FROM hdb_catalog.event_log WHERE id = %s", event
        )
        invocations = self._invocations(event)
        return bool(row["delivered"] or row["error"]) or (
            bool(invocations) and invocations[-1]["status"] == 422
        )

    def invite(self, *, has_own_tables: bool) -> None:
        """Say how to go on from here."""
        world = self._world
        psql = world.folder / "psql"
        print(f"\nThe incidents, to look at:  {self._incidents}")
        if self._worked_on:
            print(f"One, to work on:            {self._incidents}/{self._worked_on}")
        for table in world.other_tables:
            print(f"{f'Records of {table}:':27} {self._write_query(table)}")
        print(f"What other systems got:     {world.receiver.url}/")
        for variable, system in world.stand_ins.items():
            print(f"  {variable} is".ljust(28) + f"{world.receiver.url}/systems/{system}")
        if world.slack is not None:
            print(f"Slack, to type commands:    {world.slack.url}/")
            for usage in world.commands:
                print(f"                            {usage}")
        print(f"The function's log:         {world.log}")
        print(
            f"For commands as in a mail:  set -a; . {world.folder / SETTINGS}; set +a; . "
            ".venv/bin/activate"
        )
        if has_own_tables:
            print(f"For SQL:                    {psql}")
            print("".join(f"\n{line}" for line in world.suggestions), flush=True)
            return
        print("A row of your own, to paste, and what the app then knows of its ticket:\n")
        for statement in (PASTE, LOOK, COMMENTS):
            print(f'{psql} -c "{statement}"', flush=True)

    def _write_query(self, table: str) -> str:
        """The command that asks for the records of *table* as people see them, to be pasted."""
        instance = self._world.instance
        query = urlencode(
            {"sysparm_display_value": "true", "sysparm_fields": SHOWN, "sysparm_query": NEWEST},
            safe=",",
        )
        address = f"{instance.url}/api/now/table/{table}?{query}"
        return f"curl -u {instance.username}:{instance.password} '{address}'"

    def watch(self) -> None:
        """Stay until the function ends, and show each call to ServiceNow, each notification, each
        command with its answers, what other systems get, and each mail as it comes."""
        world = self._world
        print("\nCalls and mails are shown as they come. Ctrl-C ends it.", flush=True)
        world.instance.forget()
        mails, notifications = len(world.mailbox.messages), len(world.notifications)
        chat = _ChatLog(world.slack)
        posts = PostLog(world.receiver)
        while world.function.poll() is None:
            time.sleep(0.3)
            for call in world.instance.take_calls():
                print(
                    f"ServiceNow: {call.method} {call.table} -> {call.status or 'no answer'}",
                    flush=True,
                )
            for sent in world.notifications[notifications:]:
                notifications += 1
                table = sent.notification.fields["table"]
                print(f"notification: {table} -> {said_of(sent)}", flush=True)
            for line in (*posts.news(), *chat.news()):
                print(line, flush=True)
            for message in world.mailbox.messages[mails:]:
                mails += 1
                print(f"mail: {message['Subject']}", flush=True)

    def show(self, message: EmailMessage) -> None:
        """Print the mail as a person reads it."""
        text = message.get_body(("plain",))
        print(f"\nThe mail to {message['To']}:\n")
        for line in [
            f"Subject: {message['Subject']}",
            "",
            *(text.get_content().splitlines() if text else []),
        ]:
            print(f"    {line}".rstrip())


class PostLog:
    """What the receiver's systems get, line by line."""

    def __init__(self, receiver: Receiver) -> None:
        self._systems = receiver.systems.values()
        # When the last one that was shown of each arrived: numbers begin anew where a person has a
        # system forget.
        self._shown = dict.fromkeys(receiver.systems, 0.0)
        self.news()

    def news(self) -> list[str]:
        """What has come since the last time of asking."""
        lines = []
        for system in self._systems:
            for request in system.received:
                if request.at > self._shown[system.name]:
                    self._shown[system.name] = request.at
                    answer = request.status or "no answer"
                    lines.append(f"post: {system.name} {request.webhook_id} -> {answer}")
        return lines


class _ChatLog:
    """What people type in Slack and are answered, line by line; nothing where there is no Slack."""

    def __init__(self, slack: Slack | None) -> None:
        self._slack = slack
        # How many answers of each command were shown.
        self._shown: list[int] = []

    def news(self) -> list[str]:
        """What has come since the last time of asking."""
        lines = []
        for number, command in enumerate(self._slack.commands if self._slack else ()):
            if number == len(self._shown):
                self._shown.append(0)
                lines.append(f"Slack: {command.user} types {command.text}")
            for answer in command.answers[self._shown[number] :]:
                self._shown[number] += 1
                lines.append(f"Slack: {command.user} reads: {answer.shown}")
        return lines


def said_of(sent: SentNotification) -> str:
    """What the function answered a notification, in a few words."""
    if not sent.status:
        return "no answer"
    try:
        return _said(sent.status, json.loads(sent.answer))
    except (ValueError, LookupError):
        return str(sent.status)


def _said(status: int, answer: dict[str, Any]) -> str:
    """The outcomes that changed something; where none did, the first."""
    outcomes = [
        " ".join(filter(None, [outcome["status"], outcome["reason"]]))
        for outcome in answer["outcomes"]
    ]
    quiet = ("unchanged", "skipped")
    told = [outcome for outcome in outcomes if not outcome.startswith(quiet)] or outcomes[:1]
    return " ".join([str(status), *told])


def _wait_for(condition: Callable[[], object]) -> None:
    until = time.monotonic() + STEP_SECONDS_MAX
    while not condition():
        if time.monotonic() > until:
            raise TourStuckError(
                f"Nothing came of it within {STEP_SECONDS_MAX:.0f} s; the log has more."
            )
        time.sleep(0.05)


def _answer(response: dict[str, Any]) -> dict[str, Any]:
    """The function's answer as Hasura logs it: a body where it was taken, a message where it was
    not."""
    told = response["data"]
    answer: dict[str, Any] = json.loads(told.get("body") or told.get("message"))
    return answer
