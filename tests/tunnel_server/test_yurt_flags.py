"""yurt-tunnel-server's flags: each is a setting, says why it is none, or is refused."""

import argparse
from ipaddress import ip_address
from pathlib import Path

import pytest

from tunnel_daemon.settings import SettingsError
from tunnel_daemon.settings_aliases import Aliased, read_aliases
from tunnel_server.config import ServerConfig, add_arguments, config_from
from tunnel_server.yurt_flags import ALIASES

# `--version` and `--help` are everybody's.
DOCUMENTED = [
    "kube-config", "bind-address", "insecure-bind-address", "cert-dns-names", "cert-ips", "cert-dir",
    "enable-iptables", "enable-dns-controller", "egress-selector-enable", "iptables-sync-period",
    "dns-sync-period", "server-count", "proxy-strategy", "tunnel-agent-connect-port", "secure-port",
    "insecure-port", "meta-port",
]  # fmt: skip
DEFAULTS = [
    "--kube-config=", "--bind-address=0.0.0.0", "--insecure-bind-address=127.0.0.1", "--cert-dns-names=",
    "--cert-ips=", "--enable-iptables=true", "--egress-selector-enable=false", "--server-count=1",
    "--proxy-strategy=destHost", "--tunnel-agent-connect-port=10262", "--secure-port=10263",
    "--insecure-port=10264", "--meta-port=10265",
]  # fmt: skip


def parse(*argv: str) -> tuple[ServerConfig, Aliased]:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    arguments = parser.parse_args(argv)
    aliased = read_aliases(arguments, ALIASES)
    return config_from(arguments, aliased), aliased


@pytest.mark.parametrize("flag", DOCUMENTED)
def test_every_flag_is_known(flag: str) -> None:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert f"--{flag}" in parser.format_help()


def test_its_defaults_are_ours_without_a_word() -> None:
    config, aliased = parse(*DEFAULTS)
    assert config == ServerConfig()
    assert aliased.warnings == []


def test_what_means_the_same() -> None:
    config, aliased = parse(
        "--cert-dir=/pki", "--enable-iptables=false", "--tunnel-agent-connect-port=1", "--secure-port=2",
        "--insecure-port=3", "--meta-port=4", "--bind-address=192.0.2.1", "--insecure-bind-address=192.0.2.2",
        "--v=4",
    )  # fmt: skip
    assert (config.state_dir, config.intercept) == (Path("/pki"), False)
    assert (config.tunnel_port, config.secure_port, config.insecure_port, config.meta_port) == (1, 2, 3, 4)
    assert config.bind_address == (ip_address("192.0.2.1"),)
    assert (config.meta_address, config.log_level) == (ip_address("192.0.2.2"), "debug")
    assert aliased.warnings == []


@pytest.mark.parametrize(
    ("flag", "why"),
    [
        ("--cert-ips=192.0.2.1", "tunnelctl init --cert-ips"),
        ("--cert-dns-names=a.example", "tunnelctl init --cert-ips"),
        ("--iptables-sync-period=60", "in force at once"),
        ("--dns-sync-period=1800", "in force at once"),
    ],
)
def test_what_means_nothing_here_is_told(flag: str, why: str) -> None:
    config, aliased = parse(flag)
    assert config == ServerConfig()
    (warning,) = aliased.warnings
    assert warning.startswith(f"{flag.partition('=')[0]} is not used: ")
    assert why in warning


@pytest.mark.parametrize(
    ("flag", "remedy"),
    [
        ("--kube-config=/x", "leave the flag out"),
        ("--enable-dns-controller", "set it to false"),
        ("--egress-selector-enable", "connect-socket"),
        ("--server-count=2", "set it to 1"),
        ("--proxy-strategy=default", "set it to destHost"),
    ],
)
def test_what_would_be_believed_and_not_come_about_is_refused(flag: str, remedy: str) -> None:
    with pytest.raises(SettingsError) as caught:
        parse(flag)
    (problem,) = caught.value.problems
    assert problem.startswith(flag.partition("=")[0])
    assert remedy in problem
