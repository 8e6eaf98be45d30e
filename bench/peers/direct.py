"""No tunnel: the caller connects to the target itself. What the load generator and the kernel can do."""

from dataclasses import dataclass

from bench.peers.peer import Stage
from bench.peers.programs import Programs


@dataclass(frozen=True)
class Direct:
    name: str = "direct"
    encrypted: bool = False
    one_line: str = "no tunnel, no agents: the load generator connects to the target over loopback"

    def available(self) -> str:
        return "-"

    def start(self, stage: Stage) -> Programs:
        # Over the same way as the others' WAN: the target listens at both of its ends.
        return Programs(stage, entrance=(stage.wan_dial[0], stage.target[1]))


PEERS = (Direct(),)
