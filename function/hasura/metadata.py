"""A Hasura project's metadata (CLI config v3): read with its includes resolved and every place
known, and checked.

MetadataError   it cannot be read; names every fault with its file and line
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import yaml

from function.core.finding import FaultsError, FileLocation, Finding, Level
from function.rules.yaml_nodes import line_of, read_plain

# Includes of includes: Hasura's own have three levels.
INCLUDES_DEEP_MAX: Final = 10
INCLUDE: Final = "!include "


class MetadataError(FaultsError):
    """The metadata cannot be read."""


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


def read_metadata(project: Path) -> Metadata:
    """Read ``metadata/`` of the Hasura project in *project* (the folder that holds config.yaml).

    Raises MetadataError.
    """
    folder = project / _metadata_folder(project)
    if not (folder / "version.yaml").is_file():
        what = "is no Hasura metadata folder (there is no version.yaml)"
        raise MetadataError(_fault(folder, what))
    faults: list[Finding] = []
    found = Metadata(
        sources=_composed_if_there(folder / "databases" / "databases.yaml", faults),
        cron_triggers=_composed_if_there(folder / "cron_triggers.yaml", faults),
        cron_triggers_file=folder / "cron_triggers.yaml",
    )
    if faults:
        raise MetadataError(*dict.fromkeys(faults))
    return found


def locate(node: yaml.Node, path: str = "") -> FileLocation:
    """Where a node stands; *path* leads to it."""
    return FileLocation(node.start_mark.name, line_of(node), path)


def _fault(where: Path | FileLocation, what: str) -> Finding:
    """A fault of a file, of a folder or of a line."""
    location = str(where) if isinstance(where, Path) else where
    return Finding(Level.FAULT, location, what, end="")


def _metadata_folder(project: Path) -> str:
    config = project / "config.yaml"
    if not config.is_file():
        what = "is not there; name the folder of a Hasura CLI project"
        raise MetadataError(_fault(config, what))
    faults: list[Finding] = []
    named = read_plain(_composed(config, faults, deep=0))
    if faults:
        raise MetadataError(*faults)
    folder = named.get("metadata_directory", "metadata") if isinstance(named, dict) else "metadata"
    return str(folder)


def _composed_if_there(file: Path, faults: list[Finding]) -> yaml.Node | None:
    return _composed(file, faults, deep=0) if file.is_file() else None


def _composed(file: Path, faults: list[Finding], *, deep: int) -> yaml.Node | None:
    """What *file* holds; what cannot be read is None, and one of the *faults*."""
    try:
        with file.open(encoding="utf-8") as stream:  # a stream with a name gives it to every mark
            node = yaml.compose(stream, Loader=yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        location = FileLocation(str(file), line)
        faults.append(_fault(location, f"is no YAML: {error.problem}"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError, RecursionError) as error:
        faults.append(_fault(file, f"cannot be read: {type(error).__name__}"))
    else:
        return _included(node, file, faults, deep=deep) if node is not None else None
    return None


def _included(node: yaml.Node, file: Path, faults: list[Finding], *, deep: int) -> yaml.Node:
    """*node* with what it includes in the place of the includes (Hasura writes them as quoted
    texts), and with what it merges (``<<``)."""
    if isinstance(node, yaml.ScalarNode):
        return _one_included(node, file, faults, deep=deep)
    if isinstance(node, yaml.MappingNode):
        seen: dict[str, yaml.Node] = {}
        for key, _ in node.value:
            name = str(key.value)
            if name in seen and name != "<<":
                what = f"`{name}` stands in line {line_of(seen[name])} already"
                faults.append(_fault(locate(key), what))
            seen.setdefault(name, key)
        try:
            yaml.constructor.SafeConstructor().flatten_mapping(node)
        except yaml.constructor.ConstructorError as error:
            faults.append(_fault(locate(node), f"is no YAML: {error.problem}"))
        node.value = [(key, _included(value, file, faults, deep=deep)) for key, value in node.value]
    elif isinstance(node, yaml.SequenceNode):
        node.value = [_included(value, file, faults, deep=deep) for value in node.value]
    return node


def _one_included(
    node: yaml.ScalarNode, file: Path, faults: list[Finding], *, deep: int
) -> yaml.Node:
    if node.tag != INCLUDE.strip() and not node.value.startswith(INCLUDE):
        return node
    named = node.value.removeprefix(INCLUDE).strip()
    target = file.parent / named
    if deep >= INCLUDES_DEEP_MAX:
        what = f"includes itself, or more than {INCLUDES_DEEP_MAX} levels"
        faults.append(_fault(locate(node), what))
    elif not target.is_file():
        faults.append(_fault(locate(node), f"includes {named}, which is not there"))
    else:
        return _composed(target, faults, deep=deep + 1) or node
    return node
