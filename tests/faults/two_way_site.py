"""A whole site as processes whose app and service desk answer each other: Hasura's GraphQL, and a
ServiceNow that tells the functions of its changes."""

import json
import shutil
import time
from math import inf
from pathlib import Path
from typing import Any, Final, Self

import psutil
import requests

from sandbox.graphql import PATH, GraphQLServer
from sandbox.notifier import DeliveryFaults, NotifiedTable, Notifier, generate_mac
from tests.faults.site import Site
from tests.processes import find_free_port
from tests.two_way.desk import ADMIN_SECRET, PROJECT, RULES, WEBHOOK_SECRET
from tests.world import Answered

# What the example's rules name of a ticket, and whose tickets they are for.
NAMED: Final = ("short_description", "impact", "state", "close_notes", "assigned_to")
GROUP: Final = "Software"
BORN: Final = f"assignment_group.name={GROUP}^active=true^correlation_idISEMPTY"
# Notifications under way at one time.
SENDERS: Final = 4


def project_without_crons(folder: Path) -> Path:
    """The example's project, in *folder*: a test sends cron events when it wants them."""
    project = folder / "two-way"
    shutil.copytree(PROJECT, project, dirs_exist_ok=True)
    (project / "metadata" / "cron_triggers.yaml").write_text("[]\n")
    return project


class TwoWaySite(Site):
    """A site of examples/two-way. A notification is sent once, to the functions in turn: with one
    that is killed it is lost."""

    def __init__(
        self,
        database_url: str,
        folder: Path,
        *,
        functions: int = 2,
        rules: str = RULES,
        seed: int = 0,
        fetch_interval_seconds: float = 0.05,
        spare_the_first: bool = False,
        deadline_seconds: float = 50.0,
        **settings: Any,
    ) -> None:
        port = find_free_port()
        super().__init__(
            database_url,
            folder,
            functions=functions,
            rules=rules,
            project=project_without_crons(folder),
            fetch_interval_seconds=fetch_interval_seconds,
            spare_the_first=spare_the_first,
            graphql_port=port,
            admin_secret=ADMIN_SECRET,
            HASURA_GRAPHQL_URL=f"http://127.0.0.1:{port}{PATH}",
            HASURA_ADMIN_SECRET=ADMIN_SECRET,
            HASURA_TIMEOUT_SECONDS="2",
            SERVICENOW_WEBHOOK_SECRETS=WEBHOOK_SECRET,
            DEADLINE_SECONDS=f"{deadline_seconds:g}",
            **settings,
        )
        self._seed = seed
        self._asked_before = 0

    def __enter__(self) -> Self:
        super().__enter__()
        self.servicenow.tables.insert(
            "sys_user_group", {"name": GROUP, "active": "true"}, by="admin"
        )
        first, *others = (f"{function.url}/servicenow" for function in self.functions)
        self.notifier = Notifier(
            first,
            WEBHOOK_SECRET,
            tables=(
                NotifiedTable(
                    columns=NAMED, journals=("comments",), filter="correlation_idSTARTSWITHshop:"
                ),
                NotifiedTable(columns=NAMED, journals=(), filter=BORN, insert=True),
            ),
            seed=self._seed,
            more_urls=others,
            senders=SENDERS,
        )
        # The functions compare the signature's time with their host's own clock.
        self.notifier.start(self.servicenow.tables, user=self.servicenow.username, clock=time.time)
        self.servicenow.notifier = self.notifier
        return self

    @property
    def graphql(self) -> GraphQLServer:
        return self.engines[0].graphql

    @property
    def mutation_count(self) -> int:
        """How many requests were made to Hasura's GraphQL."""
        return self._asked_before + self.graphql.request_count

    def start_engine(self, number: int) -> None:
        if number == 0:
            self._asked_before += self.graphql.request_count
        super().start_engine(number)

    # The app and the desk

    def row(self, id: int) -> dict[str, Any]:
        [row] = self.sql("SELECT * FROM outages WHERE id = %s", id)
        return row

    def comments(self, id: int) -> list[str]:
        """What the app has of the outage's comments, oldest first."""
        rows = self.sql("SELECT body FROM outage_comments WHERE outage_id = %s ORDER BY id", id)
        return [row["body"] for row in rows]

    def entries(self, sys_id: str) -> list[str]:
        """The comments on a ticket, in any order."""
        rows = self.servicenow.tables.select("sys_journal_field", f"element_id={sys_id}")
        return [row["value"] for row in rows if row["element"] == "comments"]

    def ticket(self, id: int) -> dict[str, str]:
        """The newest of the row's tickets."""
        return self.tickets(id)[-1]

    def person(self, sys_id: str, **values: str) -> dict[str, str]:
        """A person edits a ticket; what it says then."""
        return self.servicenow.change("incident", sys_id, **values)

    def open_ticket(self, **values: str) -> str:
        """A person opens a ticket for the app's group; its sys_id."""
        opened = self.servicenow.tables.insert(
            "incident", {"assignment_group": GROUP, **values}, by="admin", shown=True
        )
        return opened["sys_id"]

    # Looks

    def notify(self, sys_id: str, *, function: int = 0) -> Answered:
        """Say that the ticket changed, as the business rule does, and hear what became of it."""
        stamp = str(int(time.time()))
        fields = {"version": 1, "table": "incident", "sys_id": sys_id, "mod_count": 0}
        body = json.dumps(fields)
        signature = generate_mac(WEBHOOK_SECRET, f"{stamp}.{body}")
        answer = requests.post(
            f"{self.functions[function].url}/servicenow",
            data=body,
            headers={
                "Content-Type": "application/json",
                "X-ServiceNow-Timestamp": stamp,
                "X-ServiceNow-Signature": f"v1={signature}",
            },
            timeout=30,
        )
        return Answered(answer.status_code, answer.json(), None)

    def queue(self, sys_id: str) -> None:
        """Put the ticket into the inbox, as a notification does that cannot be worked on now."""
        self.sql(
            "INSERT INTO servicenow.inbox (id, source, subject, received, due_at) "
            "VALUES (%s, 'servicenow', %s, 0, 'infinity')",
            f"servicenow/incident/{sys_id}",
            f"incident/{sys_id}",
        )

    def sync(self, seconds: float = 60.0) -> None:
        """The cron event of `sync`, until everything has come to rest."""
        answered = self.send_cron("servicenow_sync", function=self._longest_up())
        assert answered.status == 200, answered
        self.settle(seconds)

    def look_at_all(self, seconds: float = 60.0) -> None:
        """Say of every ticket that it changed, until everything has come to rest."""
        function = self._longest_up()
        for row in self.servicenow.rows("incident"):
            self.notify(row["sys_id"], function=function)
        self.settle(seconds)

    def _longest_up(self) -> int:
        """The function whose worker was not killed of late: another is still being started."""
        workers = [psutil.Process(function.pid).children() for function in self.functions]
        began = [max((one.create_time() for one in many), default=inf) for many in workers]
        return began.index(min(began))

    def housekeep(self) -> Answered:
        """The cron events that are shipped in metadata."""
        answered = super().housekeep()
        self.sync()
        return answered

    # Rest

    def forget_ledger(self) -> None:
        """All that the function remembers is lost."""
        tables = (
            *("ticket", "delivery", "alert", "hold"),
            *("table_traits", "shadow", "inbox", "watermark"),
        )
        self.sql(f"TRUNCATE {', '.join(f'servicenow.{table}' for table in tables)}")

    def calls_at_rest(self, seconds: float = 60.0) -> list[str]:
        """What is called, once all is said and `sync` has seen it, in *seconds* of simulated
        time."""
        self.sync()
        self.servicenow.forget()
        asked_before = self.mutation_count
        for _ in range(3):
            self._pass(seconds / 3)
            time.sleep(3 * self._fetch_interval_seconds)
            self.settle()
        asked = self.mutation_count - asked_before
        return [*self.calls(), *["POST graphql"] * asked]

    def _end_faults(self) -> None:
        super()._end_faults()
        self.notifier.faults = DeliveryFaults()
        self.graphql.disarm()

    def _at_rest(self) -> bool:
        return self.notifier.waiting == 0 and self.graphql.in_flight == 0 and super()._at_rest()
