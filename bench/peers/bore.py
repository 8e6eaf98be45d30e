"""bore, in Rust: a reverse tunnel without encryption, to see what encryption costs the others.

Install: `cargo install bore-cli`.

A connection over the WAN for each caller. `--secret` would authenticate the agent; it is left out: it costs
each connection a round trip. The port on the WAN is always 7835: of the stage's, only the addresses count.
"""

from dataclasses import dataclass

from bench.peers.binaries import find, version
from bench.peers.configuration import QUIET_RUST
from bench.peers.peer import Absent, Stage
from bench.peers.programs import Programs

CONTROL_PORT = 7835


@dataclass(frozen=True)
class Bore:
    name: str = "bore"
    encrypted: bool = False
    one_line: str = "NOT encrypted, no authentication, for reference: a TCP connection for each caller"

    def available(self) -> Absent | str:
        bore = find("bore")
        return version(bore, "--version") if bore else Absent("not installed: cargo install bore-cli")

    def start(self, stage: Stage) -> Programs:
        programs = Programs(stage, entrance=("127.0.0.1", stage.free_port()))
        listens, dials = stage.wan_server[0], stage.wan_dial[0]
        host, port = stage.target
        bore = find("bore") or "bore"
        with programs.starting():
            where = ["--bind-addr", listens, "--bind-tunnels", programs.entrance[0]]
            programs.launch("server", [bore, "server", *where], QUIET_RUST)
            programs.wait_until_it_listens((listens, CONTROL_PORT))

            def start_agent(_number: int, entrance: tuple[str, int]) -> None:
                what = [str(port), "--local-host", host, "--port", str(entrance[1])]
                programs.launch("agent", [bore, "local", "--to", dials, *what], QUIET_RUST)

            start_agent(1, programs.entrance)
            programs.wait_until_it_carries()
            programs.start_agent = start_agent
        return programs


PEERS = (Bore(),)
