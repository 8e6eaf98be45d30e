"""Programs that see another time of day: Debian's libfaketime, loaded into them alone."""

from collections.abc import Mapping
from pathlib import Path

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def missing_clock() -> str:
    """Why no program can be given another clock; empty if one can."""
    return "" if _LIBRARIES else "needs libfaketime (Debian: faketime)"


class Clock:
    """The clock on the wall of programs that run, which can be set."""

    def __init__(self, file: Path, shift: str = "+0") -> None:
        """Keep in `file` what it shows."""
        self._file = file
        self.set(shift)
        self.environment: Mapping[str, str] = {
            "LD_PRELOAD": str(_LIBRARIES[0]),
            "FAKETIME_TIMESTAMP_FILE": str(file),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }

    def set(self, shift: str) -> None:
        """Have it be off by `shift`, as in "-2d", or go on from a moment, as in "@1970-01-01 00:00:10"."""
        (new := self._file.with_suffix(".new")).write_text(shift + "\n")
        new.rename(self._file)


def clock(shift: str) -> Mapping[str, str]:
    """The environment of a program whose clock on the wall is off by `shift`, as in "-2d"."""
    # Only the clock on the wall: its timers go on as they are.
    return {"LD_PRELOAD": str(_LIBRARIES[0]), "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
