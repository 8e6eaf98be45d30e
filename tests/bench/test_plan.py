"""In which order cases run."""

from bench.builds import OURS_INTERPRETED
from bench.loads.load import Load, Trial
from bench.peers.blocking_relay import BlockingRelay
from bench.peers.direct import Direct
from bench.peers.tunnel import Tunnel
from bench.plan import plan
from bench.routes import LONG


def nothing(trial: Trial) -> dict[str, float]:
    return {}


DIRECT, OURS = Direct(), Tunnel()
BULK, ECHO = Load("bulk", (), nothing), Load("echo", (), nothing)
FAR = Load("far", (), nothing, LONG)
ALONE = Load("alone", (), nothing, alone=True)
ONCE = Load("once", (), nothing, once=True)


def order(*loads: Load, rounds: int = 1, quick: bool = False) -> list[tuple[int, str, str]]:
    cases = plan([DIRECT, OURS], loads, rounds, quick=quick)
    return [(case.round, case.peer.name, "+".join(load.name for load in case.loads)) for case in cases]


def test_each_load_goes_through_all_peers_before_the_next_and_backwards_in_the_next_round() -> None:
    assert order(BULK, ECHO, rounds=2) == [
        (0, "direct", "bulk"),
        (0, "edge-tunnel", "bulk"),
        (0, "direct", "echo"),
        (0, "edge-tunnel", "echo"),
        (1, "edge-tunnel", "bulk"),
        (1, "direct", "bulk"),
        (1, "edge-tunnel", "echo"),
        (1, "direct", "echo"),
    ]


def test_our_other_build_is_for_those_loads_only_that_tell_how_they_differ() -> None:
    other = Tunnel(OURS_INTERPRETED)
    telling = Load("telling", (), nothing, both_builds=True)
    for quick in (False, True):
        cases = list(plan([OURS, other], [BULK, telling, FAR, ALONE], 1, quick=quick))
        assert [case.loads for case in cases if case.peer is other] == [(telling,)]
        assert {load for case in cases if case.peer is OURS for load in case.loads} == {
            *(BULK, telling, FAR, ALONE)
        }


def test_what_only_this_project_is_put_under() -> None:
    assert order(ALONE) == [(0, "edge-tunnel", "alone")]


def test_what_is_long_runs_once() -> None:
    assert [number for number, _, _ in order(ONCE, rounds=3)] == [0, 0]


def test_quick_takes_two_peers_over_slow_routes() -> None:
    peers = [DIRECT, BlockingRelay(), OURS]
    for quick, number in ((False, 3), (True, 2)):
        assert len(list(plan(peers, [FAR], 1, quick=quick))) == number
        assert len(list(plan(peers, [BULK], 1, quick=quick))) == 3


def test_quick_starts_a_peer_once_a_route_and_for_each_load_that_is_alone() -> None:
    assert sorted(order(BULK, FAR, ECHO, ALONE, quick=True)) == [
        (0, "direct", "bulk+echo"),
        (0, "direct", "far"),
        (0, "edge-tunnel", "alone"),
        (0, "edge-tunnel", "bulk+echo"),
        (0, "edge-tunnel", "far"),
    ]
