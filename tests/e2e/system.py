"""A whole deployment in namespaces: the real programs, started and ended as an operator would."""

import json
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, TypeVar

from tests.e2e import services
from tests.e2e.stopwatch import Stopwatch
from tunnelctl.admin_client import ask
from tunnelctl.demo.processes import Processes
from tunnelctl.demo.topology import Host, Topology
from tunnelctl.errors import CommandError

T = TypeVar("T")
BIN = Path(sys.executable).parent
CLOUD = "203.0.113.10"
EDGE_1, EDGE_2 = "192.168.2.143", "192.168.2.144"
RESET = {7, 55, 56}
"""How curl ends after a reset, which may come before connect() has returned, before it has sent, or later."""


def build_of(program: subprocess.Popen[bytes]) -> str:
    """Which build of the protocol a running program of ours has loaded, as the kernel knows it."""
    mapped = Path(f"/proc/{program.pid}/maps").read_text()
    return "compiled" if re.search(r"/tunnel_wire\S*\.so$", mapped, re.MULTILINE) else "interpreted"


class System:
    """A server in the cloud and agents on the edges of a topology; all state below one directory."""

    def __init__(self, topology: Topology, directory: Path, processes: Processes) -> None:
        self.topology = topology
        self.directory = directory
        self.processes = processes
        self.state = directory / "server"
        self.admin = directory / "admin.sock"
        self.server_settings: dict[str, object] = {"state-dir": self.state, "admin-socket": self.admin}
        self.environment: dict[str, str] = {}
        """Variables of the server, and of tunnelctl beside it."""

    # the server

    def init(self) -> None:
        self.ctl("init", "--state-dir", self.state, "--cert-ips", CLOUD)

    def start_server(self, **settings: object) -> None:
        """Start it with these settings beside the usual; return when it answers."""
        self.server_settings |= {key.replace("_", "-"): value for key, value in settings.items()}
        config = self.directory / "server.toml"
        config.write_text(toml(self.server_settings))
        self.start(
            "server", self.topology.cloud, BIN / "tunnel-server", "--config", config, env=self.environment
        )
        self.until(self.answers, "server")

    def answers(self) -> bool:
        """Whether the server can be asked."""
        try:
            return bool(self._ask("status"))
        except CommandError:
            return False

    def configure(self, **settings: object) -> None:
        """Change the server's file, as an editor does: another file in its place."""
        self.server_settings |= {key.replace("_", "-"): value for key, value in settings.items()}
        (fresh := self.directory / "server.new").write_text(toml(self.server_settings))
        fresh.rename(self.directory / "server.toml")

    def hang_up(self) -> None:
        """Have the server read its file."""
        self.processes["server"].send_signal(signal.SIGHUP)

    def ctl(self, *words: str | Path) -> str:
        """The output of `tunnelctl` in the cloud, which must succeed."""
        done = self.try_ctl(*words)
        assert done.returncode == 0, f"tunnelctl {words}: {done.stderr}"
        return done.stdout

    def try_ctl(self, *words: str | Path) -> subprocess.CompletedProcess[str]:
        asks_server = words[0] in {"nodes", "status", "map-port"}
        where = ["--admin-socket", self.admin] if asks_server else []
        return self.topology.cloud.run([*_env(self.environment), BIN / "tunnelctl", *words, *where])

    def _ask(self, what: str) -> dict[str, Any]:
        # By tunnelctl's own code, but in this process: to start a program for each look is most of the work.
        return ask(self.admin, "GET", f"/v1/{what}")

    def nodes(self) -> dict[str, dict[str, Any]]:
        """What the server says of each node, by name."""
        return {node["name"]: node for node in self._ask("nodes")["nodes"]}

    def connected(self) -> set[str]:
        return {name for name, node in self.nodes().items() if node["connected"]}

    def status(self) -> dict[str, Any]:
        return self._ask("status")

    def map_port(self, pair: str, *words: str) -> str:
        return self.ctl("map-port", pair, *words)

    # the agents

    def join_line(self, node: str, *addresses: str, ttl: str = "24h") -> list[str]:
        """The words of the line that joins `node`, after `tunnel-agent`."""
        where = [word for address in addresses for word in ("--ip", address)]
        line = self.ctl("token", "create", "--node", node, *where, "--ttl", ttl, "--state-dir", self.state)
        program, *words = shlex.split(line)
        assert program == "tunnel-agent"
        return words

    def join(
        self, edge: Host, words: Sequence[str], *more: str, env: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.CompletedProcess[str]:
        argv = [BIN / "tunnel-agent", *words, "--state-dir", self.agent_state(edge), *more]
        return edge.run([*_env(env), *argv])

    def agent_state(self, edge: Host) -> Path:
        return self.directory / edge.name

    def start_agent(
        self, edge: Host, *, env: Mapping[str, str] | None = None, **settings: object
    ) -> subprocess.Popen[bytes]:
        config = self.directory / f"{edge.name}.toml"
        config.write_text(toml({key.replace("_", "-"): value for key, value in settings.items()}))
        argv = [BIN / "tunnel-agent", "run", "--state-dir", self.agent_state(edge), "--config", config]
        return self.start(edge.name, edge, *argv, env=env)

    def add_edge(self, edge: Host, **settings: object) -> None:
        """Join it under its own name and address, start its agent, wait until it is connected."""
        joined = self.join(edge, self.join_line(edge.name, edge.address))
        assert joined.returncode == 0, joined.stderr
        self.start_agent(edge, **settings)
        self.wait_ready(edge.name)

    def wait_ready(self, name: str) -> None:
        """Until calls to the node's addresses can be served: it is connected, and they are captured."""
        intercepts = self.server_settings.get("intercept", True)
        self.until(
            lambda: (node := self.nodes()[name])["connected"] and (node["captured"] or not intercepts), name
        )

    # programs

    def start(
        self, name: str, host: Host, *argv: str | Path, env: Mapping[str, str] | None = None
    ) -> subprocess.Popen[bytes]:
        return self.processes.start(name, host.command(argv), env=env)

    def serve(self, host: Host, kind: str, port: int) -> None:
        """Start one of services.py on a host; return when it accepts connections."""
        name = f"{kind}-{host.name}-{port}"
        self.start(name, host, sys.executable, services.__file__, kind, str(port), host.name)
        self.until(lambda: self.listens(host, port), name)

    def listens(self, host: Host, port: int) -> bool:
        sockets = host.run(["cat", "/proc/net/tcp", "/proc/net/tcp6"]).stdout
        return re.search(f":{port:04X} 0+:0000 0A", sockets) is not None

    def kill(self, name: str, signum: int = signal.SIGKILL) -> int:
        """End a program as somebody does who does not ask, or with a signal that does."""
        return self.processes.end(name, signum=signum)

    def log(self, name: str) -> str:
        return self.processes.log(name).read_text()

    def until(self, condition: Callable[[], T], *logs: str, timeout: float = 45) -> T:
        """What `condition` returns, once that is true; fails with the tails of the logs.

        The timeout only ends what hangs: a machine may have much else to do. What is promised within a time
        is for `within`.
        """
        deadline = time.monotonic() + timeout
        while not (result := condition()):
            tails = "\n".join(f"--- {name}:\n{self.processes.tail(name, 20)}" for name in logs)
            ended = [name for name in logs if name in self.processes.ended()]
            assert not ended, f"{ended} ended\n{tails}"
            assert time.monotonic() < deadline, f"not within {timeout} s\n{tails}"
            time.sleep(0.05)
        return result

    def within(self, seconds: float, condition: Callable[[], T], *logs: str) -> T:
        """As `until`; and it must not take longer than is promised, by a stopwatch for the same programs."""
        watch, looked = self.stopwatch(*logs), 0.0

        def look() -> T:
            nonlocal looked
            looked = watch.seconds()
            return condition()

        result = self.until(look, *logs)
        assert looked < seconds, f"it took {looked:.1f} s"
        return result

    def stopwatch(self, *names: str) -> Stopwatch:
        """For what these programs do, also those that are started meanwhile."""
        return Stopwatch(
            lambda: [self.processes[each].pid for each in self.processes.names() if each in names]
        )


def _env(variables: Mapping[str, str]) -> list[str]:
    """Words in front of a command that is to have these variables."""
    return ["env", *(f"{key}={value}" for key, value in variables.items())] if variables else []


def curl(host: Host, *words: str | Path, timeout: float = 30) -> subprocess.CompletedProcess[str]:
    """curl on a host, silent but for errors; HTTP errors are errors."""
    return host.run(["curl", "-sS", "--fail", "--noproxy", "*", *words], timeout=timeout)


def curl_json(host: Host, *words: str | Path) -> dict[str, Any]:
    """The JSON that curl got, and it must."""
    done = curl(host, *words)
    assert done.returncode == 0, done.stderr
    answer: dict[str, Any] = json.loads(done.stdout)
    return answer


def resident(pid: int) -> float:
    """MiB of memory that the process holds."""
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith("VmRSS:"))


def missing(*programs: str) -> list[str]:
    """Those that are not on this machine."""
    return [program for program in programs if shutil.which(program) is None]


def toml(settings: Mapping[str, object]) -> str:
    """Settings as lines of TOML: JSON's strings, numbers, truths and arrays are TOML's."""
    return "".join(f"{key} = {json.dumps(value, default=str)}\n" for key, value in settings.items())
