"""The routes of the doctor: names, ports and hosts are checked before anybody is asked."""

import json
import os
from datetime import UTC, datetime

import pytest

from certs.files import StateError
from tunnel_daemon.http1 import HttpError, Request
from tunnel_server.admin.api import AdminApi, AdminSources
from tunnel_server.admin.diagnosis_views import DiagnosisView, ProbeView
from tunnel_server.admin.unix_socket import Credentials
from tunnel_server.admin.views import InterceptionView

ME = Credentials(os.getpid(), os.geteuid(), os.getegid())


class Known:
    def __init__(self) -> None:
        self.probed: list[tuple[str, str, int]] = []

    async def diagnose(self, name: str) -> DiagnosisView:
        if name == "damaged":
            raise StateError("tokens.json is damaged")
        return DiagnosisView(
            name=name, server_version="1", server_time=datetime.now(UTC), uptime_seconds=1.0,
            interception=InterceptionView(state="off"),
        )  # fmt: skip

    async def probe(self, name: str, host: str, port: int) -> ProbeView:
        self.probed.append((name, host, port))
        return ProbeView(host=host, port=port, ok=False, cause="refused")


def make_api(doctor: Known | None) -> AdminApi:
    def unused():
        raise AssertionError

    return AdminApi(
        AdminSources(
            nodes=list, status=unused, mappings=unused, mapping_views=list, changed=unused,
            default_listener_port=10264, doctor=doctor,
        )
    )  # fmt: skip


def get(path: str, peer: object = ME) -> Request:
    return Request("GET", path, {}, {}, b"", peer)


def post(body: object) -> Request:
    return Request("POST", "/v1/probe", {}, {}, json.dumps(body).encode(), ME)


async def test_a_node_is_diagnosed() -> None:
    answer = json.loads((await make_api(Known())(get("/v1/diagnosis/edge-1"))).body)
    assert (answer["name"], answer["node"], answer["interception"]["state"]) == ("edge-1", None, "off")


async def test_a_probe_goes_to_the_loopback_or_where_it_is_told() -> None:
    known = Known()
    api = make_api(known)
    answer = json.loads((await api(post({"node": "edge-1", "port": 80}))).body)
    assert (answer["ok"], answer["cause"]) == (False, "refused")
    await api(post({"node": "edge-1", "port": 80, "host": "192.168.2.143"}))
    assert known.probed == [("edge-1", "127.0.0.1", 80), ("edge-1", "192.168.2.143", 80)]


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ([], "expected"),
        ({"node": "edge-1", "prot": 80}, "expected"),
        ({"node": "edge-1"}, "port must be a port"),
        ({"node": "edge-1", "port": True}, "port must be a port"),
        ({"port": 80}, "node must be a name"),
        ({"node": "Edge 1", "port": 80}, "is not a name"),
        ({"node": "edge-1", "port": 80, "host": "db.internal"}, "host must be an IP address"),
        ({"node": "edge-1", "port": 80, "host": None}, "host must be an IP address"),
    ],
)
async def test_bad_probes_are_refused(body: object, message: str) -> None:
    known = Known()
    with pytest.raises(HttpError, match=message) as caught:
        await make_api(known)(post(body))
    assert caught.value.status == 400
    assert not known.probed


async def test_bad_names_and_damaged_files() -> None:
    api = make_api(Known())
    for name, status in (("Edge_1", 400), ("damaged", 500)):
        with pytest.raises(HttpError) as caught:
            await api(get(f"/v1/diagnosis/{name}"))
        assert caught.value.status == status


async def test_only_for_those_who_may_use_the_socket_and_only_where_there_is_a_doctor() -> None:
    with pytest.raises(HttpError, match="may not use"):
        await make_api(Known())(get("/v1/diagnosis/edge-1", Credentials(1, 999_999, 0)))
    assert (await make_api(None)(get("/v1/diagnosis/edge-1"))).status == 404
