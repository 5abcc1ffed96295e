"""Where a file stands says what it may import: nothing above it, and what is pure knows
no outside."""

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

HERE = Path(__file__).parent.parent
FUNCTION = HERE / "function"

# Packages, and files that stand beside them; each may import those on the floors below its own.
FLOORS = (
    ("core",),
    ("deadline", "failpoints", "http", "log", "parallel"),
    ("rules", "sources", "servicenow", "ledger"),
    ("secretmanager", "notices", "hasura"),
    ("settings", "rule_variables"),
    ("connection", "command_access"),
    ("targets",),
    ("delivery_context",),
    ("rule_delivery",),
    ("settling",),
    ("engine",),
    ("inbound",),
    ("housekeeping", "answers", "admission"),
    ("api",),
    ("app",),
    ("wiring",),
    ("cli",),
    ("__main__",),
)
# What a client for ServiceNow, a ledger, and our use of the client know nothing of, though it
# stands below them.
UNKNOWN_TO = {
    "hasura": {"servicenow", "ledger"},
    "servicenow": {"deadline", "failpoints", "log"},
    "ledger": {"failpoints", "log", "rules", "servicenow"},
    "notices": {"rules", "servicenow"},
}
PURE = ("core", "rules", "sources")
# Of the standard library and beside it, all that the pure packages use: no I/O, no clock, no
# randomness.
PURE_IMPORTS = frozenset(
    [
        "ast",
        "base64",
        "binascii",
        "collections",
        "contextlib",
        "contextvars",
        "copy",
        "dataclasses",
        "datetime",
        "decimal",
        "difflib",
        "enum",
        "fractions",
        "functools",
        "graphql",
        "hashlib",
        "hmac",
        "itertools",
        "jinja2",
        "json",
        "markupsafe",
        "math",
        "msgspec",
        "operator",
        "re",
        "standardwebhooks",
        "string",
        "types",
        "typing",
        "unicodedata",
        "yaml",
        "zoneinfo",
    ]
)
# A render that goes on for too long is ended by the processor time that it used: a bound, not a
# clock that rules see. What it makes is collected in memory, and its size is asked for.
MORE_IMPORTS = {
    "rules/budget.py": {"sys", "time"},
    "rules/template_values.py": {"io"},
    # A form is taken apart; a signature is compared, by a clock that it is given.
    "sources/slack.py": {"slack_sdk", "urllib"},
}


def place_of(module: str) -> str:
    """The package of ours, or the file beside the packages, in which *module* is."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def imports(path: Path) -> Iterator[str]:
    """The modules that a file imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text("utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, f"{path}: imports by its full name, please"
            if node.module == "function":
                yield from (f"function.{alias.name}" for alias in node.names)
            else:
                yield node.module


FILES = sorted(FUNCTION.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(FUNCTION)))
def test_nothing_imports_what_is_above_it(path: Path) -> None:
    floor_of = {name: number for number, floor in enumerate(FLOORS) for name in floor}
    mine = path.relative_to(FUNCTION).parts[0].removesuffix(".py")
    others = {place_of(name) for name in imports(path) if name.startswith("function.")} - {mine}
    if mine == "__init__":
        assert not others
        return
    assert mine in floor_of, f"function/{mine} has no floor yet: say in FLOORS where it stands"
    above = {other for other in others if floor_of[other] >= floor_of[mine]}
    assert not above | (others & UNKNOWN_TO.get(mine, set()))


@pytest.mark.parametrize(
    "path",
    [
        path
        for path in FILES
        if path.relative_to(FUNCTION).parts[0] in PURE and path.name != "__main__.py"
    ],
    ids=lambda path: str(path.relative_to(FUNCTION)),
)
def test_what_is_pure_knows_no_outside(path: Path) -> None:
    used = {name.partition(".")[0] for name in imports(path)} - {"function"}
    assert used - MORE_IMPORTS.get(str(path.relative_to(FUNCTION)), set()) <= PURE_IMPORTS
    assert (
        PURE_IMPORTS - {"graphql", "jinja2", "markupsafe", "msgspec", "standardwebhooks", "yaml"}
        <= sys.stdlib_module_names
    )


def test_the_architecture_page_names_every_file_and_no_other() -> None:
    page = (HERE / "docs" / "architecture.md").read_text("utf-8")
    tree = page.partition("```text\nfunction/\n")[2].partition("```")[0]
    folders: list[str] = []
    named = set()
    for line in tree.splitlines():
        name = line.split()[0]
        depth = (len(line) - len(line.lstrip())) // 2 - 1
        folders[depth:] = [name] if name.endswith("/") else []
        if not name.endswith("/"):
            named.add("".join(folders[:depth]) + name)

    assert named == {
        str(path.relative_to(FUNCTION)) for path in FILES if path.name != "__init__.py"
    }
