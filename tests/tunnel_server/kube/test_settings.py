"""The table [kubernetes], and that a server without a cluster loads nothing of the client for one."""

import subprocess
import sys
from pathlib import Path

import pytest

from tunnel_daemon.settings import SettingsError
from tunnel_server.config import ServerConfig, load_config
from tunnel_server.kube.resources import NamespacedName


def _read(tmp_path: Path, text: str) -> ServerConfig:
    path = tmp_path / "server.toml"
    path.write_text(text)
    return load_config(path)


def test_what_may_stand_in_it(tmp_path: Path) -> None:
    config = _read(
        tmp_path,
        """
        edge-networks = "192.168.0.0/16"
        [kubernetes]
        enabled = true
        node-selector = ["tier=edge,zone in (a,b)", "edge"]
        names-configmap = "kube-system/yurt-tunnel-nodes"
        service-networks = "10.96.0.0/12"
        """,
    )
    settings = config.kubernetes
    labels = [{"tier": "edge", "zone": "b"}, {"edge": ""}, {"tier": "edge"}]
    chosen = [any(each.matches(found) for each in settings.node_selector) for found in labels]
    assert chosen == [True, True, False]
    assert settings.names_configmap == NamespacedName("kube-system", "yurt-tunnel-nodes")
    assert str(settings.port_configmap) == "kube-system/yurt-tunnel-server-cfg"


def test_yurt_tunnels_labels_are_the_default() -> None:
    selectors = ServerConfig().kubernetes.node_selector
    for key in ("openyurt.io/is-edge-worker", "openyurt.io/edge-enable-reverseTunnel-client"):
        assert any(each.matches({key: "true"}) for each in selectors)
        assert not any(each.matches({key: "false"}) for each in selectors)


def test_edge_networks_must_be_given(tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as failed:
        _read(tmp_path, "[kubernetes]\nenabled = true\n")
    (problem,) = failed.value.problems
    assert "edge-networks: must be given with [kubernetes]: name the networks that edges are in" in problem
    # Whoever writes down what is the default has decided so.
    everything = ", ".join(f'"{each}"' for each in ServerConfig().edge_networks)
    _read(tmp_path, f"edge-networks = [{everything}]\n[kubernetes]\nenabled = true\n")


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        (
            'node-selector = ""',
            'kubernetes.node-selector: expected a label selector like "a=b,c in (d,e),!f"',
        ),
        ('port-configmap = "yurt"', 'kubernetes.port-configmap: expected "NAMESPACE/NAME", not "yurt"'),
        ('port-configmap = "a/b/c"', "expected"),
        ("watch-timeout = 0", "kubernetes.watch-timeout: expected 1 to 3600"),
    ],
)
def test_what_may_not(tmp_path: Path, line: str, problem: str) -> None:
    with pytest.raises(SettingsError) as failed:
        _read(tmp_path, f"[kubernetes]\n{line}\n")
    assert problem in str(failed.value)


def test_two_pins_of_one_address(tmp_path: Path) -> None:
    tables = "".join(f'[nodes.{name}]\npinned-addresses = "192.168.2.1"\n' for name in ("edge-1", "edge-2"))
    with pytest.raises(SettingsError, match=r"nodes\.edge-2\.pinned-addresses: 192\.168\.2\.1 is pinned to"):
        _read(tmp_path, tables)


def test_a_server_without_a_cluster_loads_no_client() -> None:
    code = "import sys, tunnel_server.server; sys.exit('kubernetes' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False, timeout=30).returncode == 0
