"""A CONNECT's `:authority`: `host:port`, IPv6 in brackets (RFC 9110, 9.3.6; RFC 3986, 3.2.2)."""

from functools import lru_cache

MAX_HOST = 255
"""Longest name, in bytes (RFC 1035)."""
_LONGEST = len("[]:65535") + MAX_HOST
_KNOWN = 256
"""Authorities that are remembered: most calls go where others went."""


@lru_cache(_KNOWN)
def write_authority(host: str, port: int) -> bytes:
    """`host` and `port` as they stand on the wire. Raises ValueError for what nobody could dial."""
    text = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    value = text.encode("ascii", "replace")
    if read_authority(value) != (host, port):
        raise ValueError(f"{host!r} and {port} are not a host and a port")
    return value


def read_authority(value: bytes) -> tuple[str, int] | None:
    """Host and port; None if it is not `host:port` or `[ipv6]:port`."""
    return _read(value) if len(value) <= _LONGEST else None


@lru_cache(_KNOWN)
def _read(value: bytes) -> tuple[str, int] | None:
    try:
        text = value.decode("ascii")
    except UnicodeDecodeError:
        return None
    host, colon, port_text = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        return None
    if not colon or not host or len(host) > MAX_HOST or any(not "!" <= c <= "~" or c in "/@[]" for c in host):
        return None
    if not port_text.isdigit() or len(port_text) > 5 or not 0 < int(port_text) < 65536:
        return None
    return host, int(port_text)
