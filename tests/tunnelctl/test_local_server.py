"""Where the state is: the command line's word, then the configuration's, then the default."""

import argparse
from pathlib import Path

import pytest

from certs.addresses import DEFAULT_EDGE_NETWORKS
from certs.files import StateDirectory, StateError, StateUnavailableError
from tunnelctl.cluster_state import ClusterPlace
from tunnelctl.errors import FAILED, NOT_REACHABLE, CommandError, UsageError
from tunnelctl.local_server import DEFAULT_STATE, LocalServer, add_arguments, find_server, state_errors


def found(*args, make=False):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return find_server(parser.parse_args(args), make=make)


def test_without_a_configuration(tmp_path, monkeypatch):
    monkeypatch.setattr("tunnelctl.local_server.DEFAULT_CONFIG", tmp_path / "none.toml")
    assert found() == LocalServer(DEFAULT_STATE, DEFAULT_EDGE_NETWORKS, 10262, ())
    assert found("--state-dir", "/x").state_dir == Path("/x")


def test_with_one(tmp_path, monkeypatch):
    config = tmp_path / "server.toml"
    config.write_text('state-dir = "/y"\nserver-addresses = ["a.example"]\ntunnel-port = 1\n')
    assert found("--config", str(config)) == LocalServer(
        Path("/y"), DEFAULT_EDGE_NETWORKS, 1, ("a.example:10262",)
    )
    monkeypatch.setattr("tunnelctl.local_server.DEFAULT_CONFIG", config)
    assert found().state_dir == Path("/y")
    assert found("--state-dir", "/x").state_dir == Path("/x")


def test_a_bad_one_is_one_line(tmp_path):
    config = tmp_path / "server.toml"
    config.write_text("tunnel-prot = 1\nstate-dir = 2\n")
    with pytest.raises(UsageError, match=r"tunnel-port.*;.*state-dir") as caught:
        found("--config", str(config))
    assert "\n" not in str(caught.value)


@pytest.fixture
def nothing_here(tmp_path, monkeypatch):
    """No configuration, no state directory, no kubeconfig."""
    monkeypatch.setattr("tunnelctl.local_server.DEFAULT_CONFIG", tmp_path / "none.toml")
    monkeypatch.setattr("tunnelctl.local_server.DEFAULT_STATE", tmp_path / "none")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "kubeconfig"))
    return tmp_path


def test_a_cluster_that_is_named(nothing_here):
    assert found("--context", "a").cluster == ClusterPlace(context="a")
    assert found("--namespace", "n").cluster == ClusterPlace(namespace="n")
    path = nothing_here / "k"
    assert found("--kubeconfig", str(path), make=True).cluster == ClusterPlace(path)
    with pytest.raises(UsageError, match="--state-dir is on this machine"):
        found("--kubeconfig", str(path), "--state-dir", "/x")


def test_a_cluster_that_the_configuration_names(nothing_here):
    (config := nothing_here / "server.toml").write_text(
        'edge-networks = ["192.168.0.0/16"]\n[kubernetes]\nenabled = true\nnamespace = "n"\n'
    )
    server = found("--config", str(config), make=True)
    assert server.cluster == ClusterPlace(namespace="n", from_pod=True)
    assert found("--config", str(config), "--state-dir", "/x").cluster is None
    assert found("--config", str(config), "--context", "a").cluster == ClusterPlace(context="a")


def test_the_cluster_that_kubectl_would_use_is_the_last_resort(nothing_here):
    assert found().cluster is None
    (nothing_here / "kubeconfig").write_text("")
    assert found().cluster == ClusterPlace(guessed=True)
    assert found(make=True).cluster is None  # nothing is made where nobody said so
    assert found("--state-dir", "/x").cluster is None
    (nothing_here / "none").mkdir()
    assert found().cluster is None


@pytest.mark.parametrize(
    ("error", "code"), [(StateError("x"), FAILED), (StateUnavailableError("x"), NOT_REACHABLE)]
)
def test_exit_codes(error, code):
    with pytest.raises(CommandError) as caught, state_errors():
        raise error
    assert caught.value.exit_code == code


def test_state_errors_fail_the_command(tmp_path):
    with pytest.raises(CommandError, match="does not exist"), state_errors():
        StateDirectory(tmp_path / "none")
