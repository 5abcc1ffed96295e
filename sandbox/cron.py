"""When a cron expression is due: five fields of numbers, `*`, `a-b`, `*/n`, `a-b/n` and lists of
them, in UTC."""

import re
from datetime import UTC, datetime, timedelta
from typing import Final

# 29 February is eight years away at most (around 1900 and 2100).
_AHEAD_DAYS_MAX: Final = 8 * 366 + 1
_PART: Final = re.compile(r"(\*|\d{1,2})(?:-(\d{1,2}))?(?:/(\d{1,2}))?", re.ASCII)


class Cron:
    """One expression. Making it raises ValueError with a sentence where it is none, or means 30
    February."""

    def __init__(self, expression: str) -> None:
        fields = expression.split()
        if len(fields) != 5:
            raise ValueError(
                f"{expression!r} has {len(fields)} fields, and a cron expression has five"
            )
        self._minutes = _values(fields[0], 0, 59)
        self._hours = _values(fields[1], 0, 23)
        self._days = _values(fields[2], 1, 31)
        self._months = _values(fields[3], 1, 12)
        self._weekdays = {day % 7 for day in _values(fields[4], 0, 7)}  # 7 is Sunday too
        # POSIX: where both days are restricted, either will do.
        self._either = not fields[2].startswith("*") and not fields[4].startswith("*")
        self.after(datetime.now(UTC))

    def after(self, at: datetime) -> datetime:
        """The first time after *at*."""
        at = at.astimezone(UTC).replace(second=0, microsecond=0) + timedelta(minutes=1)
        for _ in range(_AHEAD_DAYS_MAX):
            if self._on(at):
                for hour in range(at.hour, 24):
                    from_minute = at.minute if hour == at.hour else 0
                    minute = min(
                        (minute for minute in self._minutes if minute >= from_minute), default=None
                    )
                    if hour in self._hours and minute is not None:
                        return at.replace(hour=hour, minute=minute)
            at = at.replace(hour=0, minute=0) + timedelta(days=1)
        raise ValueError("no date is meant by this cron expression")

    def _on(self, day: datetime) -> bool:
        if day.month not in self._months:
            return False
        by_day, by_weekday = day.day in self._days, day.isoweekday() % 7 in self._weekdays
        return by_day or by_weekday if self._either else by_day and by_weekday


def _values(field: str, first: int, last: int) -> set[int]:
    values: set[int] = set()
    for part in field.split(","):
        read = _PART.fullmatch(part)
        if read is None or (read[1] == "*" and read[2]):
            raise ValueError(f"{part!r} is no field of a cron expression")
        low = first if read[1] == "*" else int(read[1])
        high = int(read[2]) if read[2] else last if read[1] == "*" or read[3] else low
        step = int(read[3]) if read[3] else 1
        if not (first <= low <= high <= last and step):
            raise ValueError(f"{part!r} is outside {first}-{last}")
        values.update(range(low, high + 1, step))
    return values
