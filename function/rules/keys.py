"""Keys as texts: what identifies a row, or the row that another one is for. Pure."""

import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from function.core.finding import FileLocation
from function.core.outcome import Reason
from function.core.values import settle_value
from function.rules.budget import MissingKeyError, RenderBudget, RenderError
from function.rules.model import RuleTemplate

# A key stands in the ledger's primary key, in answers and in mails.
KEY_CHARACTERS_MAX: Final = 255
# Between the parts of a key that is a list; in a part, it and a backslash stand behind a backslash.
KEY_SEPARATOR: Final = "/"
# PostgreSQL stores no NUL, and nobody stores half a character.
_UNSTORABLE = re.compile("[\x00\ud800-\udfff]")


def render_key(
    parts: Sequence[RuleTemplate],
    names: Mapping[str, Any],
    budget: RenderBudget,
    *,
    where: FileLocation,
    called: str,
    needed: str,
) -> str:
    """The key that *parts* give. Faults call it *called*; *needed* says why it must not be empty.

    Raises MissingKeyError where it is null or empty, RenderError where it is no key.
    """
    names = {**names, "item": settle_value(names["item"])}
    empty = f"{called if len(parts) == 1 else f'a part of {called}'} is empty; {needed}"
    key = join_key(
        [_render_part(part, names, budget, called=called, empty=empty) for part in parts]
    )
    if len(key) > KEY_CHARACTERS_MAX:
        raise RenderError(
            f"{called} is over {KEY_CHARACTERS_MAX} characters", Reason.BAD_KEY, where=where
        )
    return key


def _render_part(
    rule_template: RuleTemplate,
    names: Mapping[str, Any],
    budget: RenderBudget,
    *,
    called: str,
    empty: str,
) -> str:
    part = rule_template.text(names, budget, in_key=True)
    if not part.strip():
        raise MissingKeyError(empty, where=rule_template.where)
    if _UNSTORABLE.search(part):
        raise RenderError(
            f"{called} holds a character that no database stores",
            Reason.BAD_KEY,
            where=rule_template.where,
        )
    return part


def join_key(parts: Sequence[str]) -> str:
    """The key of several *parts*, which no other parts have; one part alone is the key."""
    if len(parts) == 1:
        return parts[0]
    return KEY_SEPARATOR.join(
        part.replace("\\", "\\\\").replace(KEY_SEPARATOR, f"\\{KEY_SEPARATOR}") for part in parts
    )
