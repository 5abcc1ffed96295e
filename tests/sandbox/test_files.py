"""Attachments and batches over the wire."""

import base64
import hashlib
import json
from typing import Any

import pytest
import requests

from sandbox.servicenow import ServiceNow
from tests.sandbox.client import HEX, Api, error

CONTENT = b"\x00\r\n--x\xff" + "ü".encode()


def attached(
    api: Api, table: str = "incident", sys_id: str = HEX, name: str = "a b.bin"
) -> requests.Response:
    named = {"file_name": name, "table_name": table, "table_sys_id": sys_id}
    kind = {"Content-Type": "application/x-thing"}
    return api.call("POST", "attachment/file", params=named, headers=kind, data=CONTENT)


class TestAttachments:
    def test_a_file_is_kept_with_a_record(self, api: Api, instance: ServiceNow) -> None:
        api.make(sys_id=HEX)

        answer = attached(api)

        kept = answer.json()["result"]
        assert answer.status_code == 201
        assert (
            answer.headers["Location"] == f"{instance.url}/api/now/attachment/{kept['sys_id']}/file"
        )
        assert kept["hash"] == hashlib.sha256(CONTENT).hexdigest()
        assert (kept["size_bytes"], kept["content_type"]) == (
            str(len(CONTENT)),
            "application/x-thing",
        )
        assert kept["download_link"] == f"{instance.url}/api/now/attachment/{kept['sys_id']}/file"

    def test_a_form_uploads_the_same(self, api: Api) -> None:
        api.make(sys_id=HEX)
        form = {"table_name": "incident", "table_sys_id": HEX}
        files = {"uploadFile": ("photo.png", CONTENT, "image/png")}

        kept = api.call("POST", "v1/attachment/upload", data=form, files=files).json()["result"]

        assert (kept["file_name"], kept["content_type"]) == ("photo.png", "image/png")
        assert kept["hash"] == hashlib.sha256(CONTENT).hexdigest()

    def test_a_file_comes_back_as_it_was_with_what_is_known_of_it(self, api: Api) -> None:
        api.make(sys_id=HEX)
        kept = attached(api).json()["result"]

        answer = api.call("GET", f"attachment/{kept['sys_id']}/file", headers={"Accept": "*/*"})

        assert answer.content == CONTENT
        assert answer.headers["Content-Type"] == "application/x-thing"
        assert json.loads(answer.headers["X-Attachment-Metadata"])["size_bytes"] == str(
            len(CONTENT)
        )
        assert "a%20b.bin" in answer.headers["Content-Disposition"]

    def test_attachments_are_listed_by_a_query_and_counted(self, api: Api) -> None:
        api.make(sys_id=HEX)
        for name in ("one", "two", "three"):
            attached(api, name=name)

        query = f"table_sys_id={HEX}^file_name!=one^ORDERBYfile_name"
        answer = api.call(
            "GET", "attachment", params={"sysparm_query": query, "sysparm_limit": "1"}
        )

        assert [row["file_name"] for row in answer.json()["result"]] == ["three"]
        assert answer.headers["X-Total-Count"] == "2"

    def test_an_attachment_is_deleted_alone_or_with_its_record(
        self, api: Api, instance: ServiceNow
    ) -> None:
        api.make(sys_id=HEX)
        one, _ = (attached(api).json()["result"]["sys_id"] for _ in range(2))

        deleted = api.call("DELETE", f"attachment/{one}")
        assert (deleted.status_code, len(instance.rows("sys_attachment"))) == (204, 1)
        assert api.call("GET", f"attachment/{one}/file").status_code == 404

        api.call("DELETE", f"table/incident/{HEX}")
        assert instance.rows("sys_attachment") == []

    @pytest.mark.parametrize(
        ("table", "sys_id", "status"),
        [("incident", HEX, 404), ("nothing", HEX, 400), ("", HEX, 400), ("incident", "", 400)],
    )
    def test_a_file_for_no_record_is_refused(
        self, api: Api, table: str, sys_id: str, status: int
    ) -> None:
        assert attached(api, table, sys_id).status_code == status

    def test_a_form_without_a_file_is_refused(self, api: Api) -> None:
        assert (
            error(api.call("POST", "attachment/upload", data={"table_name": "incident"}))[0] == 400
        )


class TestBatch:
    @pytest.fixture
    def batch(self, api: Api) -> Any:
        def send(*items: dict[str, Any]) -> Any:
            answer = api.call(
                "POST", "v1/batch", {"batch_request_id": 7, "rest_requests": list(items)}
            )
            assert answer.status_code == 200, answer.text
            return answer.json()

        return send

    def item(
        self, place: str, method: str, url: str, body: object = None, **more: Any
    ) -> dict[str, Any]:
        headers = [{"name": "Content-Type", "value": "application/json"}]
        sent = (
            {"body": base64.b64encode(json.dumps(body).encode()).decode()}
            if body is not None
            else {}
        )
        return {"id": place, "method": method, "url": url, "headers": headers, **sent, **more}

    def test_each_item_is_answered_for_itself(self, batch: Any, instance: ServiceNow) -> None:
        told = batch(
            self.item("a", "POST", "/api/now/table/incident", {"sys_id": HEX}),
            self.item("b", "POST", "/api/now/table/incident", {"sys_id": HEX}),
            self.item("c", "GET", f"/api/now/table/incident/{HEX}?sysparm_fields=sys_id"),
            self.item("d", "GET", "/api/now/table/incident", exclude_response_headers=True),
            self.item("e", "DELETE", f"/api/now/table/incident/{HEX}"),
            self.item("f", "GET", "/api/now/nothing"),
        )

        served = told["serviced_requests"]
        assert (told["batch_request_id"], told["unserviced_requests"]) == ("7", [])
        assert [one["id"] for one in served] == ["a", "b", "c", "d", "e", "f"]
        assert [one["status_code"] for one in served] == [201, 403, 200, 200, 204, 400]
        assert served[0]["status_text"] == "Created"
        assert json.loads(base64.b64decode(served[2]["body"])) == {"result": {"sys_id": HEX}}
        assert "Location" in {header["name"] for header in served[0]["headers"]}
        assert "headers" not in served[3]
        assert instance.rows("incident") == []

    def test_what_does_not_fit_comes_back_and_can_be_sent_again(
        self, batch: Any, instance: ServiceNow
    ) -> None:
        instance.batch_items_max = 2
        items = [self.item(str(place), "POST", "/api/now/table/incident", {}) for place in range(3)]

        told = batch(*items)

        assert [one["id"] for one in told["serviced_requests"]] == ["0", "1"]
        assert told["unserviced_requests"] == ["2"]
        assert len(instance.rows("incident")) == 2

    def test_an_item_meets_faults_and_may_get_no_answer(
        self, batch: Any, instance: ServiceNow
    ) -> None:
        instance.arm("commit_then_500", method="POST")
        instance.arm("commit_then_reset", method="POST")
        items = [self.item(str(place), "POST", "/api/now/table/incident", {}) for place in range(3)]

        told = batch(*items)

        assert [one["status_code"] for one in told["serviced_requests"]] == [500, 201]
        assert told["unserviced_requests"] == ["1"]
        assert len(instance.rows("incident")) == 3

    def test_an_item_over_five_megabytes_is_refused(self, batch: Any) -> None:
        [told] = batch(
            self.item("a", "POST", "/api/now/table/incident", {"description": "x" * 5_300_000})
        )["serviced_requests"]

        assert told["status_code"] == 400

    def test_a_batch_in_a_batch_is_none(self, batch: Any) -> None:
        [told] = batch(self.item("a", "POST", "/api/now/v1/batch", {}))["serviced_requests"]

        assert told["status_code"] == 400

    @pytest.mark.parametrize(
        "body",
        [{}, {"rest_requests": 7}, {"rest_requests": [7]}, {"rest_requests": [{"body": "ü"}]}],
    )
    def test_a_batch_that_is_none_is_refused(self, api: Api, body: dict[str, Any]) -> None:
        assert error(api.call("POST", "batch", body))[:2] == (
            400,
            "Exception while reading request",
        )

    def test_every_item_is_a_call(self, batch: Any, instance: ServiceNow) -> None:
        batch(self.item("a", "POST", "/api/now/table/incident", {}))

        assert [(call.method, call.table, call.status) for call in instance.calls] == [
            ("POST", "incident", 201),
            ("POST", "", 200),
        ]
