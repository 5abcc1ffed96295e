"""The fields that a request selects of a type: fragments resolved, directives followed, the fields
of one key merged.

Written from Hasura's source: lib/schema-parsers (Collect.hs) and GraphQL/Execute/Inline.hs. Where
in the request an error of a fragment is said to be is not certain.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Final

from sandbox.graphql_document import Field, FragmentSpread, InlineFragment, Selection
from sandbox.graphql_input import GivenValue, InputReader, invalid, unsupported

# What PostgreSQL keeps of a name; of a longer one it would drop the end.
_KEY_BYTES_MAX: Final = 63


class FieldCollector:
    """Collects fields. Raises GraphQLError, at once where a fragment holds itself."""

    def __init__(self, reader: InputReader, fragments: Mapping[str, InlineFragment]) -> None:
        self._reader = reader
        self._fragments = fragments
        done: set[str] = set()
        for name in fragments:
            self._refuse_cycle(name, (), done)

    def _refuse_cycle(self, name: str, within: tuple[str, ...], done: set[str]) -> None:
        if name in within:
            cycle = " and ".join(f'"{one}"' for one in within[within.index(name) :])
            raise invalid(f"the fragment definition(s) {cycle} form a cycle")
        if name in self._fragments and name not in done:
            for inner in _spread_in(self._fragments[name].selections):
                self._refuse_cycle(inner, (*within, name), done)
            done.add(name)

    def collect(self, selections: tuple[Selection, ...], type_name: str, path: str) -> list[Field]:
        """The fields of *selections*, fragments resolved, those of one key merged."""
        if not selections:
            raise invalid(f"missing selection set for '{type_name}'", path)
        fields: dict[str, Field] = {}
        for field in self._flattened(selections, type_name, path):
            before = fields.get(field.key)
            if before is None:
                if len(field.key.encode()) > _KEY_BYTES_MAX:
                    raise unsupported(f"an alias as long as {field.key}", path)
                fields[field.key] = field
                continue
            if before.name != field.name:
                raise invalid(
                    f"selection of both '{before.name}' and '{field.name}' specify the same "
                    f"response name, '{field.key}'",
                    path,
                )
            if before.arguments != field.arguments:
                raise invalid(
                    f"inconsistent arguments between multiple selections of field '{field.name}'",
                    path,
                )
            both = before.selections + field.selections
            fields[field.key] = replace(before, selections=both)
        return list(fields.values())

    def _flattened(
        self,
        selections: tuple[Selection, ...],
        type_name: str,
        path: str,
    ) -> Iterator[Field]:
        for one in selections:
            if not self._is_included(one, path):
                continue
            match one:
                case Field():
                    yield one
                case InlineFragment(condition, _, inner):
                    if condition in {None, type_name}:
                        yield from self._flattened(inner, type_name, path)
                case FragmentSpread(name):
                    fragment = self._fragments.get(name)
                    if fragment is None:
                        raise invalid(f'reference to undefined fragment "{name}"', path)
                    yield from self._flattened((fragment,), type_name, path)

    def _is_included(self, selection: Selection, path: str) -> bool:
        for directive in selection.directives:
            if directive.name not in {"include", "skip"}:
                raise invalid(f"directive '{directive.name}' is not defined in the schema", path)
            if directive.arguments.keys() != {"if"}:
                raise invalid("missing required field 'if'", path)
            given = GivenValue(directive.arguments["if"])
            said = self._reader.boolean(given, f"{path}.if", required=True)
            if said == (directive.name == "skip"):
                return False
        return True


def _spread_in(selections: tuple[Selection, ...]) -> Iterator[str]:
    """The fragments that *selections* name, however deep."""
    for one in selections:
        if isinstance(one, FragmentSpread):
            yield one.name
        else:
            yield from _spread_in(one.selections)
