"""Spans of time as people write them: `24h`, `30m`, `7d`, `1h30m`."""

import re
from datetime import timedelta

_FORM = re.compile(r"(?:(\d{1,6})d)?(?:(\d{1,6})h)?(?:(\d{1,6})m)?(?:(\d{1,6})s)?", re.ASCII)


def parse_duration(text: str) -> timedelta:
    """Read a positive duration; raises ValueError."""
    found = _FORM.fullmatch(text)
    if found is None or not text:
        raise ValueError(f"{text!r} is not a duration: write 24h, 30m, 7d or 1h30m")
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    duration = timedelta(days=days, hours=hours, minutes=minutes, seconds=seconds)
    if not duration:
        raise ValueError(f"{text!r} is no time at all")
    return duration
