"""A world with Slack in it: people type commands, which functions in this process take and work."""

from collections.abc import Mapping
from contextlib import ExitStack
from typing import Any, Self

import werkzeug.test
from flask import Request

from sandbox.slack import TEAM, Slack, TypedCommand
from tests.payloads import insert
from tests.world import SIGNING_SECRET, TOLD, Answered, World

RULES = """
version: 1
rules:
  - name: ops-resolve
    from: slack/ops-resolve
    ticket:
      table: incident
      number: "{{ row.text }}"
      resolve_when: true
      close_code: Solution provided
      close_notes: "{{ notes or 'Resolved in Slack' }} ({{ row.user_name }}, {{ row.user_id }})"
    reply: "{{ ticket.number }} is resolved"
  - name: ops-status
    from: slack/ops-status
    ticket:
      number: "{{ row.text }}"
    reply: >-
      {{ ticket.number }}: {{ shown.state }}, {{ shown.priority }},
      {{ shown.assigned_to or 'nobody' }}: {{ ticket.short_description }}
"""


class SlackWorld(World):
    """A World whose functions hear Slack. What is typed is handed to them without a socket; what
    they answer comes over one."""

    def __init__(self, *, rules: str = RULES, **settings: Any) -> None:
        self.slack = Slack(signing_secret=SIGNING_SECRET)
        usual = {
            "SLACK_SIGNING_SECRET": SIGNING_SECRET,
            "SLACK_ALLOWED_TEAMS": TEAM,
            "SLACK_SANDBOX_URL": self.slack.url,
        }
        super().__init__(rules=rules, **{**usual, **settings})

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            stack.enter_context(self.slack)
            super().__enter__()
            self._slack_open = stack.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._slack_open.close()

    # What people type

    def post(
        self, body: bytes, headers: Mapping[str, str], *, instance: int = 0
    ) -> tuple[int, str]:
        """The status and the text that a request to /slack is answered with."""
        environ = werkzeug.test.EnvironBuilder(
            method="POST", path="/slack", data=body, headers=[*headers.items()]
        ).get_environ()
        answer = self.apps[instance].handle(Request(environ))
        TOLD.append(f"{answer.headers}{answer.get_data(as_text=True)}")
        said = answer.get_json(silent=True) or {}
        return answer.status_code, said.get("text", "")

    def type(self, text: str, **fields: str) -> TypedCommand:
        """Type a command, which is not worked yet."""
        command = self.slack.prepare(text, **fields)
        self.slack.commands.append(command)
        command.status, command.shown = self.post(command.body, command.headers)
        return command

    def run(self, text: str, **fields: str) -> list[str]:
        """Type a command, have it worked, and read what its person is told of it."""
        command = self.type(text, **fields)
        assert (command.status, command.shown) == (200, "Processing…")
        self.work()
        return [answer.text for answer in command.answers]

    # What works it

    @property
    def inbox(self) -> list[dict[str, Any]]:
        """What is to be worked."""
        return self.query(
            "SELECT * FROM servicenow.inbox WHERE source <> 'ended' ORDER BY received, id"
        )

    def work(self, *, instance: int = 0) -> list[Answered]:
        """Hasura's events on what is in the inbox now, each brought once."""
        return [self.bring(row["id"], instance=instance) for row in self.inbox]

    def bring(self, identity: str, *, instance: int = 0) -> Answered:
        """Hasura's event on the INSERT of an entry."""
        return self.send(insert("servicenow.inbox", {"id": identity}), instance=instance)

    # What it is about

    def open_incident(self, **values: str) -> dict[str, str]:
        """An incident of a person's."""
        usual = {"short_description": "Checkout is down"}
        return self.servicenow.tables.insert(
            "incident", {**usual, **values}, by="admin", shown=False
        )

    def row(self, incident: Mapping[str, str]) -> dict[str, str]:
        [row] = [one for one in self.incidents if one["sys_id"] == incident["sys_id"]]
        return row
