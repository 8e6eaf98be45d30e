"""Ourselves: a real tunnel-server and tunnel-agent, without privileges, joined with a real token.

Install: `make compiled`, with a C compiler, for the compiled build; the other is this tree.

Fastest: compiled. The interpreted build has a row of its own where the compiled one is there.
"""

import os
import shlex
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import tunnel_wire
from bench.builds import COMPILED, INTERPRETED, OURS, OURS_COMPILED, OURS_INTERPRETED, Build
from bench.checkout import commit
from bench.peers.configuration import connect_entrance
from bench.peers.peer import Absent, PeerFailed, Stage
from bench.peers.programs import Programs, Role

BIN = Path(sys.executable).parent
NODE = "edge-1"


class OurPrograms(Programs):
    """Programs of ours, of one build. Its first entrance leads to the node that is called NODE."""

    def __init__(self, stage: Stage, build: Build) -> None:
        super().__init__(stage, entrance=("127.0.0.1", stage.free_port()))
        self.build = build

    def launch(
        self, role: Role, argv: Sequence[str | Path], env: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.Popen[bytes]:
        """Start one program, of this build. Raises PeerFailed."""
        return super().launch(role, argv, {**self.build.environment, **env})

    def check_build(self, program: str, process: subprocess.Popen[bytes]) -> None:
        """Raise PeerFailed with one line unless that program's process, which serves, is of this build."""
        try:
            wrong = self.build.wrong(process.pid)
        except OSError:
            return  # it has ended, which whoever waits for it says better
        if wrong:
            raise PeerFailed(f"{program}: {wrong}")


@dataclass(frozen=True)
class Tunnel:
    """One build of ours: what `name` says is for people, and `build` is what runs."""

    name: str = OURS
    build: Build = INTERPRETED
    encrypted: bool = True
    one_line: str = (
        "tunnel-server with a fixed listener, tunnel-agent; TLS 1.3, mutual, one link; all defaults"
    )

    @property
    def second(self) -> bool:
        """It is beside another build of ours, and for those loads only that tell how they differ."""
        return self.name != OURS

    def available(self) -> Absent | str:
        if why := self.build.unusable():
            return Absent(why)
        return ", ".join(filter(None, [tunnel_wire.__version__, commit(), self.build.name]))

    def unstarted(self, stage: Stage) -> OurPrograms:
        """Its programs, none of which runs yet. Raises PeerFailed where the build is not of these sources."""
        if why := self.build.unusable():
            raise PeerFailed(why)
        return OurPrograms(stage, self.build)

    def start(self, stage: Stage) -> Programs:
        programs = self.unstarted(stage)
        with programs.starting():
            prepare_server(programs, stage)
            start_server(programs, stage)
            start_first_agent(programs, stage)

            def start_another(number: int, entrance: tuple[str, int]) -> None:
                node = f"edge-{number}"
                start_agent(programs, stage, node=node)
                # Fixed listeners are the configuration's, which has one; this way leads to every node.
                socket, target = stage.scratch / "connect.sock", f"{node}:{stage.target[1]}"
                programs.launch("entrance", connect_entrance(entrance, socket, target))

            programs.start_agent = start_another
        return programs


def server_state(stage: Stage) -> Path:
    """The server's state directory: its authority, tokens and nodes."""
    return stage.scratch / "server"


def prepare_server(programs: OurPrograms, stage: Stage) -> None:
    """Make its authority and configuration: whoever connects to the entrance talks to the node's target."""
    entrance = programs.entrance
    addresses = ",".join(dict.fromkeys([stage.wan_server[0], stage.wan_dial[0]]))
    where: list[str | Path] = ["--state-dir", server_state(stage), "--cert-ips", addresses]
    _run(programs, [BIN / "tunnelctl", "init", *where])
    ports = "".join(f"{name}-port = {stage.free_port()}\n" for name in ("secure", "insecure", "meta"))
    (stage.scratch / "server.toml").write_text(
        f'state-dir = "{server_state(stage)}"\nadmin-socket = "{stage.scratch}/admin.sock"\n'
        f'intercept = false\nbind-address = ["{stage.wan_server[0]}"]\ntunnel-port = {stage.wan_server[1]}\n'
        f'listen = ["{entrance[0]}:{entrance[1]}={NODE}:{stage.target[1]}"]\n'
        f'localhost-proxy-ports = "{stage.target[1]}"\n{ports}'
    )


def start_server(programs: OurPrograms, stage: Stage, *within: str | Path) -> subprocess.Popen[bytes]:
    """Start it, also after it has ended; return when agents can connect.

    `within` is a command that takes the program's module and words. Raises PeerFailed, also where what runs
    is not of the programs' build.
    """
    program = [*within, "tunnel_server.cli"] if within else [BIN / "tunnel-server"]
    process = programs.launch("server", [*program, *_server_words(stage)])
    programs.wait_until_it_listens(stage.wan_server)
    programs.check_build("tunnel-server", process)
    return process


def start_successor(programs: OurPrograms, stage: Stage) -> subprocess.Popen[bytes]:
    """Start another, which takes over from the one that runs; return at once."""
    return programs.launch("server", [BIN / "tunnel-server", *_server_words(stage), "--take-over"])


def _server_words(stage: Stage) -> list[str | Path]:
    return ["--config", stage.scratch / "server.toml"]


def start_first_agent(programs: OurPrograms, stage: Stage, *within: str | Path) -> None:
    """Start the agent that the entrance leads to; return when it carries. As `start_server` otherwise."""
    process = start_agent(programs, stage, *within)
    programs.wait_until_it_carries()
    programs.check_build("tunnel-agent", process)


def start_agent(
    programs: OurPrograms, stage: Stage, *within: str | Path, node: str = NODE
) -> subprocess.Popen[bytes]:
    """Join the node, and start its agent; return at once. `within` as for `start_server`."""
    host, port = stage.wan_dial
    where = ["--server", f"{host}:{port}", "--state-dir", str(server_state(stage))]
    words = shlex.split(_run(programs, [BIN / "tunnelctl", "token", "create", "--node", node, *where]))[1:]
    state = stage.scratch / f"agent-{node}"
    _run(programs, [BIN / "tunnel-agent", *words, "--state-dir", state])
    config = stage.scratch / "agent.toml"
    config.write_text("health-port = 0\n")
    program = [*within, "tunnel_agent.cli"] if within else [BIN / "tunnel-agent"]
    return programs.launch("agent", [*program, "run", "--state-dir", state, "--config", config])


def _run(programs: OurPrograms, argv: Sequence[str | Path]) -> str:
    """The output of one of our commands, of the same build, which must succeed."""
    env = {**os.environ, **programs.build.environment}
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30, env=env)
    if done.returncode:
        raise PeerFailed(f"{Path(argv[0]).name} {argv[1]}: {done.stderr.strip()}")
    return done.stdout


def _peers() -> Sequence[Tunnel]:
    """What is recommended first; then the other build, or why there is none."""
    if COMPILED.unusable():
        return Tunnel(), Tunnel(OURS_COMPILED, COMPILED)
    return Tunnel(build=COMPILED), Tunnel(OURS_INTERPRETED)


PEERS = _peers()
