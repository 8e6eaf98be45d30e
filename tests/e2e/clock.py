"""Programs that see another time of day: Debian's libfaketime, loaded into them alone."""

from collections.abc import Mapping
from pathlib import Path

_LIBRARIES = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))


def missing_clock() -> str:
    """Why no program can be given another clock; empty if one can."""
    return "" if _LIBRARIES else "needs libfaketime (Debian: faketime)"


def clock(shift: str) -> Mapping[str, str]:
    """The environment of a program whose clock on the wall is off by `shift`, as in "-2d"."""
    # Only the clock on the wall: its timers go on as they are.
    return {"LD_PRELOAD": str(_LIBRARIES[0]), "FAKETIME": shift, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
