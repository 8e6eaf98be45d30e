"""Where the state is: the command line's word, then the configuration's, then the default."""

import argparse
from pathlib import Path

import pytest

from certs.addresses import DEFAULT_EDGE_NETWORKS
from certs.files import StateDirectory
from tunnelctl.errors import CommandError, UsageError
from tunnelctl.local_server import DEFAULT_STATE, LocalServer, add_arguments, find_server, state_errors


def found(*args):
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return find_server(parser.parse_args(args))


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


def test_state_errors_fail_the_command(tmp_path):
    with pytest.raises(CommandError, match="does not exist"), state_errors():
        StateDirectory(tmp_path / "none")
