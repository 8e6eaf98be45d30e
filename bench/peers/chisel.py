"""chisel, in Go: a reverse tunnel, SSH inside a WebSocket, one connection for all callers.

Install: `go install github.com/jpillora/chisel@v1.11.3`, or from its project's releases, as `chisel` in
a folder on PATH. Run with 1.11.3.

Fastest: plain HTTP outside, since SSH inside encrypts and authenticates already: the server by its key's
fingerprint, which it prints when it starts, the agent by user and password.
"""

import re
import secrets
from dataclasses import dataclass

from bench.peers.binaries import find, version
from bench.peers.configuration import with_port
from bench.peers.peer import Absent, PeerFailed, Stage
from bench.peers.programs import Programs

ABSENT = "not installed: go install github.com/jpillora/chisel@v1.11.3"


@dataclass(frozen=True)
class Chisel:
    name: str = "chisel"
    encrypted: bool = True
    one_line: str = "SSH in a WebSocket over HTTP, remote forwarding"

    def available(self) -> Absent | str:
        chisel = find("chisel")
        return version(chisel, "--version") if chisel else Absent(ABSENT)

    def start(self, stage: Stage) -> Programs:
        programs = Programs(stage, entrance=("127.0.0.1", stage.free_port()))
        chisel = find("chisel") or "chisel"
        login = {"AUTH": f"agent:{secrets.token_urlsafe()}"}
        with programs.starting():
            host, port = stage.wan_server
            programs.launch(
                "server", [chisel, "server", "--reverse", "--host", host, "--port", str(port)], login
            )
            programs.wait_until_it_has_said("Listening on ")  # after its key; another may listen at that port
            wan = f"http://{with_port(stage.wan_dial)}"
            known = ["--fingerprint", fingerprint(programs.last_lines(20))]

            def start_agent(_number: int, entrance: tuple[str, int]) -> None:
                remote = f"R:{with_port(entrance)}:{with_port(stage.target)}"
                programs.launch("agent", [chisel, "client", *known, wan, remote], login)

            start_agent(1, programs.entrance)
            programs.wait_until_it_carries()
            programs.start_agent = start_agent
        return programs


def fingerprint(log: str) -> str:
    """What the server prints of its key: 44 characters of base64."""
    found = re.search(r"Fingerprint ([\w+/]{43}=)", log)
    if found is None:
        raise PeerFailed(f"chisel server printed no fingerprint\n{log}")
    return found[1]


PEERS = (Chisel(),)
