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

MIB = 4 * 1024 + 256
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


@pytest.mark.timeout(400)
def test_more_than_four_gibibytes_each_way_over_one_link(
    system: System, figure: Callable[[str, float], None]
) -> None:
    """More than any 32-bit count, and than what a connection window that leaks would let pass."""
    links_before = system.nodes()["edge-1"]
    up: list[tuple[int, str]] = []
    uploading = threading.Thread(target=lambda: up.append(upload(system, MIB, *UPLOAD)))
    began = time.monotonic()
    uploading.start()
    down = _download(system, MIB)
    uploading.join()
    expected = services.pattern_digest(MIB)
    assert down == expected
    assert up == [(MIB * services.MIB, expected)]
    figure("MB/s, both ways together", 2 * MIB * services.MIB / 1e6 / (time.monotonic() - began))
    assert system.nodes()["edge-1"]["since"] == links_before["since"], "the link was cut"
    assert curl_json(system.topology.cloud, URL)["machine"] == "edge-1"
