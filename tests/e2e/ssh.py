"""An sshd on an edge, with keys of its own, and the ssh in the cloud that knows them."""

import getpass
import subprocess
from pathlib import Path

from tests.e2e.system import System
from tunnelctl.demo.topology import Host


def serve(system: System, edge: Host, directory: Path) -> list[str | Path]:
    """Start sshd at the edge's port 22, and map that; returns the words that go before a command there."""
    for name in ("host", "user"):
        made = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", directory / name]
        subprocess.run(made, check=True)
    config = directory / "sshd_config"
    config.write_text(
        f"HostKey {directory}/host\nAuthorizedKeysFile {directory}/user.pub\nPidFile none\nMaxStartups 100\n"
        "StrictModes no\nUsePAM no\nPasswordAuthentication no\nPermitRootLogin yes\n"
        f"SetEnv HOME={directory}\n"  # no start-up files of whoever runs the tests
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    system.start(f"sshd-{edge.name}", edge, "/usr/sbin/sshd", "-D", "-e", "-f", config)
    system.until(lambda: system.listens(edge, 22), f"sshd-{edge.name}")
    system.map_port("22=10264")
    known = directory / "known"
    known.write_text(f"{edge.address} {(directory / 'host.pub').read_text()}")
    options = [
        "-F", "none", "-i", directory / "user", "-o", f"UserKnownHostsFile={known}", "-o", "BatchMode=yes",
    ]  # fmt: skip
    return ["ssh", *options, f"{getpass.getuser()}@{edge.address}"]
