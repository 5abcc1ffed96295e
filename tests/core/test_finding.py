"""A finding is a sentence for people and an object for programs, with the same parts."""

from function.core.finding import FaultsError, FileLocation, Finding, Level

LINE = FileLocation("rules.yaml", 17, "rules[0].ticket")


def test_a_finding_of_a_file_is_told_with_its_line_and_as_it_was_written() -> None:
    found = Finding(Level.FAULT, LINE.key("table"), "is not the name of a table", end="")

    assert str(found) == "rules.yaml:17: rules[0].ticket.table: is not the name of a table"
    assert found.line == 17


def test_a_finding_of_a_setting_reads_on_from_its_name() -> None:
    found = Finding(Level.FAULT, "SOURCE_NAME", "must be set", sep=" ")

    assert str(found) == "SOURCE_NAME must be set."
    assert found.line is None


def test_a_remedy_is_a_sentence_of_its_own() -> None:
    place = "https://dev1.service-now.com"
    question = Finding(Level.FAULT, place, "there is no field catgory", "Did you mean category?")
    demand = Finding(Level.FAULT, place, "there is no field catgory", "Take it out")

    assert str(question) == f"{place}: there is no field catgory. Did you mean category?"
    assert str(demand) == f"{place}: there is no field catgory. Take it out."


def test_what_ends_in_a_period_is_not_given_another() -> None:
    found = Finding(Level.NOTE, "https://dev1.service-now.com", "ServiceNow accepts svc.hasura.")

    assert str(found) == "https://dev1.service-now.com: ServiceNow accepts svc.hasura."


def test_as_json_it_has_its_parts_without_the_last_period() -> None:
    found = Finding(Level.WARNING, LINE, "lacks a key.", "Add one.")

    assert found.to_json() == {
        "level": "warning",
        "where": "rules.yaml:17: rules[0].ticket",
        "line": 17,
        "what": "lacks a key",
        "do": "Add one",
    }


def test_an_error_of_several_faults_has_one_a_line() -> None:
    faults = [Finding(Level.FAULT, name, "must be set", sep=" ") for name in ("A", "B")]
    error = FaultsError(*faults)

    assert str(error) == "A must be set.\nB must be set."
    assert error.faults == tuple(faults)
