"""When a certificate is valid, as its holder's peer sees it, and what a wrong clock has to do with it.

Standard library only.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

BACK_DATED = timedelta(hours=1)
"""Certificates begin this long before they were issued: the reader's clock may be slow."""

_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")


@dataclass(frozen=True)
class Validity:
    """From when until when, in seconds since the epoch."""

    not_before: float
    not_after: float

    @classmethod
    def from_peer_certificate(cls, certificate: Mapping[str, object]) -> "Validity":
        """Read `ssl.SSLObject.getpeercert()`."""
        return cls(_seconds(str(certificate["notBefore"])), _seconds(str(certificate["notAfter"])))

    @property
    def issued(self) -> float:
        """When our authority issued it, to the second."""
        return self.not_before + BACK_DATED.total_seconds()

    def problem(self, now: float) -> str | None:
        """Say why a clock that shows `now` refuses a certificate, with both times; None if it does not."""
        if now < self.not_before:
            return f"is valid from {moment(self.not_before)} only, and the server's clock says {moment(now)}"
        if now >= self.not_after:
            return f"expired at {moment(self.not_after)}, and the server's clock says {moment(now)}"
        return None


def _seconds(text: str) -> float:
    """`Jun  9 12:00:00 2030 GMT`, as OpenSSL prints times, in seconds since the epoch.

    `ssl.cert_time_to_seconds` has strptime read it, which costs each agent 150 KiB and 4 ms of its start for
    month names in the local language.
    """
    month, day, clock, year, _ = text.split()
    hour, minute, second = map(int, clock.split(":"))
    date = int(year), _MONTHS.index(month) + 1, int(day)
    return datetime(*date, hour, minute, second, tzinfo=UTC).timestamp()


def moment(seconds: float) -> str:
    """Seconds since the epoch as people read them."""
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
