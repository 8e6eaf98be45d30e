"""Who has the ports of ours: pods, and programs of the host that tunnelctl runs on."""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tunnelctl.checks import Check, State
from tunnelctl.install.manifests import SERVER_CONFIG, SERVER_FILE, load, named
from tunnelctl.install.ports import check_ports
from tunnelctl.install.preflight import ClusterSurvey

if TYPE_CHECKING:
    from collections.abc import Iterator

BOOT = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
PORT = 10265
RUNS: dict[str, Any] = {"containerStatuses": [{"state": {"running": {}}}]}
WAITS: dict[str, Any] = {"containerStatuses": [{"state": {"waiting": {}}}]}
SILENT = Check("ports", State.OK, "no pod has those that ours need")


@pytest.fixture
def taken() -> Iterator[None]:
    try:
        sock = socket.create_server(("127.0.0.1", PORT))
    except OSError:
        pytest.skip(f"port {PORT} of this machine is in use")
    with sock:
        yield


def node(address: str = "127.0.0.1", boot: str = BOOT) -> dict[str, Any]:
    """A control-plane node, by default on this machine."""
    status = {"addresses": [{"type": "InternalIP", "address": address}], "nodeInfo": {"bootID": boot}}
    return {"metadata": {"name": "cp-1"}, "spec": {}, "status": status}


def pod(status: dict[str, Any], namespace: str = "edge-tunnel") -> dict[str, Any]:
    container = {"name": "c", "ports": [{"containerPort": PORT}]}
    spec = {"nodeName": "cp-1", "hostNetwork": True, "containers": [container]}
    return {"metadata": {"name": "some-1", "namespace": namespace}, "spec": spec, "status": status}


def checked(
    host: dict[str, Any], *pods: dict[str, Any], objects: list[dict[str, Any]] | None = None
) -> list[Check]:
    survey = ClusterSurvey([host], [host], [], list(pods), None, [])
    return list(check_ports(survey, objects or load(), "edge-tunnel", replace=False))


@pytest.mark.usefixtures("taken")
def test_a_program_of_this_host_is_named() -> None:
    (check,) = checked(node())
    name = Path("/proc/self/comm").read_text().strip()
    assert check.state is State.FAILED
    assert check.text == f"{PORT} on cp-1: a program there, {name} (process {os.getpid()})"


@pytest.mark.parametrize(
    ("port", "in_the_way"),
    [pytest.param(10262, True, id="on-every-address"), pytest.param(PORT, False, id="on-loopback")],
)
def test_a_program_on_another_address_of_this_host_counts_where_ours_listens_on_all(
    port: int, in_the_way: bool
) -> None:
    try:
        sock = socket.create_server(("127.0.0.9", port))
    except OSError:
        pytest.skip(f"port {port} of this machine is in use")
    with sock:
        (check,) = checked(node())
        assert (check.state is State.FAILED) is in_the_way
        assert ("a program there" in check.text) is in_the_way
        if in_the_way:
            objects = load()
            data = named(objects, "ConfigMap", SERVER_CONFIG)["data"]
            data[SERVER_FILE] = 'bind-address = ["127.0.0.8", "127.0.0.7"]\n' + data[SERVER_FILE]
            assert checked(node(), objects=objects) == [SILENT]
            data[SERVER_FILE] = data[SERVER_FILE].replace("127.0.0.7", "127.0.0.9")
            assert checked(node(), objects=objects) == [check]


@pytest.mark.usefixtures("taken")
@pytest.mark.parametrize("host", [node("203.0.113.10"), node(boot="another"), node("not an address")])
def test_other_hosts_are_not_looked_at(host: dict[str, Any]) -> None:
    (check,) = checked(host)
    assert check.state is State.OK
    assert check.text == f"{SILENT.text}; other programs show when ours start"


@pytest.mark.usefixtures("taken")
def test_a_server_of_before_is_in_nobodys_way_while_it_runs() -> None:
    assert checked(node(), pod(RUNS)) == [SILENT]
    (check,) = checked(node(), pod(WAITS))  # for the port, perhaps
    assert "a program there" in check.text


@pytest.mark.usefixtures("taken")
def test_another_pod_is_named_as_that_alone() -> None:
    (check,) = checked(node(), pod(RUNS, "shop"))
    assert check.text == f"{PORT} on cp-1: pod shop/some-1"


def test_nobody() -> None:
    assert checked(node()) == [SILENT]
