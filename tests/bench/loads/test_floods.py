"""An agent that floods a real server: its links are closed, and another's echoes go on."""

from bench.loads.floods import beside_a_flood
from bench.loads.load import Trial
from bench.peers.tunnel import Tunnel
from bench.routes import LOOPBACK
from bench.stage import open_stage


def test_echoes_go_on_beside_a_flood() -> None:
    with open_stage(LOOPBACK) as stage, Tunnel().unstarted(stage) as running:
        figures = beside_a_flood(Trial(stage, running, quick=True))
    assert figures["links"] >= 1
    assert figures["closed"] < 1000
    assert min(figures["idle"], figures["beside"], figures["after"]) > 0
