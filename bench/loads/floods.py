"""Echoes of one edge while another agent floods, is closed, and comes back at once, over and over; and after.

For this project only.
"""

import json
import subprocess
import sys
import time
from collections.abc import Mapping

from bench.loads.client import connect, percentiles
from bench.loads.echo import echoes
from bench.loads.load import Figure, Load, LoadFailed, Trial
from bench.peers.tunnel import OurPrograms, prepare_server, server_state, start_first_agent, start_server

SETTLE_S = 0.2


def beside_a_flood(trial: Trial) -> Mapping[str, float]:
    """The 99th percentiles in microseconds, and how soon each flood's link was closed."""
    running, stage = trial.running, trial.stage
    assert isinstance(running, OurPrograms)
    prepare_server(running, stage)
    start_server(running, stage)
    start_first_agent(running, stage)
    host, port = stage.wan_dial
    seconds = 1.5 * trial.seconds
    with connect(running.entrance, b"e") as sock:
        idle = echoes(sock, seconds)
        with subprocess.Popen(
            [sys.executable, "-m", "bench.flooder", host, str(port), "--state", str(server_state(stage))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as flooder:
            try:
                assert flooder.stdin is not None
                assert flooder.stdout is not None
                if flooder.stdout.readline() != b"floods\n":
                    raise LoadFailed("the flood did not begin")
                beside = echoes(sock, seconds, first=0)
                flooder.stdin.close()
                told = flooder.stdout.readline()
            finally:
                flooder.kill()
        if not told:
            raise LoadFailed("the flood ended early")
        time.sleep(SETTLE_S)
        after = echoes(sock, seconds)
    flooded: Mapping[str, float] = json.loads(told)
    p99 = {key: _p99(samples) for key, samples in (("idle", idle), ("beside", beside), ("after", after))}
    return {
        **p99,
        "kept": p99["after"] / p99["idle"],
        "closed": 1e3 * flooded["closed"],
        "links": flooded["links"],
    }


def _p99(samples: list[float]) -> float:
    return 1e6 * percentiles(samples, 99)[0]


LOADS = (
    Load(
        "echo beside a flood",
        (
            Figure("idle", "echo p99, nobody floods", "us", "less"),
            Figure("beside", "another agent floods, again and again", "us", "less"),
            Figure("after", "once its link is closed", "us", "less"),
            Figure("kept", "... of idle", "x", "less"),
            Figure("closed", "flood to closed link, median", "ms", "less"),
            Figure("links", "links that flooded", "", "more", headline=False),
        ),
        beside_a_flood,
        alone=True,
    ),
)
