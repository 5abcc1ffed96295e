"""Reference fields of a rule's ticket by name, over the line and within an event's deadline."""

from collections.abc import Sequence

from function.connection.guarded import GuardedTables
from function.deadline import Deadline
from function.servicenow import Record
from function.servicenow import references as names


class ReferenceLookup:
    """Names to sys_ids, remembered in this process (see function/servicenow/references.py)."""

    def __init__(self, line: GuardedTables) -> None:
        self._line = line
        self._names = names.References()

    def sys_id(self, table: str, field: str, name: str, *, deadline: Deadline) -> str:  # noqa: ARG002  # by table later
        """What to send for *name* in *field*: itself where the field is no reference, nothing where
        it is blank.

        Raises ServiceNowError: UnknownReference where no record, or more than one, goes by that
        name.
        """

        def find(referred: str, query: str, fields: Sequence[str], limit: int) -> list[Record]:
            return self._line.find(referred, query, fields=fields, limit=limit, deadline=deadline)

        return self._names.sys_id(field, name, find=find, left_seconds=deadline.left)
