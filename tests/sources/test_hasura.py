"""Hasura's requests: who may send them, what is read from them, what is refused and in
which words."""

import json
import re
from copy import deepcopy
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from function.core.event import Op
from function.core.values import text
from function.sources.hasura import DEPTH_MAX, InvalidRequest, parse_event, verify_secret
from tests import payloads

ROW = {"id": 7, "title": "Tills down", "severity": "major", "note": None}


def refusal(body: bytes | dict[str, Any] | list[Any]) -> str:
    with pytest.raises(InvalidRequest) as caught:
        parse_event(body if isinstance(body, bytes) else payloads.encode(body))
    return caught.value.message


def body_with_number(number: str) -> bytes:
    return payloads.insert("outages", {"n": "NUMBER"}).replace(b'"NUMBER"', number.encode())


def number(spelled: str) -> Any:
    new = parse_event(body_with_number(spelled)).new
    assert isinstance(new, dict)
    return new["n"]


class TestWhoMaySend:
    @pytest.mark.parametrize("given", ["first", "second"])
    def test_either_of_two_secrets_is_accepted_while_rotating(self, given: str) -> None:
        assert verify_secret(given, ["first", "second"])

    @pytest.mark.parametrize(
        "given", [None, "", "firs", "first ", "First", "first,second", "ﬁrst", "\udcff"]
    )
    def test_anything_else_is_not(self, given: str | None) -> None:
        assert not verify_secret(given, ["first", "second"])

    @pytest.mark.parametrize("secrets", [[], [""], ["", ""]])
    @pytest.mark.parametrize("given", [None, "", "anything"])
    def test_without_a_secret_nobody_is_let_in(self, given: str | None, secrets: list[str]) -> None:
        assert not verify_secret(given, secrets)

    def test_a_secret_beyond_ascii_is_recognised_as_wsgi_hands_it_over(self) -> None:
        assert verify_secret("pässwörd".encode().decode("latin-1"), ["pässwörd"])
        assert verify_secret("pässwörd", ["pässwörd"])

    @given(given=st.text(), secret=st.text(st.characters(), min_size=1))
    def test_no_header_makes_the_comparison_fail(self, given: str, secret: str) -> None:
        verify_secret(given, [secret])


class TestWhatIsRead:
    def test_an_insert_is_an_event_of_its_table(self) -> None:
        body = payloads.insert(
            "shop.outages", ROW, id="e-1", trigger="outage", current_retry=2, max_retries=5
        )

        event = parse_event(body)

        assert (event.id, event.source, event.op, event.trigger) == (
            "e-1",
            "hasura/shop.outages",
            Op.INSERT,
            "outage",
        )
        assert (event.old, event.new) == (None, ROW)
        assert event.current_retry == 2
        assert event.created_at == datetime(2026, 3, 4, 5, 6, 7, 123456, UTC)
        assert event.session_variables == {"x-hasura-role": "admin"}
        assert event.trace_id == "00112233445566778899aabbccddeeff"
        assert event.body == body.decode()
        assert not event.absent_is_null

    def test_an_update_carries_both_ends_of_its_step(self) -> None:
        event = parse_event(payloads.update("outages", ROW, ROW | {"severity": "minor"}))

        assert (event.op, event.old, event.new) == (Op.UPDATE, ROW, ROW | {"severity": "minor"})

    def test_a_delete_carries_the_row_that_was(self) -> None:
        event = parse_event(payloads.delete("outages", ROW))

        assert (event.op, event.old, event.new) == (Op.DELETE, ROW, None)

    def test_a_body_needs_only_id_table_trigger_op_and_data(self) -> None:
        body = {
            "id": "x",
            "table": {"name": "outages"},
            "trigger": {"name": "t"},
            "event": {"op": "INSERT", "data": {"new": ROW}},
        }

        event = parse_event(payloads.encode(body))

        assert (event.source, event.new) == ("hasura/public.outages", ROW)
        assert (event.created_at, event.current_retry) == (None, 0)
        assert (event.session_variables, event.trace_id) == ({}, "")

    def test_fields_that_nobody_knows_are_ignored(self) -> None:
        body = payloads.envelope("outages", "INSERT", None, ROW)
        body |= {"_comment": "x", "payload": 1, "scheduled_time": 2}
        body["trigger"]["id"] = "9"
        body["event"]["more"] = [1]

        assert parse_event(payloads.encode(body)).new == ROW

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            ("2026-03-04T05:06:07.30702Z", datetime(2026, 3, 4, 5, 6, 7, 307020, UTC)),
            ("2026-03-04T05:06:07+05:30", datetime(2026, 3, 3, 23, 36, 7, 0, UTC)),
            ("2026-03-04T05:06:07", datetime(2026, 3, 4, 5, 6, 7, 0, UTC)),
            ("2026-03-04T05:06:07.1234567", datetime(2026, 3, 4, 5, 6, 7, 123456, UTC)),
            ("yesterday", None),
            ("", None),
            (None, None),
            (17, None),
            ({}, None),
        ],
    )
    def test_created_at_is_read_in_every_form_and_never_a_reason_to_refuse(
        self, written: Any, read: Any
    ) -> None:
        body = payloads.envelope("outages", "INSERT", None, ROW)
        body["created_at"] = written

        assert parse_event(payloads.encode(body)).created_at == read

    @pytest.mark.parametrize("name", ["session_variables", "trace_context", "delivery_info"])
    def test_what_hasura_sends_as_null_may_be_null(self, name: str) -> None:
        body = payloads.envelope("outages", "INSERT", None, ROW)
        (body if name == "delivery_info" else body["event"])[name] = None

        event = parse_event(payloads.encode(body))

        assert event.new == ROW
        assert not event.absent_is_null

    @pytest.mark.parametrize(
        ("trace_id", "read"),
        [(7784212484189668000, "7784212484189668000"), ("ab12", "ab12"), (True, ""), ([], "")],
    )
    def test_trace_ids_were_numbers_once(self, trace_id: Any, read: str) -> None:
        assert (
            parse_event(
                payloads.insert("outages", ROW, trace_context={"trace_id": trace_id})
            ).trace_id
            == read
        )

    def test_session_variables_that_are_no_text_are_left_out(self) -> None:
        body = payloads.envelope("outages", "INSERT", None, ROW)
        body["event"]["session_variables"] = {"x-hasura-role": "user", "x-hasura-ids": [1]}

        assert parse_event(payloads.encode(body)).session_variables == {"x-hasura-role": "user"}

    @pytest.mark.parametrize("new", [None, 0, "text", [1, {"a": 2}], {"id": 1}, False])
    def test_a_manual_event_carries_any_json(self, new: Any) -> None:
        event = parse_event(payloads.manual("outages", new))

        assert (event.op, event.new) == (Op.MANUAL, new)

    def test_a_manual_event_of_v2_0_1_has_its_row_under_row(self) -> None:
        body = payloads.envelope("outages", "MANUAL", None, None)
        body["event"]["data"] = {"row": ROW}

        assert parse_event(payloads.encode(body)).new == ROW

    def test_an_image_that_is_no_row_is_for_the_rules_to_refuse(self) -> None:
        assert parse_event(payloads.insert("outages", [{}])).new == [{}]

    def test_a_byte_order_mark_is_tolerated(self) -> None:
        body = payloads.insert("outages", ROW)

        assert parse_event(b"\xef\xbb\xbf" + body).body == body.decode()

    def test_of_two_members_with_one_name_the_last_counts(self) -> None:
        assert number('1,"n":2') == 2


class TestMSSQL:
    def test_columns_that_are_absent_are_null(self) -> None:
        event = parse_event(payloads.mssql_update("outages", ROW, ROW | {"title": None}))

        assert event.absent_is_null
        assert event.source == "hasura/dbo.outages"
        assert event.id == event.id.upper()
        assert event.new == {"id": 7, "severity": "major"}

    def test_an_update_of_the_primary_key_has_no_old_image(self) -> None:
        event = parse_event(payloads.mssql_update("outages", None, ROW))

        assert (event.op, event.old) == (Op.UPDATE, None)

    def test_a_manual_event_has_neither_op_nor_data(self) -> None:
        event = parse_event(payloads.mssql_manual("outages", ROW))

        assert (event.op, event.old, event.new, event.absent_is_null) == (
            Op.MANUAL,
            None,
            ROW,
            True,
        )

    def test_inserts_and_deletes_are_read_like_any_other(self) -> None:
        assert (
            parse_event(payloads.mssql_insert("shop.outages", ROW)).source == "hasura/shop.outages"
        )
        assert parse_event(payloads.mssql_delete("outages", ROW)).old == ROW


class TestScheduledEvents:
    def test_a_cron_event_is_named_by_its_trigger(self) -> None:
        event = parse_event(payloads.cron("nightly", {"a": 1}, id="c-1", comment="every night"))

        assert (event.id, event.source, event.trigger, event.op) == (
            "c-1",
            "cron/nightly",
            "nightly",
            Op.MANUAL,
        )
        assert (event.old, event.new) == (None, {"a": 1})
        assert event.created_at == datetime(2026, 3, 4, 5, tzinfo=UTC)
        assert not event.absent_is_null

    def test_a_one_off_event_is_not_named_by_its_comment(self) -> None:
        event = parse_event(payloads.one_off([1], comment="nightly"))

        assert (event.source, event.trigger, event.new) == ("scheduled", "", [1])

    def test_a_scheduled_event_needs_an_id(self) -> None:
        assert "`id`" in refusal({"scheduled_time": "2026-03-04T05:00:00Z", "payload": {}})


class TestNumbers:
    @pytest.mark.parametrize(
        ("spelled", "shown"),
        [
            ("1.23456789e7", "12345678.9"),
            ("5.0e-2", "0.05"),
            ("1.50e-2", "0.015"),
            ("1.0e7", "10000000"),
            ("1E+2", "100"),
            ("-1.5e-3", "-0.0015"),
            ("1500.0", "1500.0"),
            ("0.0e5", "0"),
            ("0e99999999999999999999", "0"),
            ("9223372036854775807", "9223372036854775807"),
            ("12345678901234.56789", "12345678901234.56789"),
            ("1e400", "1" + "0" * 400),
            ("9" * 401, "9" * 401),
            ("-" + "7" * 20_000, "-" + "7" * 20_000),
            ("1e131071", "1" + "0" * 131_071),
            ("1e-16383", "0." + "0" * 16_382 + "1"),
        ],
    )
    def test_a_number_keeps_its_value_and_is_spelled_as_people_do(
        self, spelled: str, shown: str
    ) -> None:
        assert text(number(spelled)) == shown

    def test_a_number_is_exact_however_it_was_written(self) -> None:
        assert number("1.0e7") == Decimal("10000000")
        assert str(number("1500.0")) == "1500.0"
        assert isinstance(number("9223372036854775807"), int)

    @pytest.mark.parametrize(
        "spelled",
        [
            "1e131072",
            "1e-16384",
            "1.5e-16383",
            "1e999999999999",
            "1e" + "9" * 5_000,
            "1e-999999999",
        ],
    )
    def test_a_number_beyond_what_postgresql_holds_is_refused(self, spelled: str) -> None:
        assert "numeric" in refusal(body_with_number(spelled))

    def test_numbers_that_would_fill_the_memory_are_refused(self) -> None:
        assert len(str(number("[" + ",".join(["1e131071"] * 7) + "]"))) > 900_000
        assert "exponents" in refusal(body_with_number("[" + ",".join(["1e131071"] * 9) + "]"))

    @pytest.mark.parametrize("spelled", ["NaN", "Infinity", "-Infinity"])
    def test_what_json_has_no_number_for_is_refused(self, spelled: str) -> None:
        assert spelled in refusal(body_with_number(spelled))

    @given(
        st.decimals(
            allow_nan=False, allow_infinity=False, min_value=-(10**30), max_value=10**30, places=12
        ).map(lambda value: f"{value:e}")
    )
    def test_every_exponent_form_has_the_same_value_in_ordinary_spelling(
        self, spelled: str
    ) -> None:
        read = number(spelled)

        assert read == Decimal(spelled)
        assert re.fullmatch(r"-?\d+(\.\d+)?", str(text(read)))


class TestContent:
    def test_a_redelivery_has_the_content_of_the_first(self) -> None:
        first = parse_event(payloads.insert("outages", ROW, id="e-1"))
        again = parse_event(
            payloads.insert("outages", ROW, id="e-1", current_retry=3, trace_context=None)
        )

        assert first.content == again.content

    @pytest.mark.parametrize(
        "other",
        [
            payloads.insert("outages", ROW | {"title": "Till 4 down"}),
            payloads.insert("shop.outages", ROW),
            payloads.manual("outages", ROW),
            payloads.update("outages", ROW, ROW),
        ],
    )
    def test_another_row_table_or_op_is_another_content(self, other: bytes) -> None:
        assert parse_event(other).content != parse_event(payloads.insert("outages", ROW)).content

    def test_two_spellings_of_one_row_are_one_content(self) -> None:
        assert (
            parse_event(body_with_number("1.50")).content
            == parse_event(body_with_number("1.5e0")).content
        )


WHOLE = payloads.envelope("outages", "UPDATE", ROW, ROW)


def without(*path: str) -> dict[str, Any]:
    body = deepcopy(WHOLE)
    inner = body
    for name in path[:-1]:
        inner = inner[name]
    del inner[path[-1]]
    return body


def having(value: Any, *path: str) -> dict[str, Any]:
    body = deepcopy(WHOLE)
    inner = body
    for name in path[:-1]:
        inner = inner[name]
    inner[path[-1]] = value
    return body


class TestWhatIsRefused:
    @pytest.mark.parametrize("body", [b"", b" \n", b"\xef\xbb\xbf"])
    def test_an_empty_body(self, body: bytes) -> None:
        assert "empty" in refusal(body)

    @pytest.mark.parametrize(
        "body", [b"{", b"hello", b"<html>", b'{"a": 1,}', b"{'a': 1}", b'{"a":"\x01"}', b"{} {}"]
    )
    def test_what_is_not_json(self, body: bytes) -> None:
        assert "not JSON (line 1, column" in refusal(body)

    @pytest.mark.parametrize(
        "body", [b"\xff\xfe{\x00}\x00", b'{"a":"\xe9"}', b'{"a":"\xed\xa0\x80"}']
    )
    def test_what_is_not_utf_8(self, body: bytes) -> None:
        assert "UTF-8" in refusal(body)

    @pytest.mark.parametrize("body", [b"payload=%7B%22id%22%3A1%7D", b"event[op]=INSERT&id=1"])
    def test_a_form(self, body: bytes) -> None:
        assert "form-encoded" in refusal(body)

    @pytest.mark.parametrize("body", [b"null", b"1", b"true"])
    def test_json_that_is_no_object(self, body: bytes) -> None:
        assert "not an object" in refusal(body)

    def test_an_event_encoded_twice(self) -> None:
        assert "encoded twice" in refusal(json.dumps(json.dumps(WHOLE)).encode())

    def test_a_list_of_events(self) -> None:
        assert "one event at a time" in refusal([WHOLE, WHOLE])

    @pytest.mark.parametrize("extra", [{}, {"headers": [], "version": "2"}])
    def test_the_form_that_the_console_and_the_documentation_show(
        self, extra: dict[str, Any]
    ) -> None:
        said = refusal({"payload": WHOLE} | extra)

        assert "console" in said
        assert "Send the value of `payload` alone" in said

    def test_the_inner_event(self) -> None:
        assert "inner event alone" in refusal(WHOLE["event"])

    def test_the_event_member_alone(self) -> None:
        assert "without id, table and trigger" in refusal({"event": WHOLE["event"]})

    def test_an_object_that_is_something_else(self) -> None:
        assert "`event` is missing" in refusal({"hello": "world"})

    @pytest.mark.parametrize(
        "path",
        [
            ("id",),
            ("table",),
            ("table", "name"),
            ("trigger",),
            ("trigger", "name"),
            ("event",),
            ("event", "op"),
            ("event", "data"),
            ("event", "data", "new"),
        ],
    )
    def test_a_missing_field_is_named_by_its_path(self, path: tuple[str, ...]) -> None:
        for body in (without(*path), having(None, *path)):
            assert f"`{'.'.join(path)}`" in refusal(body)

    @pytest.mark.parametrize(
        ("path", "value"),
        [
            (("id",), 7),
            (("id",), ""),
            (("id",), "x" * 201),
            (("id",), "a\nb"),
            (("table",), "outages"),
            (("table", "name"), []),
            (("table", "schema"), 1),
            (("table", "schema"), ""),
            (("trigger",), []),
            (("trigger", "name"), {}),
            (("event",), "INSERT"),
            (("event", "op"), "insert"),
            (("event", "op"), "TRUNCATE"),
            (("event", "op"), ["INSERT"]),
            (("event", "data"), [1]),
            (("event", "session_variables"), "admin"),
            (("event", "trace_context"), 3),
            (("delivery_info",), 0),
            (("delivery_info", "current_retry"), -1),
            (("delivery_info", "current_retry"), True),
            (("delivery_info", "current_retry"), 1.0),
            (("delivery_info", "max_retries"), "3"),
            (("delivery_info", "max_retries"), 2**63),
        ],
    )
    def test_an_ill_typed_field_is_named_by_its_path(
        self, path: tuple[str, ...], value: Any
    ) -> None:
        assert f"`{'.'.join(path)}`" in refusal(having(value, *path))

    def test_a_delete_without_the_row_that_was(self) -> None:
        body = payloads.envelope("outages", "DELETE", None, ROW)

        assert "`event.data.old`" in refusal(body)

    @pytest.mark.parametrize("escape", ["\\u0000", "\\ud800", "\\udc00x", "\\udc00\\ud800"])
    def test_a_character_that_postgresql_cannot_hold(self, escape: str) -> None:
        body = payloads.insert("outages", {"title": "ESCAPE", "ESCAPE": 1}).decode()

        assert "surrogate" in refusal(
            body.replace('"title":"ESCAPE"', f'"title":"{escape}"').encode()
        )
        assert "surrogate" in refusal(body.replace('"ESCAPE":1', f'"{escape}":1').encode())

    def test_a_whole_surrogate_pair_is_one_character(self) -> None:
        body = payloads.insert("outages", {"title": "ESCAPE"}).replace(b"ESCAPE", b"\\ud83d\\ude00")

        assert parse_event(body).new == {"title": "😀"}

    def test_nesting_has_a_limit(self) -> None:
        above = 4  # the body, event, data, new
        deepest = DEPTH_MAX - above

        assert parse_event(body_with_number("[" * deepest + "1" + "]" * deepest))
        assert "200 levels" in refusal(
            body_with_number("[" * (deepest + 1) + "1" + "]" * (deepest + 1))
        )

    @pytest.mark.parametrize("opening", [b"[", b'{"a":'])
    def test_ten_thousand_levels_are_refused_and_do_no_harm(self, opening: bytes) -> None:
        closing = {b"[": b"]", b'{"a":': b"}"}[opening]

        assert "200 levels" in refusal(opening * 10_000 + b"1" + closing * 10_000)

    def test_a_refusal_quotes_nothing_of_the_row(self) -> None:
        planted = "S3CRET-ROW-TEXT"
        row = {"id": 1, "title": planted}
        whole = payloads.envelope("outages", "UPDATE", row, row)
        for broken in (
            payloads.encode(whole)[:-1],
            payloads.encode([whole]),
            payloads.encode({"payload": whole}),
            payloads.encode(whole["event"]),
            payloads.encode(whole | {"id": [planted]}),
            payloads.encode(whole | {"table": planted}),
            payloads.encode(whole | {"event": whole["event"] | {"op": planted}}),
            payloads.encode(whole | {"delivery_info": {"current_retry": planted}}),
            payloads.encode(whole).replace(planted.encode(), planted.encode() + b"\\u0000"),
        ):
            assert planted not in refusal(broken)


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters()),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(st.characters()), inner, max_size=4)
    ),
    max_leaves=12,
)
event_like = st.fixed_dictionaries(
    {},
    optional={
        name: st.just(value) | anything
        for name, value in (
            WHOLE | {"payload": WHOLE, "op": "INSERT", "scheduled_time": "now", "name": "n"}
        ).items()
    },
)


def paths(value: Any, path: tuple[str, ...] = ()) -> list[tuple[str, ...]]:
    if not isinstance(value, dict):
        return [path]
    return [
        path,
        *(deeper for name, inner in value.items() for deeper in paths(inner, (*path, name))),
    ]


def is_event_or_refusal(body: bytes) -> None:
    message = ""
    try:
        event = parse_event(body)
    except InvalidRequest as refused:
        message = refused.message
    else:
        text(event.new)
        event.body.encode()
    assert len(message.encode()) < 400


class TestWhateverIsSent:
    @given(st.binary())
    @example(b"\x00")
    def test_any_bytes_are_an_event_or_refused(self, body: bytes) -> None:
        is_event_or_refusal(body)

    @given(st.text(st.sampled_from('{}[]",:\\u0de-+.1 nNtIfalsruety')))
    @example("1" * 5_000)
    def test_any_near_json_is_an_event_or_refused(self, written: str) -> None:
        is_event_or_refusal(written.encode())

    @given(anything | event_like)
    def test_any_json_is_an_event_or_refused(self, value: Any) -> None:
        is_event_or_refusal(json.dumps(value).encode())

    @given(st.sampled_from([path for path in paths(WHOLE) if path]), anything)
    def test_a_body_with_anything_in_any_place_is_an_event_or_refused(
        self, path: tuple[str, ...], value: Any
    ) -> None:
        is_event_or_refusal(json.dumps(having(value, *path)).encode())

    @given(st.data())
    def test_a_body_with_bytes_changed_is_an_event_or_refused(self, data: st.DataObject) -> None:
        body = bytearray(payloads.encode(WHOLE))
        for _ in range(data.draw(st.integers(1, 4))):
            at = data.draw(st.integers(0, len(body) - 1))
            body[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=3))
        is_event_or_refusal(bytes(body))

    def test_eight_mebibytes_are_read(self) -> None:
        assert parse_event(payloads.insert("outages", {"id": 1, "log": "x" * 8_000_000}))
