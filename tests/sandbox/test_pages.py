"""A person plays ServiceNow with the sandbox's pages."""

import re
from html import unescape

import pytest
import requests

from sandbox.servicenow import ServiceNow
from tests.sandbox.client import Api, group, user


def posted(instance: ServiceNow, path: str, **form: str) -> requests.Response:
    return requests.post(f"{instance.url}{path}", data=form, timeout=5, allow_redirects=False)


def test_a_button_resolves_an_incident_and_leads_back(api: Api, instance: ServiceNow) -> None:
    made = api.make(short_description="Link down")
    where = f"/incidents/{made['number']}"
    assert 'action="' + where + '/resolve"' in requests.get(instance.url + where, timeout=5).text

    answer = posted(instance, f"{where}/resolve", close_code="Known error", close_notes="See KB1")

    [row] = instance.rows("incident")
    assert (answer.status_code, answer.headers["Location"]) == (303, where)
    assert (row["state"], row["close_code"], row["close_notes"], row["sys_updated_by"]) == (
        "6",
        "Known error",
        "See KB1",
        "admin",
    )
    assert "/resolve" not in requests.get(instance.url + where, timeout=5).text


@pytest.mark.parametrize("kind", ["comments", "work_notes"])
def test_a_button_adds_to_the_journal(api: Api, instance: ServiceNow, kind: str) -> None:
    made = api.make()

    answer = posted(instance, f"/incidents/{made['number']}/comment", text="Grüße & <b>", kind=kind)

    assert answer.status_code == 303
    [entry] = instance.rows("sys_journal_field")
    assert (entry["element"], entry["value"], entry["sys_created_by"]) == (
        kind,
        "Grüße & <b>",
        "admin",
    )


def form_of(instance: ServiceNow, number: str) -> dict[str, str]:
    """What a browser sends of the form that changes an incident, if nobody touches it."""
    page = requests.get(f"{instance.url}/incidents/{number}", timeout=5).text
    form = page.partition("/change")[2].partition("</form>")[0]
    sent = dict(re.findall(r'<input (?:type="hidden" )?name="(\w+)" value="([^"]*)"', form))
    for name, options in re.findall(r'<select name="(\w+)">(.*?)</select>', form, re.DOTALL):
        [sent[name]] = re.findall(r'<option value="([^"]*)" selected', options)
    return sent


def test_a_form_changes_what_people_change(api: Api, instance: ServiceNow) -> None:
    made = api.make(short_description="Link & down", hold_reason="3")
    network, beth = group(instance, "Network"), user(instance, "beth.anglin")
    form = {name: unescape(value) for name, value in form_of(instance, made["number"]).items()}

    changed = {"state": "2", "assignment_group": network, "assigned_to": beth, "impact": "1"}
    answer = posted(instance, f"/incidents/{made['number']}/change", **form | changed)

    [row] = instance.rows("incident")
    assert answer.status_code == 303
    assert {name: row[name] for name in changed} == changed
    assert (row["short_description"], row["hold_reason"]) == ("Link & down", "3")
    assert (row["sys_updated_by"], row["sys_mod_count"]) == ("admin", "1")


def test_a_form_that_was_open_for_a_while_undoes_nothing(api: Api, instance: ServiceNow) -> None:
    made = api.make(short_description="Link down")
    form = form_of(instance, made["number"])
    api.patch(made["sys_id"], short_description="Link up again", state="2")

    posted(instance, f"/incidents/{made['number']}/change", **form | {"urgency": "1"})

    [row] = instance.rows("incident")
    assert (row["short_description"], row["state"], row["urgency"]) == ("Link up again", "2", "1")


def test_a_form_that_changes_nothing_is_no_write(api: Api, instance: ServiceNow) -> None:
    made = api.make(assigned_to=user(instance, "beth.anglin"))

    posted(instance, f"/incidents/{made['number']}/change", **form_of(instance, made["number"]))

    assert instance.rows("incident")[0]["sys_mod_count"] == "0"


def test_a_form_can_take_an_incident_from_its_assignee(api: Api, instance: ServiceNow) -> None:
    made = api.make(assigned_to=user(instance, "beth.anglin"))

    page = requests.get(f"{instance.url}/incidents/{made['number']}", timeout=5).text

    assignees = page.partition('<select name="assigned_to">')[2].partition("</select>")[0]
    assert '<option value="">' in assignees


def test_a_value_that_is_no_choice_stays_as_it_is(api: Api, instance: ServiceNow) -> None:
    made = api.make(state="42", assigned_to="0" * 32)

    form = form_of(instance, made["number"])

    assert (form["state"], form["assigned_to"]) == ("42", "0" * 32)


def test_what_the_platform_refuses_is_said_on_the_page(api: Api, instance: ServiceNow) -> None:
    made = api.make()

    page = requests.post(
        f"{instance.url}/incidents/{made['number']}/resolve", data={"close_notes": ""}, timeout=5
    )

    assert "The following fields are mandatory: Resolution code, Resolution notes" in page.text
    assert instance.rows("incident")[0]["state"] == "1"


def test_faults_are_switched_on_and_off(api: Api, instance: ServiceNow) -> None:
    answers = [
        posted(instance, "/faults/arm", name="error_500", times="2"),
        posted(instance, "/faults/arm", name="adc_502", times=""),
        posted(instance, "/faults/arm", name="mfa_401", times="1"),
    ]

    assert [(answer.status_code, answer.headers["Location"]) for answer in answers] == [
        (303, "/faults")
    ] * 3
    assert [(fault.name, fault.times) for fault in instance.armed()] == [
        ("error_500", 2),
        ("adc_502", None),
        ("mfa_401", 1),
    ]
    page = requests.get(f"{instance.url}/faults", timeout=5).text
    assert "adc_502" in page
    assert "always" in page
    assert "Faults: 3 on" in requests.get(f"{instance.url}/incidents", timeout=5).text
    posted(instance, "/faults/disarm", name="adc_502")
    assert [fault.name for fault in instance.armed()] == ["error_500", "mfa_401"]
    posted(instance, "/faults/disarm")
    assert "no fault is on" in requests.get(f"{instance.url}/faults", timeout=5).text
    assert api.call("GET", "table/incident").status_code == 200


@pytest.mark.parametrize(
    "form", [{"name": "flood"}, {"name": "slow", "times": "0"}, {"name": "slow", "times": "x"}, {}]
)
def test_a_fault_that_is_none_is_said_on_the_page(
    instance: ServiceNow, form: dict[str, str]
) -> None:
    page = requests.post(f"{instance.url}/faults/arm", data=form, timeout=5)

    assert page.status_code == 200
    assert 'class="said"' in page.text
    assert instance.armed() == []


def test_a_page_of_another_site_cannot_play(api: Api, instance: ServiceNow) -> None:
    made = api.make()
    path = f"{instance.url}/incidents/{made['number']}/comment"

    answers = [
        requests.post(
            path, data={"text": "x"}, headers={"Origin": origin}, timeout=5, allow_redirects=False
        )
        for origin in ("https://example.com", "null", instance.url)
    ]

    assert [answer.status_code for answer in answers] == [403, 403, 303]
    assert len(instance.rows("sys_journal_field")) == 1


@pytest.mark.parametrize(
    "path", ["/incidents/INC9/resolve", "/incidents", "/faults", "/faults/x", "/nothing"]
)
def test_a_form_for_nothing_is_refused(instance: ServiceNow, path: str) -> None:
    assert posted(instance, path).status_code in {404, 405}


def test_a_page_on_which_one_types_does_not_refresh_itself(api: Api, instance: ServiceNow) -> None:
    made = api.make()

    for path in (f"/incidents/{made['number']}", "/faults"):
        assert "http-equiv" not in requests.get(instance.url + path, timeout=5).text


def test_a_person_makes_an_incident_and_is_led_to_its_page(instance: ServiceNow) -> None:
    software = group(instance, "Software")
    page = requests.get(f"{instance.url}/incidents/new", timeout=5).text
    chosen = re.findall(r'<option value="([^"]*)" selected', page)

    answer = posted(
        instance,
        "/incidents/new",
        short_description="Prices <are> wrong",
        description="All in cents.",
        impact="1",
        assignment_group=software,
        correlation_id="shop:1",
    )

    [row] = instance.rows("incident")
    assert chosen == ["3", "3", ""]
    assert (answer.status_code, answer.headers["Location"]) == (303, f"/incidents/{row['number']}")
    assert (row["short_description"], row["description"]) == ("Prices <are> wrong", "All in cents.")
    assert (row["impact"], row["assignment_group"], row["sys_created_by"]) == (
        "1",
        software,
        "admin",
    )
    assert row["correlation_id"] == ""
    assert 'href="/incidents/new"' in requests.get(f"{instance.url}/incidents", timeout=5).text


def test_a_new_incident_that_another_sites_form_asks_for_is_not_made(instance: ServiceNow) -> None:
    answer = requests.post(
        f"{instance.url}/incidents/new",
        data={"short_description": "x"},
        headers={"Origin": "http://elsewhere.example"},
        timeout=5,
    )

    assert answer.status_code == 403
    assert instance.rows("incident") == []
