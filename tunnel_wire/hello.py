"""Link control messages: hello and drain (spec.md, 3 and 4)."""

from __future__ import annotations

import secrets
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

HELLO_PATH: Final = "/hello"
DRAIN_PATH: Final = "/drain"
RESUMED_PATH: Final = "/resumed"

RESUME: Final = "resume"
"""The capability of resuming streams on a new link (spec.md, 7)."""
OPTIMISTIC: Final = "optimistic-data"
"""The capability of taking a stream's data before the answer to its CONNECT (spec.md, 5.2)."""

Headers = list[tuple[bytes, bytes]]

_MAX_FIELD: Final = 256
_MAX_DIGITS: Final = 15
_MAX_LINK: Final = 255


class DrainReason(StrEnum):
    """Why a link is retired. An unknown one reads as SHUTDOWN."""

    SHUTDOWN = "shutdown"
    DUPLICATE = "duplicate"
    REVOKED = "revoked"
    EXPIRED = "expired"
    REPLACED = "replaced"

    @classmethod
    def read(cls, text: str) -> DrainReason:
        """The reason named on the wire."""
        try:
            return cls(text)
        except ValueError:
            return cls.SHUTDOWN


class BadHello(ValueError):
    """The peer's hello lacks or garbles a field."""


def new_id() -> str:
    """A session or instance id: 128 random bits, hex."""
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class Hello:
    """One end's introduction. The session id is a secret and stays out of `repr`."""

    version: str
    instance: str = ""
    session: str = field(default="", repr=False)
    node: str = ""
    link: int = 0
    capabilities: frozenset[str] = frozenset()
    time: int | None = None
    """Of the sender's clock, in seconds since the epoch; None if it does not say."""
    grace: int = 0
    """Seconds for which the server resumes streams."""
    grace_pooled: int | None = None
    """The same for those that many requests share; None if it does not say."""
    links: frozenset[int] | None = None
    """Indices of the agent's links that live, this one included; None if it does not say."""

    def to_headers(self) -> Headers:
        """The fields that say something, in a fixed order."""
        fields = [("version", self.version), ("instance", self.instance), ("session", self.session)]
        if self.session:
            fields += [("node", self.node), ("link", str(self.link))]
        if self.time is not None:
            fields.append(("time", str(self.time)))
        if self.grace:
            fields.append(("grace", str(self.grace)))
        if self.grace_pooled is not None:
            fields.append(("grace-pooled", str(self.grace_pooled)))
        if self.links is not None:
            fields.append(("links", write_links(self.links)))
        fields.append(("capabilities", ",".join(sorted(self.capabilities))))
        return [(b"tunnel-" + name.encode(), value.encode()) for name, value in fields if value]

    @classmethod
    def from_headers(cls, headers: Headers) -> Hello:
        """Read the peer's fields, ignoring unknown ones. Raises `BadHello`."""
        fields = read_fields(headers)
        session, instance = fields.get("session", ""), fields.get("instance", "")
        for name, value in (("session", session), ("instance", instance)):
            if value and (len(value) != 32 or not set(value) <= set("0123456789abcdef")):
                raise BadHello(f"tunnel-{name} is not 128 bits in hex")
        time_text, links = fields.get("time", ""), fields.get("links")
        if time_text and read_number(time_text) is None:
            raise BadHello("tunnel-time is not a number of seconds")
        graces = {name: read_number(fields[name]) for name in ("grace", "grace-pooled") if name in fields}
        for name, seconds in graces.items():
            if seconds is None:
                raise BadHello(f"tunnel-{name} is not a number of seconds")
        names = fields.get("capabilities", "")
        capabilities = frozenset(name.strip() for name in names.split(",") if name.strip())
        return cls(
            fields.get("version", ""),
            instance,
            session,
            fields.get("node", ""),
            _read_link("link", fields.get("link", "0")),
            capabilities,
            int(time_text) if time_text else None,
            graces.get("grace") or 0,
            graces.get("grace-pooled"),
            None if links is None else read_links(links),
        )


def read_links(text: str) -> frozenset[int]:
    """`tunnel-links`. Raises `BadHello`."""
    return frozenset(_read_link("links", each) for each in text.split(","))


def write_links(links: frozenset[int]) -> str:
    """The same for `read_links`."""
    return ",".join(map(str, sorted(links)))


def _read_link(name: str, text: str) -> int:
    index = read_number(text)
    if index is None or index > _MAX_LINK:
        raise BadHello(f"tunnel-{name} is not a number from 0 to 255")
    return index


def read_number(text: str) -> int | None:
    """A whole number of at most 15 digits; None if it is none."""
    return int(text) if text.isascii() and text.isdigit() and len(text) <= _MAX_DIGITS else None


def read_fields(headers: Headers) -> dict[str, str]:
    """The `tunnel-` fields by name without the prefix. Oversized ones are left out, bytes beyond ASCII
    replaced.
    """
    return {
        name[7:].decode("ascii", "replace"): value.decode("ascii", "replace")
        for name, value in headers
        if name.startswith(b"tunnel-") and len(value) <= _MAX_FIELD
    }
