"""The practical limit in Python: two hops with threads, blocking sockets and TLS (`bench/relay.py`)."""

import sys
from dataclasses import dataclass
from pathlib import Path

import bench.relay
from bench.peers.peer import Stage
from bench.peers.programs import Programs


@dataclass(frozen=True)
class BlockingRelay:
    name: str = "blocking relay"
    encrypted: bool = True
    one_line: str = (
        "bench/relay.py: two threads a stream at each end, TLS 1.3, mutual, a connection for each stream; "
        "no further agents"
    )

    def available(self) -> str:
        return "-"

    def start(self, stage: Stage) -> Programs:
        programs = Programs(stage, entrance=("127.0.0.1", stage.free_port()))
        files = stage.certificates
        relay: list[str | Path] = [sys.executable, "-I", Path(bench.relay.__file__)]
        server = [_text(programs.entrance), _text(stage.wan_server)]
        agent = [_text(stage.wan_dial), _text(stage.target)]
        with programs.starting():
            programs.launch(
                "server", [*relay, "server", *server, files.server, files.server_key, files.authority]
            )
            programs.wait_until_it_listens(stage.wan_server)
            programs.launch("agent", [*relay, "agent", *agent, files.agent, files.agent_key, files.authority])
            programs.wait_until_it_carries()
        return programs


def _text(address: tuple[str, int]) -> str:
    return f"{address[0]}:{address[1]}"


PEERS = (BlockingRelay(),)
