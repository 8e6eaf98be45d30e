"""Either end is killed at any moment, under load: it comes back by itself, and nothing of it is left."""

import random
import re
import statistics
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType

import pytest

from tests.e2e.load import Load, to
from tests.e2e.system import BIN, EDGE_1, System, curl, curl_json

FIXED = 19081
URL = f"http://{EDGE_1}:9081/"
STATUS = "http://127.0.0.1:10266/status"
BACK = 2.0
"""Seconds to the first call that is served, at the median: from when a program answers again; where nothing
else is at work, from when it is started.
"""
AGENT = {"backoff_max": 1}
"""It is killed, or its server, every other second: else it would wait longer from time to time."""
ONE = MappingProxyType({"edge-1": 1})
SETTINGS = {"listen": [f"127.0.0.1:{FIXED}=edge-1:9081"]}


SOME = 10
_LONG = [pytest.mark.long, pytest.mark.timeout(300)]


@pytest.mark.alone
@pytest.mark.parametrize(
    "kills", [SOME, *(pytest.param(25, marks=_LONG, id=f"part-{part}-of-8") for part in range(1, 9))]
)
def test_killed_under_load(
    deploy: Callable[..., System], kills: int, figure: Callable[[str, float], None]
) -> None:
    own = deploy()
    own.start_server(**SETTINGS)
    own.serve(own.topology.edge(1), "http", 9081)
    own.add_edge(own.topology.edge(1), **AGENT)
    own.map_port("9081=10264")
    seed = random.randrange(1 << 32)
    print(f"seed {seed}")
    chance, links = random.Random(seed), 1
    took: dict[str, list[tuple[float, float]]] = {"server": [], "edge-1": []}
    cloud = own.topology.cloud
    with (
        Load(cloud, to(EDGE_1, 9081), callers=3, kib=256) as captured,
        Load(cloud, to("127.0.0.1", FIXED), callers=3, kib=256) as fixed,
    ):
        for _ in range(kills):
            time.sleep(chance.uniform(0, 0.5))
            victim = chance.choice(sorted(took))
            kill(own, victim, chance)
            if victim != "server":
                links = chance.choice((1, 2))
            if chance.random() < 0.2:  # once more while it starts, or has just linked
                start(own, victim, links)
                time.sleep(chance.uniform(0, 1))
                kill(own, victim, chance)
            took[victim].append(back(own, victim, links))
    for load in (captured, fixed):
        assert load.hanging() == []
        assert load.wrong() == []
        assert load.served > kills
    nothing_is_left(own, {"edge-1": links})
    for victim, times in took.items():
        if times:
            from_start, from_answer = zip(*times, strict=True)
            figure(
                f"s for {victim} from start to the first call (median of {len(times)})",
                statistics.median(from_start),
            )
            figure(
                f"s at most; from its first answer: {statistics.median(from_answer):.2f} s", max(from_start)
            )
            assert statistics.median(from_answer if kills == SOME else from_start) < BACK
    figure(
        f"calls served, {len(captured.failures) + len(fixed.failures)} not", captured.served + fixed.served
    )


def kill(own: System, victim: str, chance: random.Random) -> None:
    own.kill(victim)
    if victim == "server":
        assert rules(own) == ""
    time.sleep(chance.uniform(0, 0.3))


def start(own: System, victim: str, links: int) -> None:
    """Start it; if it is the agent, with so many links."""
    if victim == "server":
        words = ["--config", str(own.directory / "server.toml")]
        own.start("server", own.topology.cloud, BIN / "tunnel-server", *words)
    else:
        own.start_agent(own.topology.edge(1), links=links, **AGENT)


def back(own: System, victim: str, links: int) -> tuple[float, float]:
    """Start it; the seconds until a call is served, from then, and from when it answers."""
    began = time.monotonic()
    start(own, victim, links)
    own.until(own.answers if victim == "server" else lambda: healthy(own), victim)
    watch = own.stopwatch("server", "edge-1")

    def served() -> bool:
        return curl(own.topology.cloud, "--max-time", "1", URL).returncode == 0

    own.until(served, "server", "edge-1")
    seconds = time.monotonic() - began, watch.seconds()
    assert rules(own).count("table inet edge-tunnel") == 1
    assert own.connected() == {"edge-1"}
    return seconds


def healthy(own: System) -> bool:
    """The agent's program runs, linked or not."""
    return curl(own.topology.edge(1), "http://127.0.0.1:10266/healthz").returncode == 0


def nothing_is_left(own: System, links: Mapping[str, int] = ONE) -> None:
    """No call, no session and no link but these (how many, by node), no connection to a target."""
    cloud = own.topology.cloud

    def quiet() -> bool:
        status = own.status()
        return (status["calls_open"], status["calls_suspended"]) == (0, 0) and not status["memory_used_bytes"]

    own.until(quiet, "server")
    for name in links:
        edge = own.topology.host(name)
        own.until(lambda edge=edge: curl_json(edge, STATUS)["streams"] == 0, name)
        established = edge.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"]).stdout
        assert not re.findall(r":2379 [0-9A-F]+:[0-9A-F]{4} 01", established)  # 9081
        assert "Traceback" not in own.log(name)
    assert "Traceback" not in own.log("server")

    def gauges() -> dict[str, float]:
        text = curl(cloud, "http://127.0.0.1:10265/metrics").stdout
        found = re.findall(
            r"^edge_tunnel_(links|sessions|nodes_connected|streams_suspended) (\S+)$", text, re.MULTILINE
        )
        return {name: float(value) for name, value in found}

    nodes = len(links)
    only = {
        "links": sum(links.values()),
        "sessions": nodes,
        "nodes_connected": nodes,
        "streams_suspended": 0,
    }
    own.until(lambda: gauges() == only, "server")


def rules(own: System) -> str:
    return own.topology.cloud.run(["nft", "list", "ruleset"]).stdout
