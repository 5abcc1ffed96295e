"""What each rule last gave the app of a ticket: the base with which a look is compared."""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from function.ledger.backend import Record
from function.ledger.database import Database, Transaction, name_values
from function.ledger.records import Shadow, ShadowUpdate

_FIND = "SELECT * FROM servicenow.shadow WHERE instance = :instance AND sys_id IN ({})"
_SAVE = """
INSERT INTO servicenow.shadow (instance, rule, sys_id, image, mod_count, awaits_insert, journal,
    window_start, window_count, updated_at)
VALUES (:instance, :rule, :sys_id, :image, :mod_count, :awaits_insert, :journal,
    :window_start, :window_count, {now})
ON CONFLICT (instance, rule, sys_id) DO UPDATE SET
    image = :image, mod_count = :mod_count, awaits_insert = :awaits_insert, journal = :journal,
    window_start = :window_start, window_count = :window_count, updated_at = {now}
"""


class ShadowRepository:
    """The shadows of tickets. They change under the ticket's lease only (see ticket_syncs.py)."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def find(self, instance: str, sys_ids: Collection[str]) -> list[Shadow]:
        """The shadows of several tickets."""
        if not sys_ids:
            return []
        return self._database.run(lambda transaction: _find(transaction, instance, sys_ids))


def find_shadows(transaction: Transaction, instance: str, sys_id: str) -> list[Shadow]:
    return _find(transaction, instance, [sys_id])


def _find(transaction: Transaction, instance: str, sys_ids: Collection[str]) -> list[Shadow]:
    listed, named = name_values(sys_ids)
    return [
        _read(row) for row in transaction.execute(_FIND.format(listed), instance=instance, **named)
    ]


def save_shadows(transaction: Transaction, instance: str, shadows: Sequence[Shadow]) -> None:
    for shadow in shadows:
        transaction.execute(
            _SAVE,
            instance=instance,
            rule=shadow.rule,
            sys_id=shadow.sys_id,
            image=json.dumps(dict(shadow.image)),
            mod_count=shadow.mod_count,
            awaits_insert=shadow.awaits_insert,
            journal=shadow.journal,
            window_start=shadow.window_start,
            window_count=shadow.window_count,
        )


def drop_shadows(
    transaction: Transaction, instance: str, sys_id: str, rules: Collection[str]
) -> None:
    """The ticket is gone, and the app was told so by *rules*."""
    for rule in rules:
        transaction.execute(
            "DELETE FROM servicenow.shadow "
            "WHERE instance = :instance AND sys_id = :sys_id AND rule = :rule",
            instance=instance,
            sys_id=sys_id,
            rule=rule,
        )


def update_shadows(
    transaction: Transaction, instance: str, sys_id: str, update: ShadowUpdate
) -> None:
    """Write down what a write of ours says of the shadows of the ticket *sys_id*."""
    found = {shadow.rule: shadow for shadow in find_shadows(transaction, instance, sys_id)}
    changed = [
        replace(shadow, image={**shadow.image, **values})
        for shadow in found.values()
        if (values := _doubts(shadow.image, update.agreed) | _news(shadow.image, update.values))
    ]
    former = _find_former(transaction, instance, update)
    changed += [
        Shadow(
            rule,
            sys_id,
            {**image, **former.get(rule, {})},
            update.mod_count,
            awaits_insert=rule in update.inserting,
        )
        for rule, image in update.first_images.items()
        if rule not in found
    ]
    save_shadows(transaction, instance, changed)


def _find_former(
    transaction: Transaction, instance: str, update: ShadowUpdate
) -> dict[str, dict[str, str | None]]:
    """By rule, what the app was given of the row's former ticket."""
    if not update.former:
        return {}
    return {
        shadow.rule: {
            column: value
            for column, value in shadow.image.items()
            if column in update.former_columns
        }
        for shadow in find_shadows(transaction, instance, update.former)
        if shadow.rule not in update.inserting
    }


def _doubts(
    image: Mapping[str, str | None], agreed: Mapping[str, str | None]
) -> dict[str, str | None]:
    """The image's columns of which it is not known from now on what the app has."""
    return {
        column: None
        for column, value in agreed.items()
        if image.get(column) is not None and image[column] != value
    }


def _news(image: Mapping[str, str | None], values: Mapping[str, str]) -> dict[str, str | None]:
    """Of *values*, those of the image's columns that it does not have."""
    return {
        column: value
        for column, value in values.items()
        if column in image and image[column] != value
    }


def _read(row: Record) -> Shadow:
    return Shadow(
        row["rule"],
        row["sys_id"],
        json.loads(row["image"]),
        row["mod_count"],
        bool(row["awaits_insert"]),
        row["journal"],
        row["window_start"],
        row["window_count"],
        row["updated_at"],
    )
