"""What changed in ServiceNow is found, whether anybody told of it or not."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest

from function.ledger.database import Database
from sandbox.servicenow import ADMIN, ServiceNow
from tests.payloads import cron
from tests.two_way.desk import Desk
from tests.two_way.test_back import ONE_WAY, OPEN
from tests.world import PASSWORD, Answered

BORN = "correlation_idISEMPTY^category=network^NQcorrelation_idISEMPTY^category=hardware"
# Journals are looked at by calls of their own; columns are what most tests are about.
COLUMNS = re.sub(r"(?s)  - name: comment-back\n.*?\Z", "", ONE_WAY)
TWO_FILTERS = re.sub(r"filter: .*", f"filter: {BORN}", COLUMNS)


class Stamps:
    """ServiceNow's clock, which stands still until a test moves it."""

    def __init__(self) -> None:
        self.now = 1_763_712_000.0  # 2025-11-21 08:00:00

    def __call__(self) -> float:
        return self.now


class PollDesk(Desk):
    """A desk whose ServiceNow has a clock of its own, and tells nobody of anything."""

    def __init__(
        self,
        database_url: str,
        *,
        rules: str = COLUMNS,
        time_zone: str = "",
        local_times: bool = False,
    ) -> None:
        super().__init__(database_url, rules=rules)
        self.stamps = Stamps()
        self.servicenow = ServiceNow(
            password=PASSWORD, clock=self.stamps, time_zone=time_zone, local_times=local_times
        )

    def wait(self, seconds: float) -> None:
        self.stamps.now += seconds

    def poll(self, *, instance: int = 0) -> Answered:
        """The cron event."""
        return self.send(cron("servicenow_sync"), instance=instance)

    def open_outage(self) -> None:
        """A row, its ticket, and the first run behind both."""
        self.sql(OPEN)
        self.sql("ALTER TABLE outages ALTER COLUMN id RESTART WITH 1000")
        self.settle()
        self.poll()
        self.wait(100)
        self.servicenow.forget()

    def make(self, **fields: str) -> str:
        """An incident that somebody makes in ServiceNow; its sys_id."""
        values = {"short_description": "Made there", "impact": "2", **fields}
        return self.servicenow.tables.insert("incident", values, by=ADMIN)["sys_id"]

    def ticket(self) -> str:
        """The sys_id of the row's ticket."""
        rows = self.query("SELECT sys_id FROM servicenow.ticket WHERE rule = 'outage'")
        return str(rows[0]["sys_id"])

    def marks(self) -> dict[str, tuple[str, str]]:
        """The watermarks: by query, the stamp and the sys_id."""
        rows = self.query("SELECT subject, updated_on, sys_id FROM servicenow.watermark")
        return {
            row["subject"].partition("?")[2]: (row["updated_on"], row["sys_id"]) for row in rows
        }

    def inbox(self) -> list[str]:
        rows = self.query("SELECT subject FROM servicenow.inbox ORDER BY id")
        return [row["subject"].partition("/")[2] for row in rows]

    def set_zone(self, zone: str) -> None:
        [user] = self.servicenow.tables.select("sys_user", f"user_name={self.servicenow.username}")
        self.servicenow.tables.update("sys_user", user["sys_id"], {"time_zone": zone}, by=ADMIN)


OURS = "correlation_idSTARTSWITHshop:"
BORN_DEFAULT = "assignment_group.name=Software^active=true^correlation_idISEMPTY"


@pytest.fixture
def desk(postgresql: str) -> Iterator[PollDesk]:
    with PollDesk(postgresql) as desk:
        desk.open_outage()
        yield desk


class SQLiteDesk(PollDesk):
    """The same with the ledger in a file: no event of Hasura's brings what the inbox keeps."""

    def __init__(self, database_url: str) -> None:
        super().__init__(database_url)
        # The app's project tracks the inbox, so that it is there, and stays empty.
        database = Database(database_url)
        database.migrate()
        database.close()
        self._database_url = f"sqlite:///{self.ledger_file}"


def counts(answer: Answered) -> Any:
    assert answer.status == 200, answer.body
    return answer.body["sync"]


# What nobody told of


def test_a_change_whose_notification_was_lost_reaches_the_app(desk: PollDesk) -> None:
    desk.person(impact="2")

    assert counts(desk.poll()) == {"read": 1, "queued": 1, "worked": 0}
    desk.settle()
    assert desk.row()["severity"] == "major"
    assert desk.inbox() == []


def test_a_run_that_finds_nothing_new_calls_nobody_but_for_its_own_questions(
    desk: PollDesk,
) -> None:
    desk.person(impact="2")
    desk.poll()
    desk.settle()
    desk.wait(600)
    desk.calls()

    assert counts(desk.poll()) == {"read": 1, "queued": 0, "worked": 0}
    assert set(desk.calls()) == {"GET incident"}
    assert desk.events() == []


def test_what_was_told_is_not_told_again(desk: PollDesk) -> None:
    desk.person(impact="2")
    desk.notify()

    assert counts(desk.poll())["queued"] == 0


def test_where_the_ledger_is_in_no_database_of_hasuras_a_run_does_the_work_itself(
    postgresql: str,
) -> None:
    with SQLiteDesk(postgresql) as desk:
        desk.open_outage()
        desk.person(impact="2")

        assert counts(desk.poll()) == {"read": 1, "queued": 1, "worked": 1}
        assert desk.row()["severity"] == "major"
        desk.wait(60)
        desk.person(impact="3")
        assert counts(desk.poll())["worked"] == 1
        assert desk.row()["severity"] == "minor"
        assert counts(desk.poll()) == {"read": 1, "queued": 0, "worked": 0}


def test_a_comment_that_nobody_told_of_reaches_the_app(postgresql: str) -> None:
    with PollDesk(postgresql, rules=ONE_WAY) as desk:
        desk.open_outage()
        desk.poll()
        desk.settle()
        desk.wait(300)
        desk.person(comments="Have you tried turning it off and on again?")

        assert counts(desk.poll())["queued"] == 1
        desk.settle()
        assert desk.comments() == [("admin", "Have you tried turning it off and on again?")]
        assert counts(desk.poll())["queued"] == 0


def test_a_change_that_is_committed_behind_what_was_read_is_found(postgresql: str) -> None:
    with PollDesk(postgresql, rules=TWO_FILTERS) as desk:
        desk.open_outage()
        desk.make(category="network")
        desk.poll()
        desk.wait(-30)  # its transaction began then
        late = desk.make(category="hardware")
        desk.wait(330)

        assert counts(desk.poll()) == {"read": 2, "queued": 2, "worked": 0}
        assert late in desk.inbox()


def test_what_people_see_decides_as_it_does_in_a_look(postgresql: str) -> None:
    seen = "link.rule == 'outage' and shown.state == 'On Hold'"
    rules = COLUMNS.replace("link.rule == 'outage'", seen, 1)
    with PollDesk(postgresql, rules=rules) as desk:
        desk.open_outage()
        desk.person(impact="2")

        assert counts(desk.poll())["queued"] == 0
        desk.person(state="3", hold_reason="1", comments="Waiting for you")
        assert counts(desk.poll())["queued"] == 1
        desk.settle()
        assert (desk.row()["severity"], desk.row()["status"]) == ("major", "in progress")


def test_what_was_given_up_is_not_tried_again_by_each_run(desk: PollDesk) -> None:
    desk.start(rules=COLUMNS.replace(", '8': 'fixed'", ""))
    desk.person(state="8")
    desk.poll()
    desk.settle()
    desk.wait(300)

    assert len(desk.mails) == 1
    assert counts(desk.poll())["queued"] == 0
    desk.start(rules=COLUMNS)
    assert counts(desk.poll())["queued"] == 1
    desk.settle()
    assert desk.row()["status"] == "fixed"


# The first run


def test_the_first_run_starts_now_and_reads_nothing_of_before(postgresql: str) -> None:
    with PollDesk(postgresql, rules=TWO_FILTERS) as desk:
        desk.make(category="network")
        desk.wait(86_400)

        assert counts(desk.poll()) == {"read": 0, "queued": 0, "worked": 0}
        assert counts(desk.poll())["read"] == 0
        assert desk.marks() == {
            OURS: ("2025-11-21 08:00:01", ""),
            BORN: ("2025-11-21 08:00:01", ""),
        }
        new = desk.make(category="network")
        assert counts(desk.poll())["queued"] == 1
        assert desk.inbox() == [new]


def test_where_a_table_was_empty_at_first_all_of_it_is_read_later(postgresql: str) -> None:
    with PollDesk(postgresql, rules=TWO_FILTERS) as desk:
        for row in desk.incidents:
            desk.servicenow.remove("incident", row["sys_id"])
        desk.poll()
        new = desk.make(category="network")

        assert counts(desk.poll())["read"] == 1
        assert desk.inbox() == [new]


def test_two_way_switched_on_over_1000_tickets_notes_each_and_changes_no_row(
    postgresql: str,
) -> None:
    with SQLiteDesk(postgresql) as desk:
        desk.sql(
            "INSERT INTO outages (id, title, severity, status) SELECT i, 'as the app has it', "
            "(ARRAY['critical', 'major', 'minor'])[1 + mod(i, 3)], 'open' "
            "FROM generate_series(1, 1000) i"
        )
        desk.sql("UPDATE hdb_catalog.event_log SET delivered = true")
        for number in range(1, 1001):
            desk.make(
                correlation_id=f"shop:outage:{number}", state="Resolved" if number % 2 else ""
            )
        rows = desk.sql("SELECT * FROM outages ORDER BY id")

        ended, said = desk.command("sync", "--since", "2025-11-01")

        assert ended == 0, said
        assert "  1000 read, 1000 to look at, up to 2025-11-21 08:00:00" in said
        assert desk.sql("SELECT * FROM outages ORDER BY id") == rows
        [noted] = desk.query("SELECT count(DISTINCT sys_id) AS tickets FROM servicenow.shadow")
        assert noted["tickets"] == 1000
        ended, said = desk.command("sync", "--since", "2025-11-01")
        assert "  1000 read, 0 to look at, up to 2025-11-21 08:00:00" in said


# Many


def test_2500_tickets_changed_in_one_second_are_passed(desk: PollDesk) -> None:
    made = {desk.make(correlation_id=f"shop:outage:{number}") for number in range(100, 2600)}
    first = counts(desk.poll())
    again = counts(desk.poll())
    desk.wait(61)
    desk.person(desk.ticket(), impact="2")

    assert first["read"] == again["read"] == 2500
    assert set(desk.inbox()) == made
    assert desk.marks()[OURS] == ("2025-11-21 08:01:40", max(made))
    assert counts(desk.poll())["read"] == 2501
    assert counts(desk.poll())["read"] == 1


def test_a_run_that_is_ended_half_way_is_gone_on_with(desk: PollDesk) -> None:
    made = sorted(desk.make(correlation_id=f"shop:outage:{number}") for number in range(100, 600))
    [reader, _] = desk.apps[0].inbound().poll.open(desk.apps[0].engine.deadline)
    pages = reader.read_pages()
    page = next(pages)
    reader.save(page, page.entries)
    next(pages)  # read, and killed before it was saved

    assert reader.query.encoded == OURS
    assert desk.marks()[OURS] == ("2025-11-21 08:01:40", made[199])
    assert desk.inbox() == made[:200]
    assert counts(desk.poll())["read"] == 500
    assert desk.inbox() == made


def test_a_command_that_is_killed_half_way_is_gone_on_with(desk: PollDesk) -> None:
    made = sorted(desk.make(correlation_id=f"shop:outage:{number}") for number in range(100, 1600))
    desk.servicenow.arm("slow", times=None, seconds=0.2)
    with desk.start_command("sync") as running:
        assert running.stdout is not None
        next(line for line in running.stdout if line.startswith("  600 read"))
        running.kill()
    desk.servicenow.disarm()
    mark = desk.marks()[OURS]
    read = made.index(mark[1]) + 1

    assert mark[0] == "2025-11-21 08:01:40"
    assert 400 <= read < 1500
    assert desk.inbox() == made[:read]
    assert counts(desk.poll())["read"] == 1500
    assert desk.inbox() == made


def test_what_servicenow_fails_on_half_way_is_read_by_the_next_run(desk: PollDesk) -> None:
    made = sorted(desk.make(correlation_id=f"shop:outage:{number}") for number in range(100, 600))
    before = desk.marks()
    desk.servicenow.arm("unavailable_503", table="incident", times=None)
    answer = desk.poll()

    assert (answer.status, answer.body["sync"]["read"]) == (503, 0)
    assert "server error" in answer.body["error"]
    assert desk.marks() == before
    desk.servicenow.disarm()
    desk.clock.advance(3600)
    assert counts(desk.poll())["read"] == 500
    assert desk.inbox() == made


def test_people_are_told_once_servicenow_could_not_be_read_for_long(desk: PollDesk) -> None:
    desk.servicenow.arm("unavailable_503", times=None)
    answers = [desk.poll()]
    mails = len(desk.mails)
    for _ in range(5):
        desk.clock.advance(300)
        answers.append(desk.poll())

    assert {answer.status for answer in answers} == {503}
    assert mails == 0
    assert {str(mail["Subject"]).partition(" (")[0] for mail in desk.mails} == {
        "[shop] changes of incident are not read: ServiceNow is unavailable",
        "[shop] calls to ServiceNow are held: ServiceNow is unavailable",
    }


def test_a_table_that_may_not_be_read_is_told_at_once(desk: PollDesk) -> None:
    desk.servicenow.rights = replace(desk.servicenow.rights, may_read={"sys_user"})
    answer = desk.poll()

    assert answer.status == 503
    [mail] = desk.mails
    assert str(mail["Subject"]).startswith("[shop] changes of incident are not read: ")
    assert "python -m function sync" in str(mail.get_content())


def test_two_that_read_at_once_do_no_harm_and_the_watermark_only_moves_forward(
    desk: PollDesk,
) -> None:
    for number in range(100, 400):
        desk.make(correlation_id=f"shop:outage:{number}")
    [slow, _] = desk.apps[0].inbound().poll.open(desk.apps[0].engine.deadline)
    [page, *_] = slow.read_pages()
    desk.poll()
    after = desk.marks()
    slow.save(page, page.entries)

    assert desk.marks() == after
    assert len(desk.inbox()) == 300


def test_two_runs_at_the_same_time_put_each_ticket_once(desk: PollDesk) -> None:
    made = sorted(desk.make(correlation_id=f"shop:outage:{number}") for number in range(100, 600))
    with ThreadPoolExecutor() as pool:
        answers = list(pool.map(lambda _: desk.poll(), range(4)))

    assert [answer.status for answer in answers] == [200] * 4
    assert desk.inbox() == made
    assert desk.marks()[OURS] == ("2025-11-21 08:01:40", made[-1])
    assert len(desk.events()) == 500


# Queries


def test_each_filter_of_a_table_is_read_for_itself(postgresql: str) -> None:
    with PollDesk(postgresql, rules=TWO_FILTERS) as desk:
        desk.open_outage()
        desk.person(impact="3")
        network, hardware = desk.make(category="network"), desk.make(category="hardware")
        desk.make(category="software")

        assert counts(desk.poll())["queued"] == 3
        assert set(desk.inbox()) == {desk.ticket(), network, hardware}
        assert desk.marks().keys() == {OURS, BORN}
        desk.settle()
        assert len(desk.sql("SELECT * FROM outages")) == 3
        assert desk.row()["severity"] == "minor"


def test_a_ticket_is_no_work_for_the_rules_of_another_filter(postgresql: str) -> None:
    other = re.sub(r"filter: .*", "filter: correlation_idISEMPTY^category=database", TWO_FILTERS)
    born = other.partition("  # Born there")[2].partition("  # Comments")[0]
    born = born.replace("name: outage-born", "name: other-born")
    with PollDesk(postgresql, rules=f"{TWO_FILTERS}\n  # Born there{born}") as desk:
        desk.open_outage()
        desk.make(category="network")
        desk.make(category="database")

        assert counts(desk.poll())["queued"] == 2
        desk.deliver_all()
        assert len(desk.sql("SELECT * FROM outages")) == 3
        assert counts(desk.poll())["queued"] == 0


def test_a_filter_of_several_groups_is_read_page_by_page(postgresql: str) -> None:
    with PollDesk(postgresql, rules=TWO_FILTERS) as desk:
        desk.make(category="network")
        desk.poll()
        desk.wait(100)
        made = [desk.make(category=("network", "hardware")[number % 2]) for number in range(450)]
        desk.wait(5)

        assert counts(desk.poll()) == {"read": 450, "queued": 450, "worked": 0}
        assert desk.inbox() == sorted(made)
        last = desk.make(category="hardware")
        desk.wait(100)
        assert counts(desk.poll())["read"] == 451
        assert desk.marks()[BORN] == ("2025-11-21 08:01:45", last)
        desk.make(category="hardware")
        assert counts(desk.poll())["read"] == 2 + 450


# The time zone


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Europe/Berlin"])
def test_in_another_time_zone_than_gmt_nothing_is_begun(postgresql: str, zone: str) -> None:
    with PollDesk(postgresql, time_zone=zone, local_times=True) as desk:
        desk.make(correlation_id="shop:outage:9")
        answer = desk.poll()

        assert answer.status == 503
        assert "(sys_user, time_zone) to GMT" in answer.body["error"]
        assert desk.marks() == {}
        assert len(desk.mails) == 1


@pytest.mark.parametrize("zone", ["America/Los_Angeles", "Europe/Berlin"])
@pytest.mark.parametrize("quiet", [True, False])
def test_a_time_zone_that_is_changed_later_stops_it_and_loses_nothing(
    postgresql: str, zone: str, *, quiet: bool
) -> None:
    with PollDesk(postgresql, local_times=True) as desk:
        desk.open_outage()
        desk.person(impact="2")
        desk.poll()
        desk.settle()
        before = desk.marks()
        desk.wait(300)
        if not quiet:
            desk.person(impact="3")
        desk.set_zone(zone)
        answers = [desk.poll(), desk.poll()]

        assert [answer.status for answer in answers] == [503, 503]
        assert desk.marks() == before
        assert desk.inbox() == []
        [mail] = desk.mails
        assert mail["Subject"] == (
            "[shop] changes of incident are not read: ServiceNow reads times in another time "
            "zone than GMT"
        )
        desk.set_zone("GMT")
        assert counts(desk.poll())["queued"] == (0 if quiet else 1)
        desk.settle()
        assert desk.row()["severity"] == ("major" if quiet else "minor")
        desk.send(cron("servicenow_housekeeping"))
        assert str(desk.mails[-1]["Subject"]).startswith("[shop] over after")


def test_another_time_zone_is_no_fault_where_servicenow_takes_times_for_gmt(
    postgresql: str,
) -> None:
    with PollDesk(postgresql, time_zone="America/Los_Angeles") as desk:
        desk.open_outage()
        desk.person(impact="2")

        assert counts(desk.poll())["queued"] == 1


def test_a_watermark_whose_record_was_deleted_or_moved_on_stops_nothing(desk: PollDesk) -> None:
    made = desk.make(correlation_id="shop:outage:9")
    desk.poll()
    desk.wait(300)
    desk.servicenow.change("incident", made, correlation_id="another:outage:9")
    desk.person(desk.ticket(), impact="2")

    assert desk.marks()[OURS] == ("2025-11-21 08:01:40", made)
    assert counts(desk.poll())["read"] == 1
    desk.servicenow.remove("incident", desk.ticket())
    desk.wait(300)
    assert counts(desk.poll())["read"] == 0


# The command


def test_the_command_reads_works_and_says_what_became_of_it(desk: PollDesk) -> None:
    desk.person(impact="2")
    ended, said = desk.command("sync")

    number = desk.incident["number"]
    assert (ended, said.splitlines()[:4]) == (
        0,
        [
            f"incident, {OURS}:",
            "  1 read, 1 to look at, up to 2025-11-21 08:01:40",
            f"incident, {BORN_DEFAULT}:",
            "  0 read: nothing has changed",
        ],
    )
    assert said.splitlines()[4:] == [f"  {number} outage-back: updated", "[1/1] 1 updated"]
    assert desk.row()["severity"] == "major"
    assert desk.inbox() == []


def test_a_dry_run_names_tickets_rules_and_columns_and_changes_nothing(postgresql: str) -> None:
    with PollDesk(postgresql, rules=TWO_FILTERS) as desk:
        desk.open_outage()
        desk.person(impact="2", short_description="planted-row-text")
        desk.make(category="network")
        before = desk.marks()
        ended, said = desk.command("sync", "--dry-run")

        born = next(row for row in desk.incidents if row["category"] == "network")
        assert ended == 0
        assert f"  {born['number']} outage-born: new to the app" in said
        assert (desk.marks(), desk.inbox()) == (before, [])
        assert "outage-back: impact, short_description" in said
        assert "planted-row-text" not in said
        assert desk.row()["severity"] == "critical"


def test_a_dry_run_before_the_first_begins_nothing(postgresql: str) -> None:
    with PollDesk(postgresql) as desk:
        ended, said = desk.command("sync", "--dry-run")

        assert ended == 0
        assert "the first run reads from " in said
        assert desk.marks() == {}


def test_a_first_run_since_a_time_is_gone_on_with_from_there(postgresql: str) -> None:
    with PollDesk(postgresql) as desk:
        desk.make(correlation_id="shop:outage:9")
        ended, said = desk.command("sync", "--since", "2025-11-21T07:59:00Z")
        none = desk.marks()[BORN_DEFAULT]

        assert ended == 0
        assert "  1 read, 1 to look at" in said
        assert desk.marks()[OURS][0] == "2025-11-21 08:00:00"
        assert none == ("2025-11-21 07:59:00", "")


def test_since_reads_again_what_was_read_and_leaves_the_watermark(desk: PollDesk) -> None:
    desk.person(impact="2")
    desk.poll()
    desk.settle()
    before = desk.marks()
    desk.sql("UPDATE outages SET severity = 'minor' WHERE id = 1")
    ended, said = desk.command("sync", "--since", "2025-11-21T07:00:00Z")

    assert ended == 0
    assert "  1 read, 0 to look at, up to 2025-11-21 08:01:40" in said
    assert desk.marks() == before


def test_since_a_time_behind_the_watermark_skips_nothing_for_the_next_run(desk: PollDesk) -> None:
    desk.person(impact="2")
    desk.wait(60)
    desk.make(correlation_id="shop:outage:9")
    before = desk.marks()[OURS]
    ended, said = desk.command("sync", "--since", "2025-11-21T08:02:00Z")

    assert ended == 0
    assert "  1 read, 1 to look at" in said
    assert desk.marks()[OURS] == before
    assert counts(desk.poll())["read"] == 2


def test_push_gives_the_app_all_of_a_ticket_though_nothing_has_changed(desk: PollDesk) -> None:
    desk.sql("UPDATE outages SET title = 'lost', severity = 'minor' WHERE id = 1")
    desk.sql("UPDATE hdb_catalog.event_log SET delivered = true")
    unpushed = desk.command("sync", "--since", "2025-11-21")
    dry, said = desk.command("sync", "--since", "2025-11-21", "--push", "--dry-run")
    row = desk.row()
    ended, _ = desk.command("sync", "--since", "2025-11-21", "--push")

    assert (unpushed[0], dry, ended) == (0, 0, 0)
    assert "outage-back: " in said
    assert row["title"] == "lost"
    assert (desk.row()["title"], desk.row()["severity"]) == ("Checkout is down", "critical")


def test_what_cannot_be_pushed_now_is_left_to_the_inbox(desk: PollDesk) -> None:
    desk.sql("UPDATE outages SET title = 'lost' WHERE id = 1")
    desk.sql("UPDATE hdb_catalog.event_log SET delivered = true")
    desk.graphql.stop()
    ended, said = desk.command("sync", "--since", "2025-11-21", "--push")

    assert ended == 1
    assert "outage-back: retrying hasura_unreachable" in said
    assert desk.inbox() == [desk.ticket()]


def test_in_another_time_zone_the_command_says_so_and_ends_with_1(postgresql: str) -> None:
    with PollDesk(postgresql, time_zone="Europe/Berlin", local_times=True) as desk:
        desk.make(correlation_id="shop:outage:9")
        ended, said = desk.command("sync")

        assert ended == 1
        assert "not read: ServiceNow reads the times of a query in another time zone" in said
        assert desk.marks() == {}


def test_in_another_time_zone_nothing_is_read_since_a_time_either(postgresql: str) -> None:
    with PollDesk(postgresql, local_times=True) as desk:
        desk.open_outage()
        desk.make(correlation_id="shop:outage:8")
        desk.wait(9 * 3600)
        desk.make(correlation_id="shop:outage:9")
        desk.poll()
        desk.set_zone("America/Los_Angeles")
        ended, said = desk.command("sync", "--since", "2025-11-21T08:00:00Z")

        assert ended == 1
        assert "not read: ServiceNow reads the times" in said
        assert " to look at" not in said


def test_a_table_that_no_rule_is_from_is_refused(desk: PollDesk) -> None:
    ended, said = desk.command("sync", "--table", "problem")

    assert (ended, said) == (1, "Error: no rule in the rules file is from servicenow/problem\n")
    assert desk.command("sync", "--table", "incident")[0] == 0


def test_a_time_that_is_none_is_refused(desk: PollDesk) -> None:
    ended, said = desk.command("sync", "--since", "yesterday")

    assert ended == 2
    assert "--since takes an ISO time such as 2026-11-21T08:00:00Z" in said


# Tickets and rows that do not fit


def test_a_copy_of_a_ticket_is_told_by_the_run_that_reads_it(
    desk: PollDesk, caplog: pytest.LogCaptureFixture
) -> None:
    original = desk.incident
    desk.make(correlation_id=original["correlation_id"])
    desk.poll()
    ended, said = desk.command("sync")

    numbers = sorted(row["number"] for row in desk.incidents)
    sentence = f"{', '.join(numbers)} are open and have one correlation_id, shop:outage:1"
    assert ended == 0
    assert sentence in said
    assert sentence in caplog.text


def test_the_next_ticket_of_a_row_is_no_copy(postgresql: str) -> None:
    rules = COLUMNS.replace("      resolve_when:", "      after_close: new\n      resolve_when:", 1)
    with PollDesk(postgresql, rules=rules) as desk:
        desk.open_outage()
        desk.person(state="7", close_code="Solution provided", close_notes="Done")
        desk.settle()
        desk.sql("UPDATE outages SET status = 'fixed'")
        desk.settle()
        desk.sql("UPDATE outages SET status = 'open'")
        desk.settle()
        ended, said = desk.command("sync", "--check-links")

        assert len(desk.incidents) == 2
        assert ended == 0
        assert "correlation_id, shop" not in said
        assert "  1 looked for, 0 problems" in said


def test_links_without_a_ticket_and_copies_are_found_for_every_row(desk: PollDesk) -> None:
    desk.sql(
        "INSERT INTO outages (id, title, severity) "
        "SELECT i, 'x', 'critical' FROM generate_series(2, 120) i"
    )
    desk.settle()
    gone, copied, *_ = desk.incidents
    desk.make(correlation_id=copied["correlation_id"])
    desk.servicenow.remove("incident", gone["sys_id"])
    ended, said = desk.command("sync", "--check-links")

    key = gone["correlation_id"].rpartition(":")[2]
    assert ended == 0
    assert f"  {gone['number']} is not in incident any more" in said
    assert f"it was the ticket of outage/{key}\n" in said
    assert f"are open and have one correlation_id, {copied['correlation_id']}: " in said
    assert "  120 looked for, 2 problems" in said


# Nothing to read


def test_where_no_rule_is_from_servicenow_there_is_nothing_to_read(postgresql: str) -> None:
    with PollDesk(postgresql) as desk:
        desk.start(rules=COLUMNS.partition("  # Back:")[0])

        assert counts(desk.poll()) == {"read": 0, "queued": 0, "worked": 0}
        assert desk.calls() == []
