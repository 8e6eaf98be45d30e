"""The real program, as a process of its own."""

import json
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import pytest

# 20 to 60 MiB each on a small machine, and none of them is the business of an agent that has joined.
FORBIDDEN = {"kubernetes", "pydantic", "pyroute2", "prometheus_client", "cryptography", "asyncio", "cffi"}
# Less, and for other commands, mistakes, proxies, or nothing at all: an agent has a budget of 30 MiB.
UNUSED = {
    "_strptime", "argparse", "calendar", "concurrent", "decimal", "difflib", "email", "encodings.idna", "h11",
    "http", "importlib.metadata", "importlib.resources", "logging.handlers", "multiprocessing", "pickle",
    "statistics", "stringprep", "typing_extensions", "unittest", "uuid", "xml", "zipfile",
    "certs.authority", "certs.requests", "tunnel_agent.attestation", "tunnel_agent.join",
    "tunnel_agent.join_client", "tunnel_agent.proxy_tunnel", "tunnel_agent.renew",
    "tunnel_agent.service_install", "tunnel_daemon.http1", "tunnel_daemon.port_owner",
}  # fmt: skip

# On SIGUSR1 the agent's own process says what it has loaded: the modules of another one would prove nothing.
REPORT = """
import linecache, signal, sys
def report(*_):
    with open(sys.argv.pop(), "w") as file:
        file.write("\\n".join([*sys.modules, *("source of " + name for name in linecache.cache)]))
signal.signal(signal.SIGUSR1, report)
from tunnel_agent.cli import main
sys.exit(main(sys.argv[1:-1]))
"""


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def eventually(condition, seconds: float = 45.0):
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            if found := condition():
                return found
        except OSError:
            pass
        time.sleep(0.02)
    raise AssertionError("it did not happen")


@contextmanager
def agent(tmp_path, state, *words: str):
    """The agent as a process; its health port; where it reports its modules."""
    port, config, modules = free_port(), tmp_path / "agent.toml", tmp_path / "modules"
    config.write_text(f'health-port = {port}\nproxy = "none"\n')
    command = [
        sys.executable,
        "-W",
        "error",
        "-c",
        REPORT,
        "--config",
        config,
        "--state-dir",
        state,
        *words,
        modules,
    ]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process, port, modules
        finally:
            process.kill()


def get(port: int, path: str) -> bytes:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=5) as answer:
        return answer.read()


def status(port: int) -> dict:
    return json.loads(get(port, "/status"))


@pytest.fixture
def state(pki, refusing):
    return pki.state(servers=[f"127.0.0.1:{refusing}"])


def test_an_agent_whose_server_is_away_stays_small_and_stays(tmp_path, state):
    with agent(tmp_path, state) as (process, port, modules):
        said = ""
        while "Connection refused" not in said:
            said += process.stderr.readline()
        # Not by its health page: HTTP would be loaded.
        process.send_signal(signal.SIGUSR1)
        loaded = eventually(lambda: modules.exists() and modules.read_text().splitlines())
        assert "tunnel_agent.supervisor" in loaded
        assert not [name for name in loaded if name.startswith("source of")]
        assert {name.partition(".")[0] for name in loaded} & FORBIDDEN == set()
        assert UNUSED.isdisjoint(loaded)
        memory = Path(f"/proc/{process.pid}/smaps_rollup").read_text().split()
        pss = int(memory[memory.index("Pss:") + 1]) / 1024
        assert pss < 40, f"{pss:.1f} MiB"
        assert status(port)["linked"] is False
        with pytest.raises(urllib.error.HTTPError, match="503"):
            get(port, "/readyz")
        assert get(port, "/healthz") == b"ok\n"
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        said += process.communicate(timeout=10)[1]
        assert process.returncode == 0
    assert said.count("Connection refused") == 1
    assert "Traceback" not in said


def test_a_taken_health_port_stops_nothing(tmp_path, state):
    with socket.create_server(("127.0.0.1", 0)) as taken, agent(tmp_path, state) as (process, port, _modules):
        config = tmp_path / "agent.toml"
        assert str(port) in config.read_text()
        process.kill()
        config.write_text(f'health-port = {taken.getsockname()[1]}\nproxy = "none"\n')
        command = [sys.executable, "-m", "tunnel_agent", "--config", config, "--state-dir", state]
        with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as second:
            lines = [second.stderr.readline() for _ in range(3)]
            second.send_signal(signal.SIGTERM)
            second.communicate(timeout=10)
            assert second.returncode == 0
    assert any("no health checks are served" in line for line in lines)
    assert any("Connection refused" in line for line in lines)


def test_takes_the_file_descriptors_there_are(tmp_path, state):
    with agent(tmp_path, state) as (process, port, _modules):
        eventually(lambda: status(port))
        limits = Path(f"/proc/{process.pid}/limits").read_text()
        (line,) = [line for line in limits.splitlines() if line.startswith("Max open files")]
        soft, hard = line.split()[3:5]
        assert soft == hard


def test_sighup_ends_nothing_and_has_the_file_taken_again_whole_or_not_at_all(tmp_path, state):
    config = tmp_path / "agent.toml"
    with agent(tmp_path, state) as (process, port, _modules):
        eventually(lambda: status(port))

        def said_after(text: str, end: str) -> list[str]:
            # Written in one go elsewhere: the watcher shall find it whole, should it look just now.
            (fresh := config.with_suffix(".new")).write_text(f'health-port = {port}\nproxy = "none"\n{text}')
            fresh.rename(config)
            process.send_signal(signal.SIGHUP)
            lines = []
            while not lines or end not in lines[-1]:
                lines.append(process.stderr.readline())
                assert lines[-1], lines
            return [line for line in lines if "onfiguration" in line]

        assert len(said_after('allow = ["node:80"]\nalow = 1\n', "agent.toml:4: alow: unknown key")) == 1
        (allow, streams) = said_after('allow = ["node:80"]\nmax-streams = 5\n', "restart")
        assert 'configuration: allow: ["loopback:*", "node:*"] -> ["node:80"]' in allow
        assert "max-streams: 2048 -> 5 needs a restart; until then it stays 2048" in streams
        (level, *_rest) = said_after('log-level = "debug"\nlog-format = "json"\n', "log-format")
        assert '["node:80"] -> ["loopback:*", "node:*"]' in json.loads(level)["message"]
        assert get(port, "/healthz") == b"ok\n"
        process.send_signal(signal.SIGTERM)
        process.communicate(timeout=10)
        assert process.returncode == 0
