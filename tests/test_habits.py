"""The files that a project has beside its code are there, and what they point to is there too."""

import os
import re
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent.parent
FILES = (
    "LICENSE",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "SECURITY.md",
    ".editorconfig",
    "Makefile",
    "docker-compose.yaml",
)
PAGES = sorted([*HERE.glob("*.md"), *HERE.glob("docs/*.md")])


def make(*arguments: str) -> str:
    """What make prints, as from a shell and not from within another make."""
    environ = {name: value for name, value in os.environ.items() if "MAKE" not in name}
    command = ["make", f"--directory={HERE}", "--no-print-directory", *arguments]
    ended = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    return ended.stdout


def links(page: Path) -> list[str]:
    """The targets of the links in *page* that stay within this repository."""
    text = re.sub(r"^```.*?^```|`[^`\n]*`", "", page.read_text("utf-8"), flags=re.M | re.S)
    return [link for link in re.findall(r"\]\(([^)\s]+)\)", text) if ":" not in link]


def headings(page: Path) -> set[str]:
    """What a link to a heading of *page* may say after its ``#``."""
    written = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in written}


@pytest.mark.parametrize("name", FILES)
def test_the_file_is_there(name: str) -> None:
    assert (HERE / name).read_text("utf-8").strip()


def test_the_licence_is_the_apache_licence() -> None:
    text = (HERE / "LICENSE").read_text("utf-8").split()

    assert text[:5] == ["Apache", "License", "Version", "2.0,", "January"]
    assert len(text) == 1581


def test_make_help_lists_every_target_with_what_it_does() -> None:
    targets = re.findall(r"^\.PHONY: (.*)$", (HERE / "Makefile").read_text("utf-8"), re.MULTILINE)
    listed = re.findall(r"^make ([a-z]+) +(\S.*)$", make("help"), re.MULTILINE)

    assert {name for name, _ in listed} == {name for names in targets for name in names.split()}
    assert all(len(what) > 10 for _, what in listed)


def test_make_alone_does_what_make_run_does() -> None:
    assert make("--dry-run") == make("--dry-run", "run")


def test_the_changelog_begins_with_what_is_not_released_yet() -> None:
    chapters = re.findall(r"^## (.*)$", (HERE / "CHANGELOG.md").read_text("utf-8"), re.MULTILINE)

    assert chapters[0] == "Unreleased"


def test_the_compose_file_says_that_it_was_not_run() -> None:
    text = (HERE / "docker-compose.yaml").read_text("utf-8")

    assert "It was not run" in text.partition("\nname:")[0]


def test_the_architecture_is_short_enough_to_be_read_in_one_go() -> None:
    text = (HERE / "docs" / "architecture.md").read_text("utf-8")
    drawings = re.findall(r"^```mermaid\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    prose = re.sub(r"^```(?:mermaid|text)\n.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    words = [word for word in prose.split() if re.search(r"\w", word)]

    assert 1500 < len(words) < 2250
    assert {drawing.split()[0] for drawing in drawings} == {
        "flowchart",
        "sequenceDiagram",
        "stateDiagram-v2",
    }


def test_what_contributing_says_to_run_is_there() -> None:
    text = (HERE / "CONTRIBUTING.md").read_text("utf-8")
    targets = re.findall(r"^make ([a-z]+)", make("help"), re.MULTILINE)
    tests = re.findall(r'pytest "?(tests/[\w/.]+)(?:::(\w+))?', text)

    assert set(re.findall(r"^make ([a-z]+)", text, re.MULTILINE)) <= set(targets)
    assert len(tests) > 1
    assert all(f"def {name}" in (HERE / file).read_text("utf-8") for file, name in tests)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_to_a_file_and_to_a_heading_of_it(page: Path) -> None:
    for link in links(page):
        path, _, heading = link.partition("#")
        target = (page.parent / path).resolve() if path else page

        assert target.exists(), link
        assert not heading or heading in headings(target), link
