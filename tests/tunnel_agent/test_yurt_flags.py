"""yurt-tunnel-agent's flags: each is a setting, or says why it is none."""

import argparse
from ipaddress import ip_address
from pathlib import Path

import pytest

from tunnel_agent import cli
from tunnel_agent.config import AgentConfig
from tunnel_agent.yurt_flags import ALIASES, check_identity
from tunnel_daemon.program import ProgramError
from tunnel_daemon.settings import fields_by_key

# `--version` and `--help` are everybody's.
DOCUMENTED = {
    "node-name", "node-ip", "tunnelserver-addr", "apiserver-addr", "kube-config", "agent-identifiers",
    "meta-host", "meta-port", "cert-dir",
}  # fmt: skip
ADDRESSES = [ip_address("192.168.2.143"), ip_address("fd00::143")]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch):
    """The settings and warnings of a command line."""
    seen = []

    def run(options: argparse.Namespace) -> int:
        aliased = cli._read_aliases(options)
        seen.append((cli.read_config(options, aliased), aliased))
        return 0

    monkeypatch.setattr(cli, "_run", run)

    def settings(*words: str):
        assert cli.main(list(words)) == 0
        return seen[-1]

    return settings


def test_every_flag_is_known() -> None:
    ours = set(fields_by_key(AgentConfig))
    assert {alias.flag for alias in ALIASES} | ours >= DOCUMENTED


def test_what_means_the_same(run) -> None:
    config, aliased = run(
        "--cert-dir=/pki", "--tunnelserver-addr=tunnel.example:10262", "--meta-host=127.0.0.2",
        "--meta-port=1", "-v=5", "--kube-config=", "--apiserver-addr=",
    )  # fmt: skip
    assert config.state_dir == Path("/pki")
    assert list(map(str, config.servers)) == ["tunnel.example:10262"]
    assert (config.health_address, config.health_port, config.log_level) == ("127.0.0.2", 1, "debug")
    assert aliased.warnings == []


def test_what_means_nothing_here_is_told(run) -> None:
    _, aliased = run("--kube-config=/etc/kubernetes/kubelet.conf", "--apiserver-addr=x:6443")
    assert [each.split(" is not used: no cluster is asked")[0] for each in aliased.warnings] == [
        "--apiserver-addr", "--kube-config"
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("flag", "value", "warning"),
    [
        ("node-name", "edge-1", ""),
        ("node-ip", "192.168.2.143", ""),
        ("node-ip", "fd00:0::143", ""),
        ("agent-identifiers", "ipv4=192.168.2.143&host=edge-1", ""),
        ("agent-identifiers", "ipv6=fd00::143,host=edge-1", ""),
        ("node-ip", "192.168.2.144", "--node-ip: 192.168.2.144 is not in this machine's certificate"),
        ("node-ip", "nonsense", "--node-ip: nonsense is not in"),
        ("agent-identifiers", "ipv4=10.0.0.1", "--agent-identifiers: 10.0.0.1 is not in"),
        ("agent-identifiers", "cidr=10.0.0.0/8", "--agent-identifiers: cidr is not used"),
        ("agent-identifiers", "default=true", "--agent-identifiers: default is not used"),
    ],
)
def test_claims_of_identity_are_compared_with_the_certificate(flag: str, value: str, warning: str) -> None:
    found = list(check_identity({flag: value}, "edge-1", ADDRESSES))
    assert [each[: len(warning)] for each in found] == ([warning] if warning else [])


@pytest.mark.parametrize(("flag", "value"), [("node-name", "edge-2"), ("agent-identifiers", "host=edge-2")])
def test_another_nodes_name_is_refused(flag: str, value: str) -> None:
    with pytest.raises(ProgramError, match=r"certificate is that of edge-1.*token for edge-2") as caught:
        list(check_identity({flag: value}, "edge-1", ADDRESSES))
    assert caught.value.exit_code == 2
