"""The routes of `tunnelctl doctor`: what is known of a node, and a real try at a target."""

from __future__ import annotations

import ipaddress
from typing import TYPE_CHECKING

from certs.files import StateError
from certs.identity import check_name
from tunnel_daemon.http1 import HttpError, Request, Response
from tunnel_server.admin.views import to_json

if TYPE_CHECKING:
    from tunnel_server.admin.diagnosis_views import Doctor

LOOPBACK = "127.0.0.1"


class DiagnosisApi:
    """Handlers over a `Doctor`; who may ask is checked before."""

    def __init__(self, doctor: Doctor) -> None:
        self._doctor = doctor

    async def diagnose(self, request: Request) -> Response:
        """`GET /v1/diagnosis/NODE`."""
        name = _name(request.parameter)
        try:
            return Response.json(to_json(await self._doctor.diagnose(name)))
        except StateError as error:
            raise HttpError(500, str(error)) from None

    async def probe(self, request: Request) -> Response:
        """`POST /v1/probe {"node": NAME, "port": 9081, "host": ADDRESS}`; the host defaults to loopback."""
        body = request.json()
        if not isinstance(body, dict) or not body.keys() <= {"node", "port", "host"}:
            raise HttpError(400, 'expected {"node": "edge-1", "port": 9081, "host": "192.168.2.143"}')
        name, port = _name(body.get("node")), read_port(body.get("port"), "port")
        try:
            host = str(ipaddress.ip_address(body.get("host", LOOPBACK)))
        except ValueError:
            raise HttpError(400, "host must be an IP address") from None
        return Response.json(to_json(await self._doctor.probe(name, host, port)))


def read_port(value: object, name: str) -> int:
    """Return a port from JSON; raises HttpError 400."""
    if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 65536:
        raise HttpError(400, f"{name} must be a port, 1 to 65535")
    return value


def _name(value: object) -> str:
    try:
        if not isinstance(value, str):
            raise ValueError("node must be a name")  # noqa: TRY004 - one way out for both
        check_name(value)
    except ValueError as error:
        raise HttpError(400, str(error)) from None
    return value
