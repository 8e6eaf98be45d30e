"""The README's "Kubernetes in five minutes", typed as it stands there."""

import os
import subprocess
from pathlib import Path

import pytest

from tests.e2e.cluster import tunnel_image
from tests.e2e.cluster.cluster import Cluster
from tests.e2e.cluster.shipped import Shipped
from tests.e2e.system import BIN
from tests.e2e.test_docs import CLUSTER, FIRST, blocks, matches

pytestmark = pytest.mark.timeout(180)


@pytest.fixture
def environment(cluster: Cluster, installation: Shipped, tmp_path: Path) -> dict[str, str]:
    """An administrator's, on the cloud host; every node has the image."""
    cluster.control_plane.configure_api()
    installation.uninstall()
    for node in cluster.nodes.values():
        node.load(tunnel_image.archive())
    (home := tmp_path / "home" / ".kube").mkdir(parents=True)
    (home / "config").symlink_to(cluster.control_plane.kubeconfig)
    path = f"{cluster.control_plane.programs}:{BIN}:{os.environ['PATH']}"
    return {"HOME": str(home.parent), "PATH": path}


def test_every_command_does_what_it_shows(cluster: Cluster, environment: dict[str, str]) -> None:
    shown = [
        (block.line, *each) for block in blocks(FIRST) if block.word == CLUSTER for each in block.commands()
    ]
    assert len(shown) == 6
    for line, command, printed in shown:
        done = subprocess.run(
            cluster.topology.cloud.command(["sh", "-c", command]),
            env=environment, capture_output=True, text=True, check=False, timeout=150,
        )  # fmt: skip
        where = f"{FIRST}:{line}: {command}\n{done.stdout}{done.stderr}"
        assert done.returncode == 0, where
        assert matches(done.stdout + done.stderr, printed), where
