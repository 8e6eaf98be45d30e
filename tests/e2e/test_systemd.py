"""Agent and server as services of a real systemd, which boots in namespaces: installed, started, restarted,
stopped and removed as docs/raspberry-pi.md says, each with no more than its unit leaves it."""

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.e2e.load import Load, to
from tests.e2e.machine import SYSTEMD, Machine, machine
from tests.e2e.system import CLOUD, EDGE_1, System, curl, curl_json

pytestmark = pytest.mark.skipif(
    not SYSTEMD.exists() or shutil.which("nsenter") is None,
    reason="needs systemd and util-linux: apt-get install systemd util-linux",
)

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "tunnel-server.service"
URL = f"http://{EDGE_1}:9081/"
CAP_NET_ADMIN = 12
FIXED = 19081


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> Iterator[tuple[System, Machine, Machine]]:
    """Two machines on which nothing is installed but the programs."""
    made = deploy_for_module()
    with ExitStack() as stack:
        hosts = made.topology.cloud, made.topology.edge(1)
        yield made, *(stack.enter_context(machine(host, made.processes, systemd=True)) for host in hosts)


def status(on: Machine, service: str) -> dict[str, str]:
    """Of the service's main process, what /proc says."""
    pid = on.run(f"systemctl show -p MainPID --value {service}").strip()
    lines = on.run(f"cat /proc/{pid}/status").splitlines()
    return {"pid": pid} | {key: value.strip() for key, _, value in (line.partition(":") for line in lines)}


def nodes(cloud: Machine) -> dict[str, dict[str, object]]:
    done = cloud.try_("tunnelctl nodes --json")
    return {each["name"]: each for each in json.loads(done.stdout)["nodes"]} if done.returncode == 0 else {}


def rules(cloud: Machine) -> str:
    """All that stands in the kernel, but for who made it."""
    ruleset = re.sub("(netlink port|pid|process|progname) [^ \n]*", "", cloud.run("nft list ruleset"))
    return ruleset + cloud.run("ip route show proto 126")


def connected(system: System, cloud: Machine) -> None:
    system.until(lambda: (node := nodes(cloud).get("edge-1")) and node["connected"] and node["captured"])


def test_services(own: tuple[System, Machine, Machine]) -> None:
    system, cloud, edge = own
    # the server, as docs/raspberry-pi.md has it
    cloud.run(
        "useradd --system --user-group --no-create-home --home-dir /nonexistent "
        "--shell /usr/sbin/nologin edge-tunnel;"
        "install -d -o edge-tunnel -g edge-tunnel -m 700 /var/lib/edge-tunnel;"
        f"tunnelctl init --cert-ips {CLOUD};"
        "install -m 644 /source/deploy/systemd/tunnel-server.service /etc/systemd/system/;"
        "systemctl daemon-reload; systemctl enable --now tunnel-server"
    )
    system.until(lambda: cloud.try_("tunnelctl status").returncode == 0)
    process = status(cloud, "tunnel-server")
    capabilities = {process[key] for key in ("CapPrm", "CapEff", "CapBnd", "CapAmb")}
    assert capabilities == {f"{1 << CAP_NET_ADMIN:016x}"}
    assert (process["NoNewPrivs"], process["Seccomp"]) == ("1", "2")
    assert process["Uid"].split()[0] != "0"
    assert "table inet edge-tunnel" in cloud.run("nft list tables")

    # the agent installs itself
    system.serve(system.topology.edge(1), "http", 9081)
    cloud.run("tunnelctl map-port 9081=10264")
    line = cloud.run(f"tunnelctl token create --node edge-1 --ip {EDGE_1}").strip()
    said = edge.run(f"{line} --install-service")
    assert "wrote /etc/systemd/system/tunnel-agent.service" in said
    assert "started; see: systemctl status tunnel-agent.service" in said
    connected(system, cloud)
    assert curl_json(system.topology.cloud, URL)["machine"] == "edge-1"
    process = status(edge, "tunnel-agent")
    assert {process[key] for key in ("CapPrm", "CapEff", "CapBnd", "CapAmb")} == {f"{0:016x}"}
    assert (process["NoNewPrivs"], process["Seccomp"]) == ("1", "2")
    user = edge.run("id -u tunnel-agent").strip()
    assert process["Uid"].split() == [user] * 4
    assert "linked to 203.0.113.10:10262 as edge-1" in edge.run("journalctl -u tunnel-agent -o cat")
    assert edge.run("systemctl is-enabled tunnel-agent").strip() == "enabled"

    assert "WARNING" not in cloud.run("journalctl -u tunnel-server -o cat")

    # whichever is killed is there again
    for on, service in ((cloud, "tunnel-server"), (edge, "tunnel-agent")):
        wait = f"/etc/systemd/system/{service}.service.d"
        on.run(f"mkdir {wait}; printf '[Service]\nRestartSec=200ms\n' > {wait}/soon.conf")
        on.run("systemctl daemon-reload")
        before = status(on, service)["pid"]
        on.run(f"systemctl kill --signal=KILL --kill-whom=main {service}")
        restarts = f"systemctl show -p NRestarts --value {service}"
        system.until(lambda on=on, restarts=restarts: on.run(restarts).strip() == "1")
        assert status(on, service)["pid"] != before
        connected(system, cloud)
        assert curl_json(system.topology.cloud, URL)["machine"] == "edge-1"

    # the server is replaced, by itself and without a gap
    before = status(cloud, "tunnel-server")
    with Load(system.topology.cloud, to(EDGE_1, 9081)) as load:
        cloud.run("systemctl kill --kill-whom=main --signal=USR2 tunnel-server")
        system.until(lambda: status(cloud, "tunnel-server")["pid"] not in {before["pid"], "0"})
        connected(system, cloud)
    after = status(cloud, "tunnel-server")
    assert (load.failures, load.served > 10) == ([], True)
    assert after["PPid"] == "1"
    same = ("CapPrm", "CapEff", "CapBnd", "CapAmb", "NoNewPrivs", "Seccomp", "Uid")
    assert [after[key] for key in same] == [before[key] for key in same]
    system.until(lambda: cloud.try_(f"test -e /proc/{before['pid']}").returncode != 0)
    assert "active" in cloud.run("systemctl is-active tunnel-server")

    # the configuration is taken again; an orderly stop leaves nothing
    cloud.run(
        "mkdir -p /etc/edge-tunnel; echo 'http-proxy-ports = \"9082\"' > /etc/edge-tunnel/server.toml;"
        "systemctl reload tunnel-server"
    )
    system.until(lambda: "9082" in cloud.run("tunnelctl map-port --list"))

    # with the sockets at systemd, nobody is refused by a restart either
    cloud.run(
        "systemctl stop tunnel-server;"
        "install -m 644 /source/deploy/systemd/tunnel-server.socket /etc/systemd/system/;"
        "mkdir /etc/systemd/system/tunnel-server.socket.d;"
        f"printf '[Socket]\nListenStream=127.0.0.1:{FIXED}\n'"
        " > /etc/systemd/system/tunnel-server.socket.d/fixed.conf;"
        f"echo 'listen = \"127.0.0.1:{FIXED}=edge-1:9081\"' >> /etc/edge-tunnel/server.toml;"
        "systemctl daemon-reload; systemctl start tunnel-server.socket tunnel-server"
    )
    connected(system, cloud)
    captures = rules(cloud)
    with Load(system.topology.cloud, to("127.0.0.1", FIXED)) as load:
        cloud.run("systemctl restart tunnel-server")
        connected(system, cloud)
        served = load.served
        system.until(lambda: load.served > served)
    assert load.failures == []
    # and the table is as it was: nothing stale, nothing missing
    assert EDGE_1 in captures
    assert rules(cloud) == captures
    assert curl_json(system.topology.cloud, URL)["machine"] == "edge-1"

    before = status(edge, "tunnel-agent")["pid"]
    edge.run(
        "mkdir -p /etc/edge-tunnel; echo 'log-format = \"json\"' > /etc/edge-tunnel/agent.toml;"
        "systemctl reload tunnel-agent"
    )
    system.until(lambda: "configuration: log-format" in edge.run("journalctl -u tunnel-agent -o cat"))
    assert status(edge, "tunnel-agent")["pid"] == before
    cloud.run("systemctl stop tunnel-server.socket tunnel-server")
    assert "edge-tunnel" not in cloud.run("nft list tables")
    assert "Result=success" in cloud.run("systemctl show -p Result tunnel-server")
    assert curl(system.topology.cloud, "--max-time", "2", URL).returncode != 0

    edge.run("systemctl stop tunnel-agent")
    assert edge.try_("systemctl is-failed tunnel-agent").stdout.strip() == "inactive"
    said = edge.run("tunnel-agent uninstall-service --purge")
    assert "removed /var/lib/edge-tunnel-agent: this machine has to join again" in said
    assert edge.try_("systemctl cat tunnel-agent; id tunnel-agent").stdout == ""
