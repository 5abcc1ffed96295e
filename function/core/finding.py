"""What is wrong with settings, rules, metadata or the instance, or worth knowing. Pure.

FaultsError   what was read cannot be used; its text has every fault, one a line
"""

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """A FAULT keeps tickets from being as the rules say; a WARNING may; a NOTE is for
    information."""

    FAULT = "fault"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class FileLocation:
    """A line of a file, and what stands there: ``rules.yaml:17: rules[0].ticket.table``."""

    file: str
    line: int
    path: str = ""

    def key(self, name: str) -> "FileLocation":
        """The same line for the key *name* of what stands there."""
        return FileLocation(self.file, self.line, f"{self.path}.{name}")

    def __str__(self) -> str:
        line = f"{self.file}:{self.line}"
        return f"{line}: {self.path}" if self.path else line


@dataclass(frozen=True, slots=True)
class Finding:
    """*where* is a line of a file, or the name of a file, of a setting, or of the instance.

    *remedy* says what to do where *problem* does not. *sep* and *end* are what they are to print():
    what stands before and after the problem in the sentence. A setting's name reads on into what is
    wrong with it; what is wrong with a line of a file is no whole sentence.
    """

    level: Level
    where: FileLocation | str
    problem: str
    remedy: str = ""
    sep: str = ": "
    end: str = "."

    @property
    def line(self) -> int | None:
        """The line of the file; None for what stands in no file."""
        return self.where.line if isinstance(self.where, FileLocation) else None

    def to_json(self) -> dict[str, str | int | None]:
        return {
            "level": self.level.value,
            "where": str(self.where),
            "line": self.line,
            "what": self.problem.rstrip("."),
            "do": self.remedy.rstrip("."),
        }

    def __str__(self) -> str:
        problem = _ended(self.problem, self.end)
        remedy = f" {_ended(self.remedy, '.')}" if self.remedy else ""
        return f"{self.where}{self.sep}{problem}{remedy}"


class FaultsError(Exception):
    """What was read cannot be used: *faults* are all that is wrong with it."""

    def __init__(self, *faults: Finding) -> None:
        super().__init__("\n".join(map(str, faults)))
        self.faults = faults


def _ended(text: str, end: str) -> str:
    return text if text.endswith((".", "?")) else f"{text}{end}"
