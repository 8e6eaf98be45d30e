"""Routes, changes and refusals, without a socket."""

import json
import os

import pytest
import trio

from certs.files import StateError
from tunnel_daemon.http1 import HttpError, Request
from tunnel_server.admin.api import AdminApi, AdminSources
from tunnel_server.admin.unix_socket import Credentials, SocketUsers
from tunnel_server.admin.views import ForgottenView, MappingView, NodeView

ME = Credentials(os.getpid(), os.geteuid(), os.getegid())


class FakeCore:
    """Mappings in memory; the real ones are tested with the real server."""

    def __init__(self) -> None:
        self.ports = {10250: 10263}
        self.in_effect = dict(self.ports)
        self.slow = False

    def add(self, port: int, listener_port: int) -> None:
        if port == 10250:
            raise ValueError("10250 is built in and can't be mapped otherwise")
        self.ports[port] = listener_port

    def remove(self, port: int) -> None:
        self.ports.pop(port, None)

    async def changed(self) -> None:
        wanted = dict(self.ports)
        if self.slow:
            await trio.sleep(5)
        self.in_effect = wanted

    def views(self) -> list[MappingView]:
        return [
            MappingView(port=port, listener_port=to, source="x") for port, to in sorted(self.ports.items())
        ]


@pytest.fixture
def core() -> FakeCore:
    return FakeCore()


async def forget(name: str) -> ForgottenView:
    errors = {"edge-1": ValueError("edge-1 is linked"), "edge-3": StateError("no space left")}
    if name == "edge-2":
        return ForgottenView(name=name)
    raise errors.get(name, LookupError(f"no node is called {name}"))


@pytest.fixture
def api(core: FakeCore) -> AdminApi:
    def status():
        raise AssertionError

    return AdminApi(AdminSources(
        nodes=lambda: [NodeView(name="edge-1")], status=status, mappings=core,
        mapping_views=core.views, changed=core.changed, default_listener_port=10264,
        forget=forget,
    ), SocketUsers([4242]))  # fmt: skip


def post(body: object) -> Request:
    return Request("POST", "/v1/mappings", {}, {}, json.dumps(body).encode(), ME)


def delete(port: str) -> Request:
    return Request("DELETE", f"/v1/mappings/{port}", {}, {}, b"", ME)


async def test_nodes_and_mappings_are_listed(api: AdminApi) -> None:
    nodes = json.loads((await api(Request("GET", "/v1/nodes", {}, {}, b"", ME))).body)
    assert [node["name"] for node in nodes["nodes"]] == ["edge-1"]
    mappings = json.loads((await api(Request("GET", "/v1/mappings", {}, {}, b"", ME))).body)
    assert mappings == {"mappings": [{"port": 10250, "listener_port": 10263, "source": "x"}]}


async def test_a_mapping_is_in_effect_when_the_answer_comes(api: AdminApi, core: FakeCore) -> None:
    answer = json.loads((await api(post({"port": 9081}))).body)
    assert answer["changed"] is True
    assert {"port": 9081, "listener_port": 10264, "source": "x"} in answer["mappings"]
    assert core.in_effect[9081] == 10264
    assert json.loads((await api(post({"port": 9081, "listener_port": 10264}))).body)["changed"] is False
    assert json.loads((await api(delete("9081"))).body)["changed"] is True
    assert 9081 not in core.in_effect
    assert json.loads((await api(delete("9081"))).body)["changed"] is False


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        ([], 400, 'expected {"port": 9081, "listener_port": 10264}'),
        ({"prot": 1}, 400, "expected"),
        ({}, 400, "port must be a port"),
        ({"port": "9081"}, 400, "port must be a port, 1 to 65535"),
        ({"port": True}, 400, "port must be a port"),
        ({"port": 0}, 400, "port must be a port"),
        ({"port": 1, "listener_port": 65536}, 400, "listener_port must be a port"),
        ({"port": 10250}, 409, "10250 is built in"),
    ],
)
async def test_bad_mappings_are_refused(body: object, status: int, message: str, api: AdminApi, core) -> None:
    with pytest.raises(HttpError, match=message) as caught:
        await api(post(body))
    assert caught.value.status == status
    assert core.ports == {10250: 10263}


@pytest.mark.parametrize("port", ["0", "65536", "x", "9" * 5000, "٣"])
async def test_bad_ports_in_paths_are_refused(port: str, api: AdminApi) -> None:
    with pytest.raises(HttpError, match="port must be a port"):
        await api(delete(port))


async def test_changes_take_effect_one_after_another(api: AdminApi, core: FakeCore, autojump_clock) -> None:
    core.slow = True
    async with trio.open_nursery() as nursery:
        for port in range(1, 6):
            nursery.start_soon(api, post({"port": port}))
    assert core.in_effect == core.ports
    assert len(core.in_effect) == 6


async def test_a_client_that_leaves_leaves_no_half_change(
    api: AdminApi, core: FakeCore, autojump_clock
) -> None:
    core.slow = True
    with trio.move_on_after(1):
        await api(post({"port": 9081}))
    assert core.in_effect == {10250: 10263, 9081: 10264}


@pytest.mark.parametrize("peer", [None, Credentials(1, 999_999, 0)])
async def test_other_users_are_refused(peer: object, api: AdminApi) -> None:
    for path in ("/v1/nodes", "/nowhere"):
        with pytest.raises(HttpError, match="may not use the admin socket: run as root") as caught:
            await api(Request("GET", path, {}, {}, b"", peer))
        assert caught.value.status == 403


@pytest.mark.parametrize("uid", [0, 4242])
async def test_root_and_configured_users_are_served(uid: int, api: AdminApi) -> None:
    assert (await api(Request("GET", "/v1/nodes", {}, {}, b"", Credentials(1, uid, uid)))).status == 200


@pytest.mark.parametrize(("name", "status"), [("edge-1", 409), ("edge-3", 500), ("edge-9", 404)])
async def test_a_node_is_forgotten_or_not(api: AdminApi, name: str, status: int) -> None:
    done = await api(Request("DELETE", "/v1/nodes/edge-2", {}, {}, b"", ME))
    assert json.loads(done.body)["name"] == "edge-2"
    with pytest.raises(HttpError) as refused:
        await api(Request("DELETE", f"/v1/nodes/{name}", {}, {}, b"", ME))
    assert refused.value.status == status
