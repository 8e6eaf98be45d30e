"""Gigabytes, up and down, arrive whole; and no balance on the way runs out."""

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable

import pytest

from tests.e2e import services
from tests.e2e.system import EDGE_1, System, curl_json

GIB = 1024
URL = f"http://{EDGE_1}:9081"
UPLOAD = ("-H", "Expect:", f"{URL}/upload")


def upload(system: System, mib: int, *words: str) -> tuple[int, str]:
    """Upload the pattern by curl, chunked; return what the edge measured."""
    source = subprocess.Popen(
        [sys.executable, services.__file__, "pattern", str(mib)], stdout=subprocess.PIPE
    )
    with source:
        argv = system.topology.cloud.command(["curl", "-sS", "--fail", "-X", "PUT", "-T", "-", *words])
        assert source.stdout
        done = subprocess.run(argv, stdin=source.stdout, capture_output=True, check=False)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    return answer["length"], answer["sha256"]


def _download(system: System, mib: int) -> str:
    """Download the pattern by curl; return its digest as sha256sum measured it."""
    command = system.topology.cloud.command(["curl", "-sS", "--fail", f"{URL}/pattern?mib={mib}"])
    with subprocess.Popen(command, stdout=subprocess.PIPE) as source:
        digest = subprocess.run(
            ["sha256sum"], stdin=source.stdout, capture_output=True, text=True, check=True
        )
    assert source.returncode == 0
    return digest.stdout.split()[0]


def test_a_gibibyte_up(system: System, figure: Callable[[str, float], None]) -> None:
    expected = GIB * services.MIB, services.pattern_digest(GIB)
    began = time.monotonic()
    assert upload(system, GIB, *UPLOAD) == expected
    figure("MB/s", GIB * services.MIB / 1e6 / (time.monotonic() - began))


def test_a_gibibyte_down(system: System, figure: Callable[[str, float], None]) -> None:
    expected = services.pattern_digest(GIB)
    began = time.monotonic()
    assert _download(system, GIB) == expected
    figure("MB/s", GIB * services.MIB / 1e6 / (time.monotonic() - began))


@pytest.mark.timeout(400)
def test_five_gibibytes_each_way_over_one_link(system: System, figure: Callable[[str, float], None]) -> None:
    """More than any 32-bit count, and than what a connection window that leaks would let pass."""
    links_before = system.nodes()["edge-1"]
    up: list[tuple[int, str]] = []
    uploading = threading.Thread(target=lambda: up.append(upload(system, 5 * GIB, *UPLOAD)))
    began = time.monotonic()
    uploading.start()
    down = _download(system, 5 * GIB)
    uploading.join()
    expected = services.pattern_digest(5 * GIB)
    assert down == expected
    assert up == [(5 * GIB * services.MIB, expected)]
    figure("MB/s, both ways together", 10 * GIB * services.MIB / 1e6 / (time.monotonic() - began))
    assert system.nodes()["edge-1"]["since"] == links_before["since"], "the link was cut"
    assert curl_json(system.topology.cloud, URL)["machine"] == "edge-1"
