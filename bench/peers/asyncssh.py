"""AsyncSSH, an SSH in Python on asyncio: its own server and client, reverse forwarding.

Install: `pip install asyncssh` into the Python that runs the suite (`pip install -e .[bench]`).

Fastest: aes128-gcm (of OpenSSL's, through `cryptography`), no compression. Both ends are `asyncssh_end.py`.
"""

import importlib.metadata
import sys
from dataclasses import dataclass
from pathlib import Path

from bench.peers.peer import Absent, Stage
from bench.peers.programs import Programs

# -P: AsyncSSH has to be found, not the file beside it that has its name.
END = [sys.executable, "-P", str(Path(__file__).with_name("asyncssh_end.py"))]


@dataclass(frozen=True)
class Asyncssh:
    name: str = "asyncssh"
    encrypted: bool = True
    one_line: str = (
        "AsyncSSH, remote port forwarding to its own server, aes128-gcm@openssh.com, no compression"
    )

    def available(self) -> Absent | str:
        try:
            return importlib.metadata.version("asyncssh")
        except importlib.metadata.PackageNotFoundError:
            return Absent("not installed: pip install asyncssh")

    def start(self, stage: Stage) -> Programs:
        programs = Programs(stage, entrance=("127.0.0.1", stage.free_port()))
        with programs.starting():
            listens = [str(each) for each in stage.wan_server]
            programs.launch("server", [*END, "server", *listens])
            programs.wait_until_it_has_written("user_key.pub")  # the last; another may listen at that port
            programs.wait_until_it_listens(stage.wan_server)

            def start_agent(_number: int, entrance: tuple[str, int]) -> None:
                addresses = [str(each) for pair in (stage.wan_dial, entrance, stage.target) for each in pair]
                programs.launch("agent", [*END, "agent", *addresses])

            start_agent(1, programs.entrance)
            programs.wait_until_it_carries()
            programs.start_agent = start_agent
        return programs


PEERS = (Asyncssh(),)
