"""A Hasura project's metadata (CLI config v3): read with its includes resolved and every place
known, and checked.

MetadataError   it cannot be read; names every fault with its file and line
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml

# Includes of includes: Hasura's own have three levels.
INCLUDES_DEEP_MAX: Final = 10
INCLUDE: Final = "!include "


class MetadataError(Exception):
    """*faults* are sentences, each with file and line."""

    def __init__(self, *faults: str) -> None:
        super().__init__("\n".join(faults))
        self.faults = faults


@dataclass(frozen=True, slots=True)
class Metadata:
    """What concerns events: the sources with their tables, and the cron triggers; None where the
    file is not there.

    Every node's `start_mark` has the file it stands in as its `name`, relative to where the
    project's folder is.
    """

    sources: yaml.Node | None
    cron_triggers: yaml.Node | None
    cron_triggers_file: Path


def read(project: Path) -> Metadata:
    """Read ``metadata/`` of the Hasura project in *project* (the folder that holds config.yaml).

    Raises MetadataError.
    """
    folder = project / _metadata_folder(project)
    if not (folder / "version.yaml").is_file():
        raise MetadataError(f"{folder}: is no Hasura metadata folder (there is no version.yaml)")
    faults: list[str] = []
    found = Metadata(
        sources=_composed_if_there(folder / "databases" / "databases.yaml", faults),
        cron_triggers=_composed_if_there(folder / "cron_triggers.yaml", faults),
        cron_triggers_file=folder / "cron_triggers.yaml",
    )
    if faults:
        raise MetadataError(*dict.fromkeys(faults))
    return found


def place(node: yaml.Node) -> str:
    """``hasura/metadata/cron_triggers.yaml:3`` of a node."""
    return f"{node.start_mark.name}:{node.start_mark.line + 1}"


def plain(node: yaml.Node | None) -> Any:
    """The node as lists, dicts, texts, numbers, bools and None."""
    if node is None:
        return None
    constructor = yaml.constructor.SafeConstructor()
    return constructor.construct_document(node)


def entries(node: yaml.Node) -> Iterator[tuple[str, yaml.Node, yaml.Node]]:
    """(key, the key's node, value) of a mapping; nothing of any other node."""
    if isinstance(node, yaml.MappingNode):
        for key, value in node.value:
            yield str(key.value), key, value


def items(node: yaml.Node | None) -> list[yaml.Node]:
    """The elements of a sequence; none of any other node."""
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []


def _metadata_folder(project: Path) -> str:
    config = project / "config.yaml"
    if not config.is_file():
        raise MetadataError(f"{config}: is not there; name the folder of a Hasura CLI project")
    faults: list[str] = []
    named = plain(_composed(config, faults, deep=0))
    if faults:
        raise MetadataError(*faults)
    folder = named.get("metadata_directory", "metadata") if isinstance(named, dict) else "metadata"
    return str(folder)


def _composed_if_there(file: Path, faults: list[str]) -> yaml.Node | None:
    return _composed(file, faults, deep=0) if file.is_file() else None


def _composed(file: Path, faults: list[str], *, deep: int) -> yaml.Node | None:
    """What *file* holds; what cannot be read is None, and one of the *faults*."""
    try:
        with file.open(encoding="utf-8") as stream:  # a stream with a name gives it to every mark
            node = yaml.compose(stream, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        faults.append(f"{file}:{line}: is no YAML: {error.problem}")
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        faults.append(f"{file}: cannot be read: {type(error).__name__}")
    else:
        return _included(node, file, faults, deep=deep) if node is not None else None
    return None


def _included(node: yaml.Node, file: Path, faults: list[str], *, deep: int) -> yaml.Node:
    """*node* with what it includes in the place of the includes (Hasura writes them as quoted
    texts), and with what it merges (``<<``)."""
    if isinstance(node, yaml.ScalarNode):
        return _one_included(node, file, faults, deep=deep)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            name = str(key.value)
            if name in seen and name != "<<":
                faults.append(
                    f"{place(key)}: `{name}` stands in line "
                    f"{seen[name].start_mark.line + 1} already"
                )
            seen.setdefault(name, key)
        try:
            yaml.constructor.SafeConstructor().flatten_mapping(node)
        except yaml.constructor.ConstructorError as error:
            faults.append(f"{place(node)}: is no YAML: {error.problem}")
        node.value = [(key, _included(value, file, faults, deep=deep)) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        node.value = [_included(value, file, faults, deep=deep) for value in node.value]
    return node


def _one_included(node: yaml.ScalarNode, file: Path, faults: list[str], *, deep: int) -> yaml.Node:
    if node.tag != INCLUDE.strip() and not node.value.startswith(INCLUDE):
        return node
    named = node.value.removeprefix(INCLUDE).strip()
    target = file.parent / named
    if deep >= INCLUDES_DEEP_MAX:
        faults.append(f"{place(node)}: includes itself, or more than {INCLUDES_DEEP_MAX} levels")
    elif not target.is_file():
        faults.append(f"{place(node)}: includes {named}, which is not there")
    else:
        return _composed(target, faults, deep=deep + 1) or node
    return node
