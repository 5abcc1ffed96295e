"""examples/two-way.yaml, as `make run RULES_FILE=examples/two-way.yaml PROJECT=examples/two-way`
runs it: a row and its incident, both ways; a person uses ServiceNow's pages."""

from collections.abc import Iterator

import pytest

from tests.examples.run import OutageRun, wait_for

COMMENT = "INSERT INTO outage_comments (outage_id, author, body) VALUES (%s, 'ada', %s)"


@pytest.fixture(scope="module")
def run() -> Iterator[OutageRun]:
    with OutageRun() as run:
        yield run


def test_a_row_has_the_number_of_its_incident(run: OutageRun) -> None:
    row = run.open_outage("Checkout is down")

    [incident] = run.records("incident", f"number={row['ticket_number']}")
    assert (incident["short_description"], incident["impact"]) == ("Checkout is down", "2")


def test_what_a_person_changes_there_the_row_says_too(run: OutageRun) -> None:
    row = run.open_outage("Search is slow")

    number = row["ticket_number"]
    run.play(f"{number}/change", impact="1", was_impact="2", short_description="Search is down")
    run.play(f"{number}/resolve", close_code="Solution provided", close_notes="Built the index.")
    changed = wait_for(lambda: new if (new := run.row(row["id"]))["status"] == "fixed" else None)

    assert (changed["title"], changed["severity"]) == ("Search is down", "critical")
    assert changed["resolution"] == "Built the index."


def test_comments_go_both_ways_once(run: OutageRun) -> None:
    row = run.open_outage("Mails are late")
    where = f"element_id={run.records('incident', 'number=' + row['ticket_number'])[0]['sys_id']}"

    run.sql(COMMENT, row["id"], "How long?")
    wait_for(lambda: run.records("sys_journal_field", where))
    run.play(f"{row['ticket_number']}/comment", text="An hour, I think.", kind="comments")
    wait_for(lambda: run.comments(row["id"])[1:])
    run.sql(COMMENT, row["id"], "Thank you.")
    wait_for(lambda: run.records("sys_journal_field", where)[2:])

    assert run.comments(row["id"]) == [
        ("ada", "How long?"),
        ("admin", "An hour, I think."),
        ("ada", "Thank you."),
    ]
    entries = [entry["value"] for entry in run.records("sys_journal_field", where)]
    assert sorted(entry.partition("\n")[0] for entry in entries) == [
        "An hour, I think.",
        "ada: How long?",
        "ada: Thank you.",
    ]


def test_an_incident_that_begins_there_is_a_row_whose_id_is_answered(run: OutageRun) -> None:
    incident = run.open_incident("Prices are wrong")
    row = run.row_of(incident)
    [answer] = wait_for(lambda: run.answers(incident["sys_id"]))

    assert (row["title"], row["details"]) == ("Prices are wrong", "All in cents.")
    assert (row["severity"], row["ticket_number"]) == ("critical", incident["number"])
    assert [outcome["answer"] for outcome in answer["outcomes"] if "answer" in outcome] == [
        row["id"]
    ]


def test_a_row_that_began_there_keeps_its_incident_both_ways(run: OutageRun) -> None:
    incident = run.open_incident("Receipts are blank")
    row = run.row_of(incident)
    ours = f"correlation_id=sandbox:outage:{row['id']}"

    wait_for(lambda: run.records("incident", ours))
    run.sql("UPDATE outages SET title = 'Receipts have no sum' WHERE id = %s", row["id"])
    wait_for(lambda: run.records("incident", f"{ours}^short_description=Receipts have no sum"))
    run.play(
        f"{incident['number']}/resolve", close_code="Solution provided", close_notes="Reprinted."
    )
    fixed = wait_for(lambda: new if (new := run.row(row["id"]))["status"] == "fixed" else None)

    assert fixed["resolution"] == "Reprinted."
    [there] = run.records("incident", "short_descriptionSTARTSWITHReceipts")
    assert (there["number"], there["description"]) == (incident["number"], "All in cents.")
