"""The sandbox's Hasura answers GraphQL as Hasura v2's documentation, source and tests say."""

import pytest

from sandbox.graphql_document import InvalidDocument, ListType, NamedType, parse_document


class TestDocument:
    @pytest.mark.parametrize(
        "text",
        [
            "",
            "{",
            "{}",
            "{ a(",
            "{ a() }",
            "{ a(b: 1, b: 2) }",
            "{ a(b: {c: 1, c: 2}) }",
            "{ a(b: 01) }",
            "{ a(b: 1x) }",
            "{ a(b: .5) }",
            "{ a(b: 1e999999999) }",
            '{ a(b: "\n") }',
            '{ a(b: "\\x") }',
            "{ a } }",
            "query ($a) { a }",
            "query ($a: Int = $b) { a }",
            "fragment on on a { b }",
            "type a { b: Int }",
            "{ a ? }",
            "{" * 1000,
            "{ a(b: " + "[" * 1000,
        ],
    )
    def test_what_is_no_document_is_refused(self, text: str) -> None:
        with pytest.raises(InvalidDocument):
            parse_document(text)

    @pytest.mark.parametrize(
        ("written", "read"),
        [
            (r'"a\n\u00fc\"\\"', 'a\nü"\\'),
            ('"""\n    one\n      two\n\n    three\n    """', "one\n  two\n\nthree"),
            (r'"""a \""" b"""', 'a """ b'),
            ('""""""', ""),
            ("-12", -12),
            ("[1 2, 3]", [1, 2, 3]),
            ("{a: null b: true}", {"a": None, "b": True}),
        ],
    )
    def test_a_value_is_what_the_specification_says(self, written: str, read: object) -> None:
        document = parse_document(f"{{ a(b: {written}) # a comment\n }}")

        [field] = document.operations[0].selections
        assert getattr(field, "arguments") == {"b": read}  # noqa: B009  # a field, not a fragment

    def test_a_variable_has_a_type_and_a_default(self) -> None:
        document = parse_document("query Q($a: [bigint!]! = [1], $b: String) { c }")

        first, second = document.operations[0].variables
        assert first.type == ListType(NamedType("bigint", non_null=True), non_null=True)
        assert (str(first.type), first.default) == ("[bigint!]!", [1])
        assert (str(second.type), second.has_default) == ("String", False)
