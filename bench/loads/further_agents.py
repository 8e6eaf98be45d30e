"""Real agents that are linked and idle: what one takes itself, and what each further one takes of its server.

For every program; where the server end, as configured, has one agent only, the second figure is left out. By
the thousand, agents are simulated, and this project's only: `bench.loads.agents`.

Of a server only what it has written counts (Pss_Anon), not its program and libraries: they are in memory
once, however many agents there are; and where agents are the same program (ours, asyncssh, chisel, rathole,
bore), the server's part of them shrinks with each that starts, by more than an agent takes. For the same
reason an agent's PSS is less here than on a machine of its own, where it comes near to what is resident.
"""

import time
from collections.abc import Mapping

from bench.accounting import memory_kib, resident_kib, written_kib
from bench.loads.load import Figure, Load, Trial

COUNT = 20
SETTLE_S = 2.0


def further_agents(trial: Trial) -> Mapping[str, float]:
    """KiB of the server for each further agent; MiB of the first one, PSS and resident; how many were added.

    Raises PeerFailed.
    """
    running = trial.running
    if not (agent := running.processes["agent"]):
        return {"linked": 0}
    settle_s = min(SETTLE_S, trial.seconds)
    time.sleep(settle_s)
    one = {"agent": memory_kib(agent) / 1024, "resident": resident_kib(agent) / 1024}
    if not running.takes_further_agents:
        return {**one, "linked": 0}
    before = written_kib(running.processes["server"])
    with running.further_agents(trial.count(COUNT)) as entrances:
        time.sleep(settle_s)
        grown = written_kib(running.processes["server"]) - before
    return {**one, "server": grown / len(entrances), "linked": len(entrances)}


LOADS = (
    Load(
        "further agents",
        (
            Figure("server", "a further agent, server", "KiB", "less"),
            Figure("agent", "an idle agent, PSS", "MiB", "less"),
            Figure("resident", "an idle agent, resident", "MiB", "less"),
            Figure("linked", "further agents linked", "", "more", headline=False),
        ),
        further_agents,
        patience=2,
    ),
)
