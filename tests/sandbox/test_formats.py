"""JSON where nothing is said, XML where it is asked for, and addresses of the version that was
asked."""

import json
from typing import Any
from xml.etree import ElementTree

import pytest
import requests

from sandbox.servicenow import ServiceNow
from tests.sandbox.client import HEX, Api, error

XML = {"Content-Type": "application/xml", "Accept": "application/xml"}


@pytest.fixture
def bare(api: Api) -> Api:
    """A client that says nothing of formats, as ServiceNow's asynchronous one."""
    api.session.headers.clear()
    # Else requests says that it accepts anything.
    api.session.headers["Accept"] = None  # type: ignore[assignment]
    return api


def tree(answer: requests.Response) -> ElementTree.Element:
    assert answer.headers["Content-Type"] == "application/xml;charset=UTF-8"
    assert answer.content.startswith(b"<?xml version='1.0' encoding='UTF-8'?>")
    return ElementTree.fromstring(answer.content)  # noqa: S314  # of the sandbox's own making


def texts(element: ElementTree.Element) -> dict[str, str]:
    return {child.tag: child.text or "" for child in element}


class TestNothingSaid:
    def test_a_list_is_json(self, bare: Api) -> None:
        answer = bare.call("GET", "table/problem?sysparm_limit=1")

        assert "Accept" not in answer.request.headers
        assert answer.headers["Content-Type"] == "application/json;charset=UTF-8"
        assert len(answer.json()["result"]) == 1

    @pytest.mark.parametrize("method", ["POST", "PUT", "PATCH"])
    def test_a_body_of_no_type_is_read_as_json(
        self, bare: Api, instance: ServiceNow, method: str
    ) -> None:
        bare.make(sys_id=HEX)
        path = "table/incident" if method == "POST" else f"table/incident/{HEX}"

        answer = bare.call(method, path, data=b'{"short_description": "Printer on fire"}')

        assert "Content-Type" not in answer.request.headers
        assert answer.json()["result"]["short_description"] == "Printer on fire"

    def test_a_post_without_a_body_makes_a_record(self, bare: Api, instance: ServiceNow) -> None:
        answer = bare.call("POST", "table/incident")

        assert answer.status_code == 201
        assert [row["sys_id"] for row in instance.rows("incident")] == [
            answer.json()["result"]["sys_id"]
        ]

    def test_a_patch_without_a_body_changes_nothing(self, bare: Api, instance: ServiceNow) -> None:
        bare.make(sys_id=HEX)

        answer = bare.call("PATCH", f"table/incident/{HEX}")

        assert (answer.status_code, answer.json()["result"]["sys_mod_count"]) == (200, "0")

    def test_an_error_is_json(self, bare: Api) -> None:
        assert error(bare.call("GET", f"table/incident/{HEX}"))[:2] == (404, "No Record found")

    @pytest.mark.parametrize(
        ("method", "path", "status"),
        [
            ("GET", "attachment", 200),
            ("GET", "v1/attachment", 200),
            ("DELETE", f"table/incident/{HEX}", 204),
            ("HEAD", "table/incident", 200),
        ],
    )
    def test_other_calls_need_no_accept_either(
        self, bare: Api, method: str, path: str, status: int
    ) -> None:
        bare.make(sys_id=HEX)

        assert bare.call(method, path).status_code == status

    def test_a_batch_needs_neither(self, bare: Api) -> None:
        body = json.dumps(
            {
                "batch_request_id": "1",
                "rest_requests": [{"id": "a", "url": "/api/now/table/incident"}],
            }
        )

        answer = bare.call("POST", "v1/batch", data=body.encode())

        assert [item["status_code"] for item in answer.json()["serviced_requests"]] == [200]

    def test_a_change_request_needs_neither(self, bare: Api) -> None:
        answer = bare.ask("POST", "/api/sn_chg_rest/change/normal")

        assert (answer.status_code, answer.json()["result"]["type"]["value"]) == (200, "normal")


class TestAccept:
    @pytest.mark.parametrize(
        ("accept", "kind"),
        [
            ("application/json", "json"),
            ("application/json;charset=utf-8", "json"),
            ("APPLICATION/JSON", "json"),
            ("application/*", "json"),
            ("text/html, */*;q=0.1", "json"),
            ("application/xml", "xml"),
            ("text/xml", "xml"),
            ("application/json;q=0.4, application/xml;q=0.5", "xml"),
            ("application/xml, application/json", "json"),
            ("text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", "xml"),
            ("application/json;q=0, */*", "xml"),
        ],
    )
    def test_the_preferred_format_is_answered(self, api: Api, accept: str, kind: str) -> None:
        answer = api.call("GET", "table/incident", headers={"Accept": accept})

        assert answer.headers["Content-Type"] == f"application/{kind};charset=UTF-8"

    @pytest.mark.parametrize(
        "accept", ["text/html", "image/*", "application/json;q=0", "json", "text/csv"]
    )
    def test_another_format_is_refused(self, api: Api, accept: str) -> None:
        answer = api.call("GET", "table/incident", headers={"Accept": accept})

        assert error(answer)[:2] == (406, "Not Acceptable")

    @pytest.mark.parametrize(
        "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data"]
    )
    def test_a_body_of_another_type_is_refused(
        self, api: Api, instance: ServiceNow, kind: str
    ) -> None:
        answer = api.call("POST", "table/incident", data=b"{}", headers={"Content-Type": kind})

        assert error(answer)[:2] == (415, "Unsupported Media Type")
        assert instance.rows("incident") == []

    def test_a_batch_is_json_alone(self, api: Api) -> None:
        assert (
            api.call("POST", "batch", {}, headers={"Accept": "application/xml"}).status_code == 406
        )
        assert (
            api.call(
                "POST", "batch", data=b"<request/>", headers={"Content-Type": "text/xml"}
            ).status_code
            == 415
        )


class TestXml:
    def test_a_list_has_a_result_for_each_record(self, api: Api) -> None:
        first, second = (
            api.make(short_description="a < b & c"),
            api.make(short_description="\x01 \U0001f525"),
        )

        answer = api.call(
            "GET", "table/incident?sysparm_fields=sys_id,short_description", headers=XML
        )

        root = tree(answer)
        assert (root.tag, answer.headers["X-Total-Count"]) == ("response", "2")
        assert [(child.tag, texts(child)) for child in root] == [
            ("result", {"sys_id": first["sys_id"], "short_description": "a < b & c"}),
            ("result", {"sys_id": second["sys_id"], "short_description": " \U0001f525"}),
        ]

    def test_an_empty_list_is_an_empty_response(self, api: Api) -> None:
        root = tree(api.call("GET", "table/incident", headers=XML))

        assert (root.tag, len(root)) == ("response", 0)

    def test_a_reference_has_its_link_and_its_value(self, api: Api) -> None:
        made = api.make()

        root = tree(api.call("GET", f"table/incident/{made['sys_id']}", headers=XML))

        [opened_by] = root.findall("result/opened_by")
        assert [child.tag for child in opened_by] == ["link", "value"]
        assert opened_by.findtext("value") == made["opened_by"]

    @pytest.mark.parametrize(
        "body",
        [
            (
                "<request><entry><short_description>Ä &lt; "
                "B</short_description><urgency>1</urgency></entry></request>"
            ),
            (
                "<request><short_description>Ä &lt; "
                "B</short_description><urgency>1</urgency></request>"
            ),
            "<?xml version='1.0'?><request><entry><short_description>Ä &lt; "
            "B</short_description><urgency>1</urgency>"
            "<description/></entry><entry><short_description>ignored</short_description></entry></request>",
        ],
    )
    def test_a_body_in_xml_makes_a_record(self, api: Api, instance: ServiceNow, body: str) -> None:
        answer = api.call("POST", "table/incident", data=body.encode(), headers=XML)

        assert answer.status_code == 201
        [row] = instance.rows("incident")
        assert (row["short_description"], row["urgency"]) == ("Ä < B", "1")
        assert tree(answer).findtext("result/sys_id") == row["sys_id"]

    @pytest.mark.parametrize("body", [b"<request/>", b"<request><entry/></request>", b""])
    def test_a_body_in_xml_may_be_empty(self, api: Api, body: bytes) -> None:
        assert api.call("POST", "table/incident", data=body, headers=XML).status_code == 201

    def test_a_body_in_xml_can_be_answered_in_json(self, api: Api) -> None:
        made = api.make()
        body = b"<request><entry><urgency>1</urgency></entry></request>"

        answer = api.call(
            "PATCH",
            f"table/incident/{made['sys_id']}",
            data=body,
            headers={"Content-Type": "text/xml"},
        )

        assert answer.json()["result"]["urgency"] == "1"

    @pytest.mark.parametrize(
        "body",
        [
            b"<request>",
            b"{}",
            b"<other/>",
            b"<request><entry>" + b"<a>" * 100 + b"</a>" * 100 + b"</entry></request>",
            (
                b"<!DOCTYPE request [<!ENTITY a "
                b"'aaaa'>]><request><entry><description>&a;</description></entry></request>"
            ),
            (
                "<!DOCTYPE request [<!ENTITY a "
                "'a'>]><request><description>&a;</description></request>"
            ).encode("utf-16"),
            b"<?xml version='1.0' encoding='nonsense'?><request/>",
            b"\xff\xfe\x00",
        ],
    )
    def test_a_body_that_is_no_request_is_400(
        self, api: Api, instance: ServiceNow, body: bytes
    ) -> None:
        answer = api.call(
            "POST", "table/incident", data=body, headers={"Content-Type": "application/xml"}
        )

        assert error(answer)[:2] == (400, "Exception while reading request")
        assert instance.rows("incident") == []

    def test_an_error_has_the_same_parts(self, api: Api) -> None:
        answer = api.call("GET", f"table/incident/{HEX}", headers=XML)

        root = tree(answer)
        assert (answer.status_code, root.findtext("status")) == (404, "failure")
        assert root.findtext("error/message") == "No Record found"

    def test_a_login_that_fails_is_told_in_xml_too(self, api: Api) -> None:
        answer = api.call("GET", "table/incident", headers=XML, auth=("nobody", "x"))

        assert (answer.status_code, tree(answer).findtext("error/message")) == (
            401,
            "User is not authenticated",
        )

    def test_what_is_known_of_a_file_comes_in_xml_and_the_file_as_it_is(self, api: Api) -> None:
        made = api.make()
        named = {"file_name": "a.txt", "table_name": "incident", "table_sys_id": made["sys_id"]}
        kind = {"Content-Type": "text/plain", "Accept": "application/xml"}

        root = tree(api.call("POST", "attachment/file", params=named, headers=kind, data=b"<x/>"))

        kept = api.call(
            "GET",
            f"attachment/{root.findtext('result/sys_id')}/file",
            headers={"Accept": "text/plain"},
        )
        assert (kept.content, root.findtext("result/file_name")) == (b"<x/>", "a.txt")

    def test_the_states_of_a_change_keep_their_numbers(self, api: Api) -> None:
        made = api.ask("POST", "/api/sn_chg_rest/change/normal", {}).json()["result"]["sys_id"][
            "value"
        ]

        root = tree(api.ask("GET", f"/api/sn_chg_rest/change/{made}/nextstates", headers=XML))

        assert [state.text for state in root.findall("result/available_states")] == [
            "-5",
            "-4",
            "4",
        ]
        assert root.findtext("result/state_label/_-5") == "New"

    def test_an_item_of_a_batch_is_answered_in_its_own_format(self, api: Api) -> None:
        accept = [{"name": "Accept", "value": "application/xml"}]
        items = [
            {"id": "x", "method": "GET", "url": "/api/now/table/incident", "headers": accept},
            {"id": "j", "method": "GET", "url": "/api/now/table/incident"},
        ]

        served = api.call(
            "POST", "v1/batch", {"batch_request_id": "1", "rest_requests": items}
        ).json()

        kinds = [
            header["value"].partition(";")[0]
            for item in served["serviced_requests"]
            for header in item["headers"]
            if header["name"] == "Content-Type"
        ]
        assert kinds == ["application/xml", "application/json"]


class TestVersions:
    @pytest.mark.parametrize("version", ["", "v1/", "v2/"])
    def test_addresses_are_of_the_version_that_was_asked(
        self, api: Api, instance: ServiceNow, version: str
    ) -> None:
        base = f"{instance.url}/api/now/{version}"

        answer = api.call("POST", f"{version}table/incident", {})

        made: dict[str, Any] = answer.json()["result"]
        assert answer.headers["Location"] == f"{base}table/incident/{made['sys_id']}"
        assert made["opened_by"]["link"] == f"{base}table/sys_user/{made['opened_by']['value']}"

    @pytest.mark.parametrize("version", ["", "v1/", "v2/"])
    @pytest.mark.parametrize("way", ["file", "upload"])
    def test_the_location_of_an_attachment_is_its_file(
        self, api: Api, instance: ServiceNow, version: str, way: str
    ) -> None:
        made = api.make()
        named = {"table_name": "incident", "table_sys_id": made["sys_id"]}
        if way == "file":
            answer = api.call(
                "POST", f"{version}attachment/file", params=named | {"file_name": "a"}, data=b"x"
            )
        else:
            answer = api.call(
                "POST", f"{version}attachment/upload", data=named, files={"a": ("a", b"x")}
            )

        sys_id = answer.json()["result"]["sys_id"]
        assert (
            answer.headers["Location"]
            == f"{instance.url}/api/now/{version}attachment/{sys_id}/file"
        )
        assert api.ask("GET", answer.headers["Location"].removeprefix(instance.url)).content == b"x"
