"""In which order cases run: within a round each load goes through all peers before the next load begins.

So what is compared was measured within a minute, and a machine that grows slower does so for all. Every other
round goes through the peers backwards.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from bench.loads.load import Load
from bench.peers.direct import Direct
from bench.peers.peer import Peer
from bench.peers.tunnel import Tunnel


@dataclass(frozen=True)
class Case:
    """One start of one peer, and what it is put under."""

    peer: Peer
    loads: tuple[Load, ...]
    round: int


def plan(peers: Sequence[Peer], loads: Sequence[Load], rounds: int, *, quick: bool) -> Iterator[Case]:
    """Every case of a run.

    Quick, a peer is started once for all loads of one route, and the long and lossy routes, which are slow,
    are for two peers only: that the others work, loopback shows.
    """
    for number in range(rounds):
        wanted = [load for load in loads if not (load.once and number)]
        order = peers if number % 2 == 0 else peers[::-1]
        for group in _groups(wanted) if quick else [(load,) for load in wanted]:
            for peer in order:
                ours = isinstance(peer, Tunnel)
                if group[0].alone and not ours:
                    continue
                if quick and group[0].route.shaped and not ours and not isinstance(peer, Direct):
                    continue
                if for_it := tuple(load for load in group if _is_for(peer, load)):
                    yield Case(peer, for_it, number)


def _is_for(peer: Peer, load: Load) -> bool:
    return load.both_builds or not (isinstance(peer, Tunnel) and peer.second)


def _groups(loads: Sequence[Load]) -> list[tuple[Load, ...]]:
    """Loads that one start can serve."""

    def start(load: Load) -> tuple[str, str]:
        return load.route.name, load.name if load.alone else ""

    ordered = sorted(loads, key=start)
    return [tuple(group) for _, group in groupby(ordered, start)]
