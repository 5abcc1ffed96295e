"""A whole site as processes, with people in Slack who type commands."""

from pathlib import Path
from typing import Any, Final, Self

from sandbox.slack import TEAM, Slack, TypedCommand
from tests.faults.site import Site
from tests.faults.two_way_site import TwoWaySite
from tests.slack.desk import RULES as COMMANDS
from tests.two_way.desk import RULES as BOTH_WAYS
from tests.world import SIGNING_SECRET, Answered

RULES: Final = BOTH_WAYS + COMMANDS.partition("rules:\n")[2]
# What is kept, where the address of an answer must not stand.
TABLES: Final = (*("ticket", "delivery", "alert", "hold", "table_traits", "shadow", "watermark"),)
LOGS: Final = ("event_log", "event_invocation_logs")


class SlackSite(TwoWaySite):
    """A site of examples/two-way whose tickets are resolved from Slack."""

    def __init__(self, database_url: str, folder: Path, **options: Any) -> None:
        self.slack = Slack(signing_secret=SIGNING_SECRET)
        super().__init__(
            database_url,
            folder,
            rules=RULES,
            SLACK_SIGNING_SECRET=SIGNING_SECRET,
            SLACK_ALLOWED_TEAMS=TEAM,
            SLACK_SANDBOX_URL=self.slack.url,
            **options,
        )
        self.slack.clock = self.clock.now

    def __enter__(self) -> Self:
        self.slack.__enter__()
        try:
            return super().__enter__()
        except BaseException:
            self.slack.__exit__()
            raise

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self.slack.__exit__()

    def type(self, text: str, *, function: int = 0) -> TypedCommand:
        """Type a command; it goes to the function of that number."""
        return self.slack.type(f"{self.functions[function].url}/slack", text)

    def send_again(self, command: TypedCommand, *, function: int = 0) -> None:
        """A copy of *command*, as somebody sends it who has read it on the wire."""
        self.slack.send_copy(f"{self.functions[function].url}/slack", command)

    def housekeep_alone(self) -> Answered:
        """The housekeeping's cron event, without the other."""
        return Site.housekeep(self)

    @property
    def inbox(self) -> list[dict[str, Any]]:
        """What is to be worked."""
        return self.sql("SELECT * FROM servicenow.inbox WHERE source <> 'ended'")

    def places_of(self, secret: str) -> list[str]:
        """Where *secret* stands: tables, and the functions' logs."""
        named = [f"servicenow.{table}" for table in TABLES]
        named += [f"hdb_catalog.{log}" for log in LOGS]
        places = [
            table
            for table in [*named, "servicenow.inbox"]
            if self.sql(f"SELECT 1 FROM {table} AS t WHERE t::text LIKE %s", f"%{secret}%")  # noqa: S608  # our own names
        ]
        return places + ["log" for function in self.functions if secret in function.log]

    def _end_faults(self) -> None:
        super()._end_faults()
        self.slack.disarm()
