"""What a load costs each end of a program: CPU seconds, and the peak of its memory."""

from collections.abc import Mapping

from bench.accounting import cpu_seconds, peak_kib, reset_peaks
from bench.loads.load import BYTES
from bench.peers.peer import Running


class Costs:
    """Create it before a load, ask it after."""

    def __init__(self, running: Running) -> None:
        self._running = running
        self._before = _cpu(running)
        for pids in running.processes.values():
            reset_peaks(pids)

    def figures(self, measured: Mapping[str, float]) -> dict[str, float]:
        """For each end that has processes: CPU in s, peak in MiB; s a GB if the load says what it carried."""
        found = {}
        after = _cpu(self._running)
        for end, pids in self._running.processes.items():
            if not pids:
                continue  # "direct" has no ends
            spent = after[end] - self._before.get(end, 0.0)
            found[f"{end}_cpu_s"] = spent
            found[f"{end}_peak_mib"] = peak_kib(pids) / 1024
            if measured.get(BYTES):
                found[f"{end}_cpu_s_per_gb"] = spent / (measured[BYTES] / 1e9)
        return found


def _cpu(running: Running) -> dict[str, float]:
    return {end: cpu_seconds(pids) for end, pids in running.processes.items()}
