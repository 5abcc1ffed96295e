"""ServiceNow's own Python client, unmodified, takes the sandbox for an instance:
https://github.com/ServiceNow/PySNC."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
from pysnc import ServiceNowClient
from pysnc.auth import ServiceNowPasswordGrantFlow
from pysnc.exceptions import AuthenticationException, RequestException, RoleException

from sandbox.servicenow import ServiceNow
from sandbox.tables import ADMIN
from tests.conformance.conftest import Connect

GUID = "AAAABBBBCCCCDDDDEEEEFFFF00001111"


def made(client: ServiceNowClient, table: str = "incident", **fields: str) -> Any:
    record = client.GlideRecord(table)
    record.initialize()
    for name, value in (fields or {"short_description": "Link down"}).items():
        record.set_value(name, value)
    assert record.insert()
    return record


def found(
    client: ServiceNowClient, query: str, table: str = "incident", field: str = "number"
) -> list[str]:
    record = client.GlideRecord(table)
    record.add_encoded_query(query)
    record.query()
    return [str(row.get_value(field)) for row in record]


class TestRecords:
    def test_an_insert_gives_back_the_whole_record(
        self, client: ServiceNowClient, instance: ServiceNow
    ) -> None:
        record = made(client, short_description="Link down")

        assert record.number.get_value().startswith("INC")
        assert instance.rows("incident")[0]["sys_id"] == record.sys_id

    def test_a_record_without_a_field_is_made(
        self, client: ServiceNowClient, instance: ServiceNow
    ) -> None:
        record = client.GlideRecord("incident")
        record.initialize()

        # This client then sends no body, and no Content-Type.
        assert record.insert() == instance.rows("incident")[0]["sys_id"]

    def test_a_record_is_got_by_its_id_and_by_a_field(self, client: ServiceNowClient) -> None:
        record = made(client, short_description="Link down")
        by_id, by_number = client.GlideRecord("incident"), client.GlideRecord("incident")

        assert by_id.get(record.sys_id)
        assert by_number.get("number", record.get_value("number"))
        assert by_id.get_value("sys_id") == by_number.get_value("sys_id") == record.sys_id

    def test_a_record_that_is_not_there_is_not_got(self, client: ServiceNowClient) -> None:
        record = client.GlideRecord("incident")

        assert not record.get(GUID)
        assert not record.get("number", "INC9999999")

    def test_an_update_sends_the_changes_and_keeps_the_rest(
        self, client: ServiceNowClient, instance: ServiceNow
    ) -> None:
        record = made(client, short_description="Link down", description="Port 3")
        record.short_description = "Link up"

        assert record.update()

        [row] = instance.rows("incident")
        assert (row["short_description"], row["description"], row["sys_mod_count"]) == (
            "Link up",
            "Port 3",
            "1",
        )

    def test_a_deleted_record_is_gone(self, client: ServiceNowClient, instance: ServiceNow) -> None:
        record = made(client)

        assert record.delete()
        assert instance.rows("incident") == []

    def test_a_guid_of_the_client_s_own_is_honoured_once_and_again_after_a_delete(
        self, client: ServiceNowClient
    ) -> None:
        for _ in range(2):
            record = client.GlideRecord("problem")
            record.initialize()
            record.set_new_guid_value(GUID)
            assert record.insert() == GUID
            again = client.GlideRecord("problem")
            again.initialize()
            again.set_new_guid_value(GUID)
            with pytest.raises(RoleException, match="Error during insert of problem"):
                again.insert()
            assert record.delete()

    def test_many_records_are_deleted_at_once(
        self, client: ServiceNowClient, instance: ServiceNow
    ) -> None:
        for number in range(7):
            made(client, short_description=f"Noise {number}")
        kept = made(client, short_description="Kept")
        noise = client.GlideRecord("incident")
        noise.add_query("short_description", "STARTSWITH", "Noise")
        noise.query()

        assert noise.delete_multiple()
        assert [row["sys_id"] for row in instance.rows("incident")] == [kept.sys_id]

    def test_many_records_are_updated_at_once(
        self, client: ServiceNowClient, instance: ServiceNow
    ) -> None:
        for number in range(7):
            made(client, short_description=f"Noise {number}")
        noise = client.GlideRecord("incident")
        noise.add_query("short_description", "STARTSWITH", "Noise")
        noise.query()
        for row in noise:
            row.short_description = "Quiet"

        assert noise.update_multiple()
        assert {row["short_description"] for row in instance.rows("incident")} == {"Quiet"}

    def test_what_a_batch_could_not_update_is_said(self, client: ServiceNowClient) -> None:
        made(client, state="7", close_code="Duplicate", close_notes="x")
        made(client)
        every = client.GlideRecord("incident")
        every.query()
        for row in every:
            row.state = "2"
        answers: list[int] = []

        every.update_multiple(custom_handler=lambda answer: answers.append(answer.status_code))

        assert sorted(answers) == [200, 403]

    def test_a_business_rule_that_was_inserted_aborts(self, client: ServiceNowClient) -> None:
        made(
            client,
            "sys_script",
            name="No shouting",
            collection="incident",
            active="true",
            when="before",
            action_insert="true",
            action_update="true",
            filter_condition="short_descriptionSTARTSWITHHELP^EQ",
            abort_action="true",
        )
        record = client.GlideRecord("incident")
        record.initialize()
        record.short_description = "HELP!"

        with pytest.raises(RoleException, match="aborted by Business Rule 'No shouting"):
            record.insert()


class TestQueries:
    @pytest.fixture
    def five(self, client: ServiceNowClient) -> ServiceNowClient:
        for number, impact in enumerate(("1", "1", "2", "3", "3"), 1):
            words = f"Alpha {number}" if number % 2 else ""
            made(client, number=f"INC{number}", impact=impact, description=words)
        return client

    @pytest.mark.parametrize(
        ("condition", "numbers"),
        [
            (("number", "INC2"), "2"),
            (("number", "!=", "INC2"), "1345"),
            (("number", "IN", "INC1,INC3"), "13"),
            (("number", "NOT IN", "INC1,INC3"), "245"),
            (("description", "STARTSWITH", "alpha"), "135"),
            (("description", "ENDSWITH", "3"), "3"),
            (("description", "CONTAINS", "pha"), "135"),
            (("description", "DOES NOT CONTAIN", "pha"), "24"),
            (("impact", ">", "2"), "45"),
            (("impact", ">=", "2"), "345"),
            (("impact", "<", "2"), "12"),
            (("impact", "<=", "2"), "123"),
            (("sys_class_name", "INSTANCEOF", "task"), "12345"),
            (("sys_class_name", "INSTANCEOF", "cmdb_ci"), ""),
            (("impact", "BETWEEN", "2@3"), "345"),
            (("impact", "SAMEAS", "urgency"), "45"),
            (("impact", "NSAMEAS", "urgency"), "123"),
            (("description", "", "ANYTHING"), "12345"),
            (("description", "", "EMPTYSTRING"), "24"),
            (("no_such_field", "1"), "12345"),
        ],
    )
    def test_an_operator_finds(
        self, five: ServiceNowClient, condition: tuple[str, ...], numbers: str
    ) -> None:
        record = five.GlideRecord("incident")
        record.add_query(*condition)
        record.order_by("number")
        record.query()

        assert "".join(row.get_value("number")[3:] for row in record) == numbers

    def test_null_and_not_null_queries_split_the_rows(self, five: ServiceNowClient) -> None:
        without, with_words = five.GlideRecord("incident"), five.GlideRecord("incident")
        without.add_null_query("description")
        with_words.add_not_null_query("description")
        without.query()
        with_words.query()

        assert (len(without), len(with_words)) == (2, 3)

    def test_an_or_condition_binds_to_its_own_term(self, five: ServiceNowClient) -> None:
        record = five.GlideRecord("incident")
        record.add_null_query("description")
        record.add_query("impact", "1").add_or_condition("impact", "3")
        record.query()

        assert sorted(str(row.number) for row in record) == ["INC2", "INC4"]

    def test_a_new_query_is_an_or_between_whole_groups(self, five: ServiceNowClient) -> None:
        assert found(five, "number=INC5^NQimpact=1^descriptionISEMPTY^ORDERBYnumber") == [
            "INC2",
            "INC5",
        ]

    def test_an_order_is_kept_in_both_directions(self, five: ServiceNowClient) -> None:
        record = five.GlideRecord("incident")
        record.order_by_desc("number")
        record.query()

        assert [str(row.number) for row in record] == ["INC5", "INC4", "INC3", "INC2", "INC1"]

    def test_a_query_that_is_too_long_for_an_address_goes_by_batch(
        self, five: ServiceNowClient, instance: ServiceNow
    ) -> None:
        assert found(five, "AAAA=BBBB^" * 2300 + "number=INC3") == ["INC3"]
        assert instance.calls[-1].path == "/api/now/v1/batch"

    def test_an_address_that_is_too_long_is_answered_with_a_page(
        self, five: ServiceNowClient
    ) -> None:
        record = five.GlideRecord("incident")
        record.add_encoded_query("AAAA=BBBB^" * 2300)

        with pytest.raises(RequestException, match=r"^<.*html>"):
            five.table_api.list(record)

    def test_a_join_finds_those_who_manage_a_group(self, client: ServiceNowClient) -> None:
        people = client.GlideRecord("sys_user")
        managed = people.add_join_query("sys_user_group", join_table_field="manager")
        managed.add_query("active", "true")
        people.query()

        assert 2 <= len(people) < 12

    def test_a_related_list_counts(self, client: ServiceNowClient) -> None:
        administrators, loners = client.GlideRecord("sys_user"), client.GlideRecord("sys_user")
        administrators.add_rl_query("sys_user_has_role", "user", ">0", True).add_query(
            "role.name", "admin"
        )
        loners.add_rl_query("sys_user_has_role", "user", "=0")
        administrators.query()
        loners.query()

        assert 11 <= len(administrators) <= 24
        assert len(loners) > 0

    def test_a_dotted_field_is_walked_in_a_query(self, client: ServiceNowClient) -> None:
        people = found(
            client, "department.dept_head.user_name=natasha.ingram", "sys_user", "user_name"
        )

        assert sorted(people) == [ADMIN, "natasha.ingram"]


class TestPages:
    @pytest.mark.parametrize("size", [100, 500])
    def test_many_rows_come_page_by_page_and_each_once(
        self, client: ServiceNowClient, size: int
    ) -> None:
        log = client.GlideRecord("syslog", batch_size=size)
        log.fields = ["sys_id", "sequence"]
        log.query()

        assert len(log) > 1_100
        assert len({str(row.sys_id) for row in log}) == len(log)

    def test_a_limit_ends_the_rows(self, client: ServiceNowClient) -> None:
        script = client.GlideRecord("sys_metadata", batch_size=100)
        script.limit = 250
        script.query()

        assert len([row.get_value("sys_id") for row in script]) == 250


class TestValues:
    def test_a_value_and_what_people_see_come_together(self, client: ServiceNowClient) -> None:
        record = client.GlideRecord("incident")
        record.get(made(client, impact="1").sys_id)

        assert record.get_value("impact") == "1"
        assert record.get_display_value("impact") == "1 - High"
        assert record.get_display_value("opened_by") == "svc.hasura"

    @pytest.mark.parametrize(("display", "state"), [(True, "New"), (False, "1")])
    def test_one_form_of_a_value_can_be_asked_for(
        self, client: ServiceNowClient, display: bool, state: str
    ) -> None:
        made(client)
        record = client.GlideRecord("incident")
        record.display_value = display
        record.query()
        record.next()

        assert record.get_value("state") == state

    def test_a_reference_has_a_link_where_one_is_asked_for(
        self, client: ServiceNowClient, instance: ServiceNow
    ) -> None:
        made(client)
        record = client.GlideRecord("incident")
        record.exclude_reference_link = False
        record.query()
        record.next()

        assert record.opened_by.get_link().startswith(f"{instance.url}/api/now/table/sys_user/")

    def test_a_dotted_field_comes_back_under_its_own_name(self, client: ServiceNowClient) -> None:
        record = client.GlideRecord("sys_user")
        record.fields = [
            "department",
            "department.name",
            "department.dept_head",
            "department.dept_head.email",
        ]
        record.get("user_name", ADMIN)

        assert record.get_value("department.name") == "Finance"
        assert record.department.dept_head.email == "natasha.ingram@example.com"

    def test_a_time_is_shown_in_the_user_s_time_zone_and_valued_in_utc(
        self, client: ServiceNowClient, instance: ServiceNow
    ) -> None:
        [me] = instance.tables.select("sys_user", f"user_name={instance.username}")
        instance.tables.update("sys_user", me["sys_id"], {"time_zone": "Asia/Kolkata"}, by=ADMIN)
        record = client.GlideRecord("incident")
        record.get(made(client, due_date="2026-01-01 12:00:00").sys_id)

        assert record.get_value("due_date") == "2026-01-01 12:00:00"
        assert record.get_display_value("due_date") == "2026-01-01 17:30:00"
        assert record.due_date.date_value().hour == 12


class TestAttachments:
    def test_a_file_is_attached_listed_and_read_back(
        self, client: ServiceNowClient, tmp_path: Path
    ) -> None:
        record = made(client)
        address = record.add_attachment("log.txt", b"line one\nline two", content_type="text/plain")
        attachments = record.get_attachments()

        assert len(attachments) == 1
        assert attachments.next()
        assert attachments.file_name == "log.txt"
        assert address == attachments.get_link()
        assert attachments.readlines() == ["line one", "line two"]
        with attachments.as_temp_file() as file:
            assert file.read() == b"line one\nline two"
        assert attachments.write_to(tmp_path).read_bytes() == b"line one\nline two"
        assert attachments.hash == hashlib.sha256(b"line one\nline two").hexdigest()
        assert attachments.size_bytes == "17"

    def test_an_attachment_is_got_and_deleted_by_its_id(self, client: ServiceNowClient) -> None:
        record = made(client)
        attachment_id = record.add_attachment("x.bin", bytes(range(256))).split("/")[-2]
        attachment = client.Attachment("incident")

        assert attachment.get(attachment_id)
        assert attachment.read() == bytes(range(256))
        attachment.delete()
        assert not client.Attachment("incident").get(attachment_id)

    def test_attachments_go_with_their_record(
        self, client: ServiceNowClient, instance: ServiceNow
    ) -> None:
        record = made(client)
        for number in range(3):
            record.add_attachment(f"{number}.txt", b"x")

        record.delete()

        assert instance.rows("sys_attachment") == []


class TestLogin:
    def test_a_wrong_password_is_an_authentication_error(
        self, connect: Connect, instance: ServiceNow
    ) -> None:
        client = connect((instance.username, "wrong"))

        with pytest.raises(AuthenticationException, match="User is not authenticated"):
            client.GlideRecord("incident").get(GUID)

    def test_a_password_buys_a_token_and_the_token_every_call(
        self, connect: Connect, instance: ServiceNow
    ) -> None:
        oauth = instance.oauth
        flow = ServiceNowPasswordGrantFlow(
            instance.username, instance.password, oauth.client_id, oauth.client_secret
        )
        client = connect(flow)
        for _ in range(3):
            made(client)

        assert [(asked.grant, asked.status) for asked in instance.token_requests] == [
            ("password", 200)
        ]
        assert client.session.token["expires_in"] == 1799
        assert len(instance.rows("incident")) == 3
