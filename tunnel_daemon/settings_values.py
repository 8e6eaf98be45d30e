"""One value of a configuration file turned into one typed Python value, and back.

Understands str, bool, int, float, pathlib.Path, Literal choices, IP addresses and networks,
``tuple[X, ...]``, ``X | None``, and any class with a ``parse(text)`` classmethod. A unit
widens what a number accepts: "seconds" takes "90s", "5m", "24h"; "bytes" takes "16MiB".
Every function raises ValueError with words for the person who wrote the file.
"""

from __future__ import annotations

import ipaddress
import json
import math
import re
import types
import typing
from pathlib import Path
from typing import Any

Kind: typing.TypeAlias = Any
"""What typing.get_type_hints gives for a field: a class, a union, a Literal, tuple[X, ...]."""
Network = ipaddress.IPv4Network | ipaddress.IPv6Network
Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400}
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "KiB": 2**10, "MiB": 2**20, "GiB": 2**30}
_DURATION = re.compile(r"(?:\d{1,12}(?:\.\d{1,9})?(?:ms|[smhd]))+", re.ASCII)
_DURATION_PART = re.compile(r"([\d.]+)(ms|[smhd])", re.ASCII)
_SIZE = re.compile(r"(\d{1,15}) ?(B|kB|MB|GB|KiB|MiB|GiB)", re.ASCII)


def convert(kind: Kind, unit: str, value: object) -> object:
    """Return `value`, as tomllib gave it, as a `kind`; ValueError says what was expected."""
    declared = kind
    kind, optional = _unwrap_optional(kind)
    item = _item_kind(kind)
    if optional and value == "" and not item:
        return None
    if item:
        values = value if isinstance(value, list) else [value]
        return tuple(convert(item, unit, each) for each in values)
    if isinstance(value, str) and (parse := _text_parser(kind, unit)):
        return parse(value)
    if kind is float and unit and isinstance(value, int | float) and not isinstance(value, bool):
        return _finite(float(value))
    if kind is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if kind in {str, bool, int, float} and type(value) is kind:
        return _finite(value) if isinstance(value, float) else value
    raise ValueError(f"expected {expected(declared, unit)}, not {describe(value)}")


def from_text(kind: Kind, text: str) -> object:
    """Return `text`, from a command line, as tomllib would have given it for a `kind`."""
    kind, _ = _unwrap_optional(kind)
    if item := _item_kind(kind):
        return [from_text(item, part.strip()) for part in text.split(",") if part.strip()]
    if kind is bool and text in {"true", "false"}:
        return text == "true"
    if kind in {int, float}:
        try:
            return int(text) if kind is int else float(text)
        except ValueError:
            return text
    return text


def is_list(kind: Kind) -> bool:
    """Whether a `kind` is written as a list."""
    return _item_kind(_unwrap_optional(kind)[0]) is not None


def expected(kind: Kind, unit: str = "") -> str:
    """Name what a `kind` is, for people."""
    kind, optional = _unwrap_optional(kind)
    if item := _item_kind(kind):  # none is `[]`: what None stands for, only leaving the key out says
        return f"a list, each {expected(item, unit)}"
    if choices := _choices(kind):
        return "one of " + ", ".join(f'"{choice}"' for choice in choices)
    if unit == "seconds":
        name = 'a duration, in seconds or like "90s", "5m", "24h"'
    elif unit == "bytes":
        name = 'a size, in bytes or like "64KiB", "16MiB"'
    elif kind == Network:
        name = 'a network like "10.0.0.0/8"'
    elif kind == Address:
        name = 'an IP address like "192.0.2.7"'
    else:
        names = {str: "a string", bool: "true or false", int: "an integer", float: "a number", Path: "a path"}
        name = names.get(kind) or str(getattr(kind, "FORM", "a string"))
    return f'{name}, or "" for none' if optional else name


def describe(value: object) -> str:
    """Name a value as tomllib gave it, shortened."""
    match value:
        case bool():
            return str(value).lower()
        case str():
            return f'the string "{_shorten(value)}"'
        case int() | float():
            return f"the number {_shorten(str(value))}"
        case list():
            return "a list"
        case dict():
            return "a table"
    return f"a {type(value).__name__}"


def parse_duration(text: str) -> float:
    """Return the seconds in "1h30m", "90s", "250ms"; ValueError otherwise."""
    if not _DURATION.fullmatch(text):
        raise ValueError(f"expected {expected(float, 'seconds')}, not {describe(text)}")
    return float(sum(float(count) * _SECONDS[unit] for count, unit in _DURATION_PART.findall(text)))


def parse_size(text: str) -> int:
    """Return the bytes in "16MiB", "64KiB", "1GB"; ValueError otherwise."""
    if not (match := _SIZE.fullmatch(text)):
        raise ValueError(f"expected {expected(int, 'bytes')}, not {describe(text)}")
    return int(match[1]) * _BYTES[match[2]]


def parse_network(text: str) -> Network:
    """Return a network; ValueError names the network meant if host bits are set."""
    try:
        return ipaddress.ip_network(text)
    except ValueError:
        try:
            meant = ipaddress.ip_network(text, strict=False)
        except ValueError:
            raise ValueError(f"expected {expected(Network)}, not {describe(text)}") from None
        raise ValueError(f'"{text}" has host bits set; the network is "{meant}"') from None


def parse_address(text: str) -> Address:
    """Return an address; ValueError otherwise. Zones ("fe80::1%eth0") are refused."""
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        raise ValueError(f"expected {expected(Address)}, not {describe(text)}") from None
    if isinstance(address, ipaddress.IPv6Address) and address.scope_id:
        raise ValueError(f'"{text}" has a zone; give the address without it')
    return address


def toml_value(value: object, unit: str) -> str:
    """Write a value, as `convert` gave it, the way a file would."""
    match value:
        case None:
            return '""'
        case tuple():
            return f"[{', '.join(toml_value(each, unit) for each in value)}]"
        case bool():
            return str(value).lower()
        case int() | float() if unit == "seconds":
            return f'"{value:.12g}s"'
        case int() if unit == "bytes":
            return _size(value)
        case int() | float():
            return f"{value:g}" if isinstance(value, float) else str(value)
    return json.dumps(str(value), ensure_ascii=False)


def nearest(word: str, known: typing.Iterable[str]) -> str | None:
    """Return the known word that `word` was probably meant to be."""
    import difflib  # 140 KiB, for a mistake

    close = difflib.get_close_matches(word.replace("_", "-").lower(), list(known), n=1, cutoff=0.6)
    return close[0] if close else None


def _text_parser(kind: Kind, unit: str) -> typing.Callable[[str], object] | None:
    if unit == "seconds":
        return parse_duration
    if unit == "bytes":
        return parse_size
    if kind == Network:
        return parse_network
    if kind == Address:
        return parse_address
    if kind is Path:
        return _parse_path
    if choices := _choices(kind):
        return lambda text: _parse_choice(choices, text)
    parse: typing.Callable[[str], object] | None = getattr(kind, "parse", None)
    return parse


def _parse_path(text: str) -> Path:
    if not text or "\0" in text:
        raise ValueError("expected a path, not an empty string" if not text else "a path can't hold a NUL")
    return Path(text)


def _parse_choice(choices: tuple[str, ...], text: str) -> str:
    if text in choices:
        return text
    meant = nearest(text, choices)
    hint = f'; did you mean "{meant}"?' if meant else ""
    one_of = ", ".join(f'"{choice}"' for choice in choices)
    raise ValueError(f"expected one of {one_of}, not {describe(text)}{hint}")


def _finite(number: float) -> float:
    if not math.isfinite(number):
        raise ValueError(f"expected a finite number, not {number}")
    return number


def _unwrap_optional(kind: Kind) -> tuple[Any, bool]:
    if isinstance(kind, types.UnionType) or _origin(kind) is typing.Union:
        rest = [each for each in typing.get_args(kind) if each is not type(None)]
        if len(rest) < len(typing.get_args(kind)):
            union = rest[0]
            for each in rest[1:]:
                union |= each
            return union, True
    return kind, False


def _origin(kind: Kind) -> object:
    return typing.get_origin(kind)


def _item_kind(kind: Kind) -> Kind:
    return typing.get_args(kind)[0] if _origin(kind) is tuple else None


def _choices(kind: Kind) -> tuple[str, ...]:
    return typing.get_args(kind) if _origin(kind) is typing.Literal else ()


def _size(value: int) -> str:
    for factor, name in ((2**30, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if value and value % factor == 0:
            return f'"{value // factor}{name}"'
    return str(value)


def _shorten(text: str) -> str:
    text = text.encode("unicode_escape").decode()
    return text if len(text) <= 60 else text[:57] + "..."
