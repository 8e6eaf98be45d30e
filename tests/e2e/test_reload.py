"""The configuration changes under a running server: whole or not at all, and no connection notices."""

import json
from collections.abc import Callable

import pytest

from tests.e2e.load import Load, to
from tests.e2e.network import accept, dial, listen
from tests.e2e.system import BIN, EDGE_1, System, curl, curl_json, toml

ADDRESS = f"http://{EDGE_1}"


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    made = deploy_for_module()
    made.start_server(**{"dnat-ports-pair": "9081=10264", "listen": ["127.0.0.1:19081=edge-1:9081"]})
    for port in (9081, 9082):
        made.serve(made.topology.edge(1), "http", port)
    made.add_edge(made.topology.edge(1))
    return made


def write(system: System, text: str) -> None:
    path = system.directory / "server.toml"
    (fresh := path.with_suffix(".new")).write_text(text)
    fresh.rename(path)


def log_since(system: System, size: int) -> str:
    return system.log("server")[size:]


def test_a_saved_file_applies_by_itself_and_the_diff_is_logged(own: System) -> None:
    cloud, edge, size = own.topology.cloud, own.topology.edge(1), len(own.log("server"))
    assert curl(cloud, "--max-time", "20", f"{ADDRESS}:9082/").returncode == 7
    with (
        listen(edge, ("0.0.0.0", 9999)) as target,
        dial(cloud, ("127.0.0.1", 19081)) as fixed,
        dial(cloud, (EDGE_1, 9081)) as captured,
    ):
        own.configure(http_proxy_ports="9082, 9999", listen=["127.0.0.1:19082=edge-1:9082"])
        own.until(lambda: curl(cloud, f"{ADDRESS}:9082/").returncode == 0, "server")
        assert curl_json(cloud, "http://127.0.0.1:19082/")["machine"] == "edge-1"
        assert curl(cloud, "http://127.0.0.1:19081/").returncode == 7
        for caller in (fixed, captured):  # what stood goes on, though one's listener is gone
            caller.sendall(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert caller.recv(12) == b"HTTP/1.1 200"
        with dial(cloud, (EDGE_1, 9999)), accept(target):
            pass
    log = log_since(own, size)
    assert 'configuration: http-proxy-ports: "" -> "9082, 9999"' in log
    assert 'configuration: listen: ["127.0.0.1:19081=edge-1:9081"] -> ["127.0.0.1:19082=edge-1:9082"]' in log
    assert "Traceback" not in log


def test_callers_notice_nothing(own: System) -> None:
    cloud = own.topology.cloud
    before = {
        key: own.server_settings.get(key.replace("_", "-"), "") for key in ("http_proxy_ports", "listen")
    }
    with Load(cloud, to(EDGE_1, 9081)) as load:
        for ports in ("9082", "9082, 9100-9200", "9081", "9082, 9999"):
            size = len(own.log("server"))
            own.configure(http_proxy_ports=ports, listen=[f"127.0.0.1:1909{len(ports) % 10}=edge-1:9081"])
            own.hang_up()
            own.until(lambda size=size: "configuration: listen" in log_since(own, size), "server")
        own.until(lambda: load.served > 20 or load.failures)
    assert load.failures == []
    own.configure(**before)
    own.hang_up()


def test_a_listener_that_leads_elsewhere_is_never_closed(own: System) -> None:
    own.configure(listen=["127.0.0.1:19083=edge-1:9081"])
    own.hang_up()
    own.until(lambda: own.listens(own.topology.cloud, 19083), "server")
    own.serve(own.topology.edge(1), "http", 9084)
    own.configure(listen=["127.0.0.1:19083=edge-1:9084"])
    own.hang_up()

    def led_elsewhere() -> bool:
        assert curl(own.topology.cloud, "http://127.0.0.1:19083/").returncode == 0
        return listed(own, "127.0.0.1:19083") == "edge-1:9084"

    own.until(led_elsewhere, "server")
    assert curl(own.topology.cloud, "http://127.0.0.1:19083/").returncode == 0


def listed(system: System, address: str) -> str | None:
    return next((each["target"] for each in system.status()["listeners"] if each["address"] == address), None)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("http-proxy-port = '1'\n", "did you mean http-proxy-ports?"),
        ("http-proxy-ports = 7\n", "http-proxy-ports: expected a string"),
        ("listen = 'x'\n", 'listen: "x" is not'),
        ("http-proxy-ports = '1\n", "is not valid TOML"),
        ("listen = '192.0.2.1:80=edge-1:80'\n", "192.0.2.1:80: this machine does not have that address"),
        ("tunnel-port = 10265\n", "tunnel-port: 10265 is meta-port's already"),
    ],
)
def test_a_file_with_a_mistake_changes_nothing(own: System, text: str, says: str) -> None:
    before, size = own.ctl("map-port", "--list"), len(own.log("server"))
    # All of it is good but the last line; and what is good would change the ports.
    places = {key: own.server_settings[key] for key in ("state-dir", "admin-socket")}
    write(own, toml({**places, "dnat-ports-pair": "7777=10264"}) + text)
    own.hang_up()
    own.until(lambda: "stays as it was" in log_since(own, size), "server")
    (line,) = [line for line in log_since(own, size).splitlines() if "stays as it was" in line]
    assert says in line
    assert own.ctl("map-port", "--list") == before
    assert any(says in each for each in own.status()["mapping_problems"])
    own.configure()
    own.hang_up()
    own.until(lambda: not own.status()["mapping_problems"], "server")


def test_what_needs_a_restart_is_named_and_the_rest_applies(own: System) -> None:
    size = len(own.log("server"))
    own.configure(meta_port=10299, http_proxy_ports="9082")
    own.hang_up()
    own.until(lambda: "needs a restart" in log_since(own, size), "server")
    assert "meta-port: 10265 -> 10299 needs a restart; until then it stays 10265" in log_since(own, size)
    assert own.listens(own.topology.cloud, 10265)
    assert not own.listens(own.topology.cloud, 10299)
    assert {each["port"] for each in own.status()["mappings"]} == {9081, 9082, 10250, 10255}
    own.configure(meta_port=10265)
    own.hang_up()


def test_a_removed_file_changes_nothing(own: System) -> None:
    size, path = len(own.log("server")), own.directory / "server.toml"
    path.unlink()
    own.until(lambda: "server.toml is gone" in log_since(own, size), "server")
    assert curl(own.topology.cloud, f"{ADDRESS}:9081/").returncode == 0
    own.configure()
    own.until(lambda: not own.status()["mapping_problems"], "server")


def test_edge_networks_shrink_and_grow(own: System) -> None:
    own.configure(edge_networks=["10.0.0.0/8"])
    own.hang_up()
    own.until(lambda: not own.nodes()["edge-1"]["captured"], "server")
    own.configure(edge_networks=["192.168.0.0/16"])
    own.hang_up()
    own.until(lambda: own.nodes()["edge-1"]["captured"] == [EDGE_1], "server")
    assert curl(own.topology.cloud, f"{ADDRESS}:9081/").returncode == 0


def test_check_config(own: System) -> None:
    path, cloud = own.directory / "server.toml", own.topology.cloud
    words = [BIN / "tunnel-server", "check-config", path]
    good = cloud.run(words)
    assert (good.returncode, good.stdout) == (0, "ok\n")
    write(own, toml({**own.server_settings, "https-proxy-ports": "9081, https"}))
    warned = cloud.run(words)
    assert warned.returncode == 0
    assert f"warning: {path}:" in warned.stdout
    assert ': https-proxy-ports: "https" names "https", which is not a port' in warned.stdout
    (bad := own.directory / "bad.toml").write_text("log-level = 'loud'\ntunnel-port = -1\n")
    found = cloud.run([*words[:2], bad, "--json"])
    assert found.returncode == 2
    answer = json.loads(found.stdout)
    assert answer["ok"] is False
    assert [each.split(": ")[:2] for each in answer["problems"]] == [
        [f"{bad}:1", "log-level"], [f"{bad}:2", "tunnel-port"]
    ]  # fmt: skip
    own.configure()
