"""One run: who is there, which loads are possible, then case after case, told and saved as it goes."""

import time
from collections.abc import Callable, Sequence

from bench.loads.load import Load
from bench.machine import machine
from bench.peers.peer import Absent, Peer
from bench.plan import plan
from bench.results import PeerEntry, Results, Sample
from bench.routes import missing, missing_for_shaping
from bench.runner import Runner
from bench.table import number


class Suite:
    """What is to be measured. `results` is what there is so far, at any time."""

    def __init__(
        self,
        peers: Sequence[Peer],
        loads: Sequence[Load],
        *,
        rounds: int,
        quick: bool,
        save: Callable[[Results], None],
        before: Sequence[Sample] = (),
    ) -> None:
        """`save` is called at once, so that what can't be saved is known before it took an hour to measure,
        and then with every sample. Raises what it raises. What is in `before` is not measured again.
        """
        self.results = Results(machine(), quick, rounds, [], [load.name for load in loads])
        self._before = {(each.peer, each.load, each.round): each for each in before if not each.failed}
        self._peers = peers
        self._loads = {load.name: load for load in loads}
        self._save = save
        self._began = time.monotonic()
        save(self.results)

    def run(self) -> None:
        """Measure everything. KeyboardInterrupt ends what runs, and is raised."""
        results = self.results
        for load in self._loads.values():
            if why := missing(load.route):
                results.skipped[load.name] = why
        possible = [load for load in self._loads.values() if load.name not in results.skipped]
        present = [peer for peer in self._peers if self._is_there(peer)]
        runner = Runner(quick=results.quick, namespaces=missing_for_shaping() is None)
        for case in plan(present, possible, results.rounds, quick=results.quick):
            known = [self._before.get((case.peer.name, load.name, case.round)) for load in case.loads]
            measured = [sample for sample in known if sample is not None]
            if len(measured) == len(known):
                results.samples += measured
                continue
            for sample in runner.run(case):
                self._take(sample)
        results.complete = True
        self._save(results)

    def _is_there(self, peer: Peer) -> bool:
        found = peer.available()
        absent = found.reason if isinstance(found, Absent) else ""
        version = "" if isinstance(found, Absent) else found
        self.results.peers.append(PeerEntry(peer.name, peer.encrypted, peer.one_line, version, absent))
        print(f"{peer.name}: {absent or version}", flush=True)
        return not absent

    def _take(self, sample: Sample) -> None:
        self.results.samples.append(sample)
        self._save(self.results)
        told = ", ".join(
            f"{figure.title} {number(sample.figures[figure.key])} {figure.unit}"
            for figure in self._loads[sample.load].figures
            if figure.key in sample.figures
        )
        at = f"[{time.monotonic() - self._began:5.0f} s] round {sample.round + 1}"
        print(f"{at}, {sample.peer}, {sample.load}: {told or f'failed: {sample.why}'}", flush=True)
