"""Where an HTTP/1.1 request wants to go, and the request as it goes there.

`X-Tunnel-Proxy-Dest` wins over the request's own host (RFC 9112, section 3.2), and goes no further. What
another reader of the same bytes could understand differently is refused, not repaired.
"""

from __future__ import annotations

import h11

from certs.addresses import parse_endpoint
from tunnel_daemon.malformed import NO_HTTP_2

HEADER = b"x-tunnel-proxy-dest"
DEFAULT_PORT = 80


def read_destination(request: h11.Request) -> tuple[str, int, h11.Request]:
    """The host, in lower case, the port, and the request to forward. Raises ValueError, for a 400."""
    _check_framing(request)
    host = _single(request, b"host")
    target, authority = _origin_form(request, host)
    wanted = _single(request, HEADER)
    text = authority if wanted is None else wanted
    if not text:
        raise ValueError("neither Host nor X-Tunnel-Proxy-Dest says where to: name an edge, as NODE:PORT")
    where, port = parse_endpoint(text.decode("ascii", "replace"), DEFAULT_PORT, final_dot=True)
    headers = [item for item in request.headers.raw_items() if item[0].lower() != HEADER]
    if host is None:  # HTTP/1.0 may lack one; what we send is HTTP/1.1
        headers.insert(0, (b"Host", text))
    return where, port, h11.Request(method=request.method, target=target, headers=headers)


def _check_framing(request: h11.Request) -> None:
    if request.http_version > b"1.1":
        raise ValueError(NO_HTTP_2)
    if request.method == b"CONNECT":
        raise ValueError(
            "CONNECT is served on connect-socket, and on tunnel-port with a caller's certificate"
        )
    names = [name for name, _ in request.headers]
    if b"content-length" in names and b"transfer-encoding" in names:
        raise ValueError("both Content-Length and Transfer-Encoding: where the body ends is anybody's guess")
    if request.http_version < b"1.1" and b"transfer-encoding" in names:
        raise ValueError("Transfer-Encoding in an HTTP/1.0 request")


def _single(request: h11.Request, wanted: bytes) -> bytes | None:
    values = [value for name, value in request.headers if name == wanted]
    if len(values) > 1:
        raise ValueError(f"more than one {wanted.decode()} header")
    return values[0] if values else None


def _origin_form(request: h11.Request, host: bytes | None) -> tuple[bytes, bytes | None]:
    """The target without scheme and authority, and the authority that counts."""
    target = request.target
    if target.startswith(b"/") or target == b"*":
        return target, host
    scheme, separator, rest = target.partition(b"://")
    if scheme.lower() != b"http" or not separator:
        raise ValueError("the request's target is neither a path nor an http:// URL")
    authority, _, path = rest.partition(b"/")
    if b"?" in authority or b"#" in authority:
        raise ValueError("the request's target has no path")
    if host is not None and host.lower() != authority.lower():
        raise ValueError("the request's target and its Host name different places")
    return b"/" + path, authority
