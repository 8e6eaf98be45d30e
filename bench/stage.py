"""Makes the stage for one program: folder, certificates, target, and the way from the agent to the server."""

import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Generator
from contextlib import contextmanager
from ipaddress import ip_address
from pathlib import Path

from bench.peers.peer import Certificates, PeerFailed, Stage, free_port
from bench.routes import Route
from certs.authority import Authority
from certs.requests import key_pem, new_key


@contextmanager
def open_stage(route: Route) -> Generator[Stage, None, None]:
    """A stage whose target listens already; all of it is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="bench-") as scratch:
        port = free_port()
        with subprocess.Popen(
            [sys.executable, "-m", "bench.target", "0.0.0.0", str(port)],  # noqa: S104  one end of a route
            stdin=subprocess.PIPE,
            start_new_session=True,
        ) as target:
            try:
                _wait_for(port, target)
                wan = free_port()
                yield Stage(
                    scratch=Path(scratch),
                    certificates=make_certificates(Path(scratch), route),
                    target=("127.0.0.1", port),
                    wan_server=(route.server, wan),
                    wan_dial=(route.dial, wan),
                )
            finally:
                target.kill()


def make_certificates(folder: Path, route: Route) -> Certificates:
    """An authority, and a certificate for each end of the route."""
    authority, _ = Authority.make("bench.internal")
    server_key, agent_key = new_key(), new_key()
    addresses = [ip_address(each) for each in dict.fromkeys(["127.0.0.1", route.server, route.dial])]
    files = Certificates(*(folder / name for name in ("ca.crt", "s.crt", "s.key", "a.crt", "a.key")))
    files.authority.write_text(authority.pem)
    files.server.write_text(
        authority.issue_server(server_key.public_key(), "server", addresses, ["localhost"])
    )
    files.agent.write_text(authority.issue_node(agent_key.public_key(), "edge-1", []))
    for path, key in ((files.server_key, server_key), (files.agent_key, agent_key)):
        path.touch(mode=0o600)
        path.write_bytes(key_pem(key))
    return files


def _wait_for(port: int, target: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
        except OSError:
            if target.poll() is not None or time.monotonic() > deadline:
                raise PeerFailed("the suite's own target did not start") from None
            time.sleep(0.02)
        else:
            return
