"""A person plays ServiceNow with the sandbox's pages."""

import pytest
import requests

from sandbox.servicenow import ServiceNow
from tests.sandbox.client import Api


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
