"""The server's settings."""

import argparse
from dataclasses import MISSING
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from tunnel_daemon.settings import SettingsError, declared, fields_by_key
from tunnel_daemon.settings_changes import applicable
from tunnel_server.check_config import check
from tunnel_server.config import (
    ServerConfig,
    add_arguments,
    config_from,
    load_config,
)
from tunnel_server.endpoints import FixedListener, ServerAddress
from tunnel_server.limits import ServerLimits


def write(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "server.toml"
    path.write_text(text)
    return path


def test_a_full_file(tmp_path: Path) -> None:
    config = load_config(write(tmp_path, """
state-dir = "state"
bind-address = ["0.0.0.0", "::"]
server-addresses = ["tunnel.example.org", "[2001:db8::1]:443"]
edge-networks = "192.168.0.0/16"
caller-networks = ["10.0.0.0/8", "fc00::/7"]
prerouting-address = ["192.168.9.1", "2001:db8::9"]
dnat-ports-pair = "9081=10264, 9051=10264"
listen = ["127.0.0.1:9081=edge-1:9081", "[::1]:80=edge-1.plant:8080"]
admin-uids = [1000]
[limits]
open-timeout = "5s"
memory-budget = "64MiB"
"""))  # fmt: skip
    assert config.state_dir == Path("state")
    assert config.bind_address == (ip_address("0.0.0.0"), ip_address("::"))
    assert config.server_addresses == (
        ServerAddress("tunnel.example.org", 10262), ServerAddress("2001:db8::1", 443)
    )  # fmt: skip
    assert config.edge_networks == (ip_network("192.168.0.0/16"),)
    assert config.listen == (
        FixedListener("127.0.0.1", 9081, "edge-1", 9081), FixedListener("::1", 80, "edge-1.plant", 8080)
    )  # fmt: skip
    assert (config.limits.open_timeout, config.limits.memory_budget) == (5.0, 64 * 2**20)
    assert config.limits.handshakes_in_flight == ServerLimits().handshakes_in_flight


@pytest.mark.parametrize("cls", [ServerConfig, ServerLimits])
def test_defaults_pass_their_own_checks_and_everything_is_documented(cls: type) -> None:
    for field in fields_by_key(cls).values():
        about = declared(field)
        assert about.doc
        if about.check and field.default is not MISSING:
            about.check(field.default)
    assert list(ServerConfig().cross_check()) == []


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("dnat-port-pairs = ''", "unknown key; did you mean dnat-ports-pair?"),
        ("handshake-timeout = 3", "unknown key; it belongs in [limits]"),
        ("tunnel-port = 65536", "tunnel-port: expected 0 to 65535, not 65536"),
        ("meta-port = 10262", "meta-port: 10262 is tunnel-port's already; each needs its own"),
        ("secure-port = 10264", "secure-port: 10264 is insecure-port's already; each needs its own"),
        ("name-suffix = 'edges example'", "name-suffix: 'edges example' is not a name"),
        ("server-addresses = 'https://a:1'", "'https://a:1' is not an endpoint: write HOST:PORT"),
        ("secure-port = 0", "secure-port: captured connections need a port that is known"),
        ("bind-address = []", "bind-address: no agent can connect without one"),
        ("caller-networks = '10.0.0.0/8'", "IPv4 callers need a prerouting-address"),
        (
            "caller-networks = 'fc00::/7'\nprerouting-address = '10.0.0.1'",
            "IPv6 callers need a prerouting-address: an IPv6 address of this host",
        ),
        ("prerouting-address = '127.0.0.1'", "127.0.0.1 is no ordinary address that other hosts reach"),
        ("direct-address = '0.0.0.0'", "direct-address: 0.0.0.0 is no ordinary address"),
        ("connect-socket = 'admin.sock'", "connect-socket: is admin-socket's already; each needs its own"),
        ("connect-socket = '" + "x" * 100 + "'", "connect-socket: is longer than the 107 bytes"),
        ("secure-target-port = 0", "secure-target-port: expected 1 to 65535"),
        ("callers.Prom.nodes = 'a'", "Prom"),
        ("callers.prom.ports = '80-70'", "callers.prom.ports"),
        ("callers.prom.node = 'a'", "did you mean nodes?"),
        ("limits.away-wait = -1", "limits.away-wait: expected at least 0"),
        ("prerouting-address = ['10.0.0.1', '10.0.0.2']", "more than one for IPv4"),
        ("listen = ['127.0.0.1:1=a:1', '127.0.0.1:1=b:1']", "127.0.0.1:1 is given twice"),
        ("listen = '9081=edge-1:9081'", 'listen: "9081=edge-1:9081" is not "ADDRESS:PORT=NODE:PORT", like'),
        ("listen = '127.0.0.1:9081'", 'listen: "127.0.0.1:9081" is not "ADDRESS:PORT=NODE:PORT"'),
        ("listen = '::1:80=a:1'", "write an IPv6 address in brackets"),
        ("listen = 'localhost:80=a:1'", "'localhost' is not an IP address"),
        ("listen = '127.0.0.1:80=a:0'", '"0" is not a port (1 to 65535)'),
        ("listen = '127.0.0.1:99999=a:1'", "has no valid port"),
        ("listen = '127.0.0.1:80=Edge_1:1'", "Edge_1"),
        ("limits.memory-budget = '1KiB'", "expected at least 4194304, not 1024"),
        ("limits.open-timeout = 0", "limits.open-timeout: expected at least 0.001"),
        ("admin-socket = '/" + "x" * 107 + "'", "admin-socket: is longer than the 102 bytes"),
        ("log-format = 'jsno'", 'did you mean "json"?'),
    ],
)
def test_refusals(tmp_path: Path, text: str, problem: str) -> None:
    [found], _ = check(write(tmp_path, text))
    assert problem in found
    assert found.startswith(f"{tmp_path}/server.toml:")


def test_flags(tmp_path: Path) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    path = write(tmp_path, "tunnel-port = 1\nlog-level = 'error'\n")
    config = config_from(parser.parse_args([
        "--config", str(path), "--state-dir", "/s", "--log-level", "debug", "--intercept", "false",
        "--listen", "127.0.0.1:1=a:1,127.0.0.1:2=a:2",
    ]))  # fmt: skip
    assert (config.tunnel_port, config.state_dir, config.log_level) == (1, Path("/s"), "debug")
    assert config.intercept is False
    assert [listener.port for listener in config.listen] == [1, 2]
    with pytest.raises(SettingsError, match=r"^--tunnel-port: "):
        load_config(path, {"tunnel-port": "x"})


@pytest.mark.parametrize(
    ("text", "path"),
    [
        ("", "/run/edge-tunnel/connect.sock"),
        ("admin-socket = '/run/x/admin.sock'", "/run/x/connect.sock"),
        ("connect-socket = '/srv/egress.sock'", "/srv/egress.sock"),
        ("connect-socket = ''", None),
    ],
)
def test_where_the_connect_socket_is(tmp_path: Path, text: str, path: str | None) -> None:
    config = load_config(write(tmp_path, text))
    assert config.connect_path() == (Path(path) if path else None)


def test_rights_of_callers(tmp_path: Path) -> None:
    text = (
        "[callers.prom]\nnodes = ['edge-*']\nports = ['9100', '8000-8100']\n[callers.local]\ndirect = true\n"
    )
    callers = load_config(write(tmp_path, text)).callers
    assert callers["prom"].refusal("edge-7", 8050) is None
    assert "no right to port 80" in (callers["prom"].refusal("edge-7", 80) or "")
    assert callers["local"].direct
    assert not callers["prom"].direct


def test_the_lists_of_ports_follow_the_listeners(tmp_path: Path) -> None:
    text = "insecure-port = 20264\nsecure-port = 20263\nhttp-proxy-ports = '80'\nhttps-proxy-ports = '443'\n"
    text += "dnat-ports-pair = '81=20264, 82=10264'\nlocalhost-proxy-ports = '80'\n"
    lists = load_config(write(tmp_path, text)).port_lists()
    assert lists.captured == {80: 20264, 443: 20263, 81: 20264}
    assert lists.localhost == {80}
    assert len(lists.problems) == 1


def test_defaults_that_are_live_are_said_to_be() -> None:
    """A few that people will change, so that no refactoring makes them need a restart unseen."""
    new = ServerConfig(
        http_proxy_ports="1", https_proxy_ports="2", dnat_ports_pair="3", localhost_proxy_ports="4",
        log_level="debug", limits=ServerLimits(calls=1, open_timeout=1, away_wait=1),
    )  # fmt: skip
    assert applicable(ServerConfig(), new) == new
