"""One program under some loads: `python -m bench.case`, which the runner starts for each anew.

So each case begins with fresh ports, caches and descriptors, and whatever goes wrong ends with it. It prints
one line of JSON a load: {"load": ..., "figures": {...}} or {"load": ..., "failed": "why"}.
"""

import argparse
import json
import resource
import signal
import sys
from collections.abc import Sequence
from contextlib import ExitStack

from bench.builds import BUILDS, OURS, OURS_INTERPRETED
from bench.costs import Costs
from bench.loads import registry as every_load
from bench.loads.load import Load, LoadFailed, Trial
from bench.peers import registry as every_peer
from bench.peers.peer import Peer, PeerFailed, Running, Stage
from bench.peers.tunnel import Tunnel
from bench.routes import RouteFailed, lay
from bench.stage import open_stage


def run(peer: Peer, loads: Sequence[Load], *, quick: bool) -> None:
    """Start the peer once, and put it under each load in turn; all of them take the same route."""
    left = list(loads)
    try:
        with ExitStack() as stack:
            stack.enter_context(lay(loads[0].route))
            stage = stack.enter_context(open_stage(loads[0].route))
            running = stack.enter_context(_start(peer, stage, alone=loads[0].alone))
            while left:
                _measure(left[0], Trial(stage, running, quick))
                left.pop(0)
    except (PeerFailed, RouteFailed, OSError) as error:
        for load in left:
            _say(load, failed=str(error))


def _start(peer: Peer, stage: Stage, *, alone: bool) -> Running:
    if not alone:
        return peer.start(stage)
    assert isinstance(peer, Tunnel)
    return peer.unstarted(stage)


def _measure(load: Load, trial: Trial) -> None:
    costs = Costs(trial.running)
    try:
        measured = load.measure(trial)
    except (LoadFailed, PeerFailed, OSError) as error:
        _say(load, failed=str(error) or type(error).__name__)
        return
    _say(load, figures={**measured, **costs.figures(measured)})


def _say(load: Load, **what: object) -> None:
    print(json.dumps({"load": load.name, **what}), flush=True)


def main() -> None:
    """Find the peer and the loads by name, and run them."""
    parser = argparse.ArgumentParser(
        description="One program under some loads; `python -m bench` runs these."
    )
    peers = [peer for peer in every_peer.peers() if not isinstance(peer, Tunnel)]
    ours = (OURS, OURS_INTERPRETED)  # whatever is built now
    parser.add_argument("--peer", required=True, choices=[*(peer.name for peer in peers), *ours])
    parser.add_argument("--build", choices=list(BUILDS), help="of ours", default="interpreted")
    parser.add_argument("--load", required=True, action="append")
    parser.add_argument("--quick", action="store_true")
    asked = parser.parse_args()
    # The runner ends us politely; then the programs have to be ended too.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:  # for every program that we start, too: 1,000 streams are more than the usual 1,024
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    ours_of_build = Tunnel(asked.peer, BUILDS[asked.build])
    peer = next((each for each in peers if each.name == asked.peer), ours_of_build)
    run(peer, [load for load in every_load.loads() if load.name in asked.load], quick=asked.quick)


if __name__ == "__main__":
    main()
