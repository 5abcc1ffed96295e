"""Reading YAML node by node: every fault with its line, and on it goes. Pure."""

from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

import yaml

from function.core.event import Op
from function.core.finding import FileLocation, Finding, Level
from function.core.values import did_you_mean
from function.rules.schema import COLUMN

FILE_BYTES_MAX: Final = 1024 * 1024
# Aliases make a small file a large one.
ENTRIES_MAX: Final = 20_000


class TooManyEntries(Exception):  # noqa: N818  # what happened, not whose error it is
    """The file is larger than it looks."""


class NodeReader:
    """Reads the nodes of one file, which *name* is what faults call. It goes on after a fault: all
    are reported at once."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.faults: list[Finding] = []
        self.warnings: list[Finding] = []
        self._entries = 0

    def fault(self, place: yaml.Node | int, path: str, what: str) -> None:
        """Report what is wrong at *place*, a node or a line."""
        self.faults.append(Finding(Level.FAULT, self.locate(place, path), what, end=""))

    def warn(self, where: FileLocation, what: str) -> None:
        """Report what is allowed, and seldom meant."""
        self.warnings.append(Finding(Level.WARNING, where, what, end=""))

    def locate(self, place: yaml.Node | int, path: str) -> FileLocation:
        return FileLocation(self.name, line_of(place), path)

    def compose(self, text: str) -> yaml.Node | None:
        if len(text.encode("utf-8", "surrogatepass")) > FILE_BYTES_MAX:
            self.fault(1, "", f"is over {FILE_BYTES_MAX // 1024} KiB")
            return None
        try:
            # Not the faster C loader: a thousand brackets end the process there.
            root = yaml.compose(text, Loader=yaml.SafeLoader)
        except yaml.MarkedYAMLError as error:
            mark = error.problem_mark or error.context_mark
            self.fault(
                mark.line + 1 if mark else 1,
                "",
                f"is not YAML: {', '.join(filter(None, (error.context, error.problem)))}",
            )
        except yaml.reader.ReaderError as error:
            line = text.count("\n", 0, error.position) + 1
            self.fault(line, "", "is not YAML: a control character in it is not allowed")
        except RecursionError:
            self.fault(1, "", "is nested too deeply")
        else:
            if root is None:
                self.fault(1, "", "is empty; it begins with `version: 1`")
            return root
        return None

    def mapping(
        self,
        node: yaml.Node,
        path: str,
        known: Mapping[str, str] | None,
        *,
        refused: Mapping[str, str] | None = None,
    ) -> dict[str, yaml.Node] | None:
        """The entries of *node* under the *known* keys (None: names of columns); all others are
        faults."""
        if not isinstance(node, yaml.MappingNode):
            self.fault(node, path, "must be a mapping of names to values")
            return None
        entries: dict[str, yaml.Node] = {}
        for name, key, value in self._named(node, path):
            below = f"{path}.{name}" if path else name
            if refused and name in refused:
                self.fault(key, below, refused[name])
            elif known is not None and name not in known:
                self.fault(key, below, f"there is no such key{did_you_mean(name, known)}")
            elif known is None and not COLUMN.fullmatch(name):
                self.fault(key, below, "is not the name of a column (such as short_description)")
            else:
                entries[name] = value
        return entries

    def members(self, node: yaml.MappingNode, path: str) -> dict[str, yaml.Node]:
        """The entries of *node*, whatever their names are."""
        return {name: value for name, _, value in self._named(node, path)}

    def _named(
        self, node: yaml.MappingNode, path: str
    ) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
        """(name, the name's node, value) of each entry; a name that stands twice is a fault."""
        seen = set()
        for key, value, merged in self._pairs(node):
            name = key.value if isinstance(key, yaml.ScalarNode) else ""
            if name not in seen:
                seen.add(name)
                yield name, key, value
            elif not merged:
                self.fault(key, f"{path}.{name}" if path else name, "stands here twice")

    def _pairs(
        self, node: yaml.MappingNode, depth: int = 0
    ) -> Iterator[tuple[yaml.Node, yaml.Node, bool]]:
        """Key and value of each entry, and whether it was merged with ``<<``; those come last."""
        merges: list[yaml.Node] = []
        for key, value in node.value:
            self._count()
            if key.tag == "tag:yaml.org,2002:merge":
                merges += value.value if isinstance(value, yaml.SequenceNode) else [value]
            else:
                yield key, value, depth > 0
        for merge in merges:
            if not isinstance(merge, yaml.MappingNode) or depth > 5:
                self.fault(merge, "<<", "must be an alias of a mapping")
            else:
                for key, value, _ in self._pairs(merge, depth + 1):
                    yield key, value, True

    def elements(
        self, node: yaml.Node, path: str, *, empty: str = ""
    ) -> list[tuple[yaml.Node, str]]:
        """The elements of a list, each with its path. *empty* is the fault of one that has none."""
        if not isinstance(node, yaml.SequenceNode):
            self.fault(node, path, "must be a list")
            return []
        if empty and not node.value:
            self.fault(node, path, empty)
        for _ in node.value:
            self._count()
        return [(element, f"{path}[{number}]") for number, element in enumerate(node.value)]

    def text(self, node: yaml.Node, path: str) -> str | None:
        """A scalar as it was written."""
        if isinstance(node, yaml.ScalarNode):
            written: str = node.value
            return written
        quoted = isinstance(node, yaml.MappingNode) and node.flow_style
        what = (
            'must be one value; a template that begins with braces stands in quotes: "{{ … }}"'
            if quoted
            else ""
        )
        self.fault(node, path, what or "must be one value, not a list or a mapping")
        return None

    def _count(self) -> None:
        self._entries += 1
        if self._entries > ENTRIES_MAX:
            raise TooManyEntries

    def ops(
        self, entries: Mapping[str, yaml.Node], key: str, path: str, known: Collection[Op]
    ) -> frozenset[Op]:
        if key not in entries:
            return frozenset()
        ops = set()
        for node, path_of_op in self.elements(
            entries[key], f"{path}.{key}", empty="is empty; leave it out for the default"
        ):
            word = self.text(node, path_of_op)
            if word is None:
                continue
            if word in known:
                ops.add(Op(word))
            else:
                what = f"must be one of {', '.join(known)}{did_you_mean(word.upper(), known)}"
                self.fault(node, path_of_op, what)
        return frozenset(ops)

    def choice(
        self, entries: Mapping[str, yaml.Node], key: str, path: str, known: Collection[str]
    ) -> str | None:
        if key not in entries:
            return None
        word = self.text(entries[key], f"{path}.{key}")
        if word is not None and word not in known:
            self.fault(
                entries[key],
                f"{path}.{key}",
                f"must be one of {', '.join(known)}{did_you_mean(word, known)}",
            )
            return None
        return word


def line_of(place: yaml.Node | int) -> int:
    return place if isinstance(place, int) else int(place.start_mark.line) + 1


def line_within(node: yaml.Node, line: int) -> int:
    """The line of the file in which the line *line* of a scalar's text stands, as far as that can
    be told: in a block of lines, the first is the one below the bar."""
    if isinstance(node, yaml.ScalarNode) and node.style == "|":
        return line_of(node) + line
    return line_of(node)


def read_entries(node: yaml.Node | None) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """(key, the key's node, value) of a mapping; nothing of any other node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), key, value


def read_fields(node: yaml.Node | None) -> dict[str, yaml.Node]:
    """The values of a mapping that are not null; none of any other node."""
    return {name: value for name, _, value in read_entries(node) if not is_null(value)}


def read_items(node: yaml.Node | None) -> list[yaml.Node]:
    """The elements of a sequence; none of any other node."""
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def read_text(node: yaml.Node | None) -> str:
    """A scalar as it was written; "" of any other node."""
    return str(node.value) if isinstance(node, yaml.ScalarNode) else ""


def read_plain(node: yaml.Node | None) -> Any:
    """The node as lists, dicts, texts, numbers, bools and None."""
    if node is None:
        return None
    constructor = yaml.constructor.SafeConstructor()
    return constructor.construct_document(node)


def is_null(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:null")


def is_bool(node: yaml.Node) -> bool:
    return bool(node.tag == "tag:yaml.org,2002:bool")


def is_true(node: yaml.Node) -> bool:
    return str(node.value).lower() in ("true", "yes", "on")
