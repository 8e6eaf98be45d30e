"""Ourselves: a real tunnel-server and tunnel-agent, without privileges, joined with a real token."""

import shlex
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tunnel_wire
from bench.checkout import commit
from bench.peers.configuration import connect_entrance
from bench.peers.peer import PeerFailed, Stage
from bench.peers.programs import Programs

BIN = Path(sys.executable).parent
NODE = "edge-1"


@dataclass(frozen=True)
class Tunnel:
    name: str = "edge-tunnel"
    encrypted: bool = True
    one_line: str = (
        "tunnel-server with a fixed listener, tunnel-agent; TLS 1.3, mutual, one link; all defaults"
    )

    def available(self) -> str:
        return ", ".join(filter(None, [tunnel_wire.__version__, commit()]))

    def start(self, stage: Stage) -> Programs:
        programs = Programs(stage, entrance=("127.0.0.1", stage.free_port()))
        with programs.starting():
            prepare_server(stage, programs.entrance)
            start_server(programs, stage)
            start_agent(programs, stage)
            programs.wait_until_it_carries()

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


def prepare_server(stage: Stage, entrance: tuple[str, int]) -> None:
    """Make its authority and configuration: whoever connects to the entrance talks to the node's target."""
    addresses = ",".join(dict.fromkeys([stage.wan_server[0], stage.wan_dial[0]]))
    _run([BIN / "tunnelctl", "init", "--state-dir", server_state(stage), "--cert-ips", addresses])
    ports = "".join(f"{name}-port = {stage.free_port()}\n" for name in ("secure", "insecure", "meta"))
    (stage.scratch / "server.toml").write_text(
        f'state-dir = "{server_state(stage)}"\nadmin-socket = "{stage.scratch}/admin.sock"\n'
        f'intercept = false\nbind-address = ["{stage.wan_server[0]}"]\ntunnel-port = {stage.wan_server[1]}\n'
        f'listen = ["{entrance[0]}:{entrance[1]}={NODE}:{stage.target[1]}"]\n'
        f'localhost-proxy-ports = "{stage.target[1]}"\n{ports}'
    )


def start_server(programs: Programs, stage: Stage, *within: str | Path) -> subprocess.Popen[bytes]:
    """Start it, also after it has ended; return when agents can connect.

    `within` is a command that takes the program's module and words.
    """
    program = [*within, "tunnel_server.cli"] if within else [BIN / "tunnel-server"]
    process = programs.launch("server", [*program, *_server_words(stage)])
    programs.wait_until_it_listens(stage.wan_server)
    return process


def start_successor(programs: Programs, stage: Stage) -> subprocess.Popen[bytes]:
    """Start another, which takes over from the one that runs; return at once."""
    return programs.launch("server", [BIN / "tunnel-server", *_server_words(stage), "--take-over"])


def _server_words(stage: Stage) -> list[str | Path]:
    return ["--config", stage.scratch / "server.toml"]


def start_agent(programs: Programs, stage: Stage, *within: str | Path, node: str = NODE) -> None:
    """Join the node, and start its agent; `within` as for `start_server`."""
    host, port = stage.wan_dial
    where = ["--server", f"{host}:{port}", "--state-dir", str(server_state(stage))]
    words = shlex.split(_run([BIN / "tunnelctl", "token", "create", "--node", node, *where]))[1:]
    state = stage.scratch / f"agent-{node}"
    _run([BIN / "tunnel-agent", *words, "--state-dir", state])
    config = stage.scratch / "agent.toml"
    config.write_text("health-port = 0\n")
    program = [*within, "tunnel_agent.cli"] if within else [BIN / "tunnel-agent"]
    programs.launch("agent", [*program, "run", "--state-dir", state, "--config", config])


def _run(argv: Sequence[str | Path]) -> str:
    """The output of one of our commands, which must succeed."""
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=30)
    if done.returncode:
        raise PeerFailed(f"{Path(argv[0]).name} {argv[1]}: {done.stderr.strip()}")
    return done.stdout


PEERS = (Tunnel(),)
