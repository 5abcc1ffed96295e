"""What there is to try in a project: a file of its own says so, `try.txt` beside its config.yaml.

In it, ``${incidents}`` and its like stand for what is another one each time: addresses, secrets,
and the way to the database.
"""

from collections.abc import Mapping
from pathlib import Path
from string import Template
from typing import Final

FILE: Final = "try.txt"


class SuggestionsError(Exception):
    """A project's `try.txt` names what there is not; the text is a sentence for its author."""


def read_suggestions(project: Path, names: Mapping[str, str]) -> list[str]:
    """The lines of the project's `try.txt`, with *names* filled in; none where it has no such file.
    Raises SuggestionsError."""
    file = project / FILE
    if not file.is_file():
        return []
    template = Template(file.read_text("utf-8"))
    known = ", ".join(f"${{{name}}}" for name in sorted(names))
    try:
        return template.substitute(names).rstrip().split("\n")
    except KeyError as unknown:
        sentence = f"{file}: there is no ${{{unknown.args[0]}}} here. There are {known}."
        raise SuggestionsError(sentence) from None
    except ValueError:
        sentence = f"{file}: a lone dollar sign is written $$; what is filled in is {known}."
        raise SuggestionsError(sentence) from None
