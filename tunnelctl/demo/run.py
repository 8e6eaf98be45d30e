"""What `tunnelctl demo` does, from nothing to an edge that answers, and back to nothing."""

import contextlib
import json
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from types import FrameType

from tunnelctl.demo import service, topology
from tunnelctl.demo.places import Edge, Loopback, Namespaces, Place
from tunnelctl.demo.processes import Processes
from tunnelctl.demo.stage import Stage, claim

_BIN = Path(sys.executable).parent
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
_WAIT = 20.0
"""Seconds for a program of ours to be ready, on a slow machine."""


class DemoError(Exception):
    """What did not work, in one line, and whose logs may say why."""

    def __init__(self, what: str, *logs: str) -> None:
        super().__init__(what)
        self.logs = logs


class Demo:
    """One run: its steps in order, each told with the seconds since the start."""

    def __init__(self, stage: Stage, place: Place, processes: Processes) -> None:
        self._stage = stage
        self._place = place
        self._processes = processes
        self._began = time.monotonic()
        self._state = stage.make("state")
        self._admin = stage.directory / "admin.sock"

    def build(self) -> None:
        """Go through all the steps. Raises DemoError at the first that fails."""
        place = self._place
        self._say(place.description)
        for edge in place.edges:
            script = Path(service.__file__)
            self._start(
                edge.name, "service", sys.executable, "-I", script, edge.name, str(edge.port), edge.listen
            )
        for edge in place.edges:
            self._until(partial(self._serves, edge), f"{edge.name}-service")
        self._say("a web service runs on each edge")
        works, said = self._get("cloud", place.edges[0].url)
        if works:
            raise DemoError(
                f"{place.edges[0].url} answers without a tunnel, so this would show nothing: {said}"
            )
        self._say(f"without the tunnel: curl {place.edges[0].url}: {said}")

        self._ctl("init", "--state-dir", self._state, "--cert-ips", place.server_address)
        config = self._stage.directory / "server.toml"
        config.write_text(place.server_config(self._state, self._admin))
        self._start("cloud", "server", _BIN / "tunnel-server", "--config", config)
        self._until(self._admin_answers, "cloud-server")
        self._say("tunnel-server runs in the cloud")
        for edge in place.edges:
            self._join(edge.name, edge.address)
        names = {edge.name for edge in place.edges}
        self._until(
            lambda: self._connected() >= names, "cloud-server", *(f"{name}-agent" for name in sorted(names))
        )
        self._say("both agents have dialled out, and are connected")

        if place.mapping:
            self._ctl("map-port", place.mapping, "--admin-socket", self._admin)
            self._say(f"tunnelctl map-port {place.mapping}")
        for edge in place.edges:
            works, said = self._get("cloud", edge.url)
            if not works or not said.startswith(f"{edge.name} here"):
                raise DemoError(f"{edge.url} does not answer: {said}", "cloud-server", f"{edge.name}-agent")
            self._say(f"with the tunnel: curl {edge.url}: {said}")

    def tell_what_next(self) -> None:
        """Print commands that work in another terminal."""
        ctl, admin = _BIN / "tunnelctl", self._admin
        lines = [
            *self._place.suggestions,
            ("who is connected", f"{ctl} nodes --admin-socket {admin}"),
            ("what goes on", f"{ctl} status --admin-socket {admin}"),
            ("what they say", f"tail -F {self._stage.directory}/logs/*.log"),
        ]
        print("\nTry, in another terminal:")
        for what, command in lines:
            print(f"  # {what}\n  {command}")
        print("\nCtrl-C ends it, and nothing remains.", flush=True)

    def stay(self) -> None:
        """Until a signal; tells of each program that ends meanwhile."""
        told: set[str] = set()
        while True:
            for name, status in self._processes.ended().items():
                if name not in told:
                    self._say(f"{name} has ended (status {status}). Its last words:")
                    print(self._processes.tail(name, 5), flush=True)
                    told.add(name)
            time.sleep(0.5)

    def _join(self, name: str, address: str | None) -> None:
        """Make a token, and paste the line that comes out on the edge, as a person would."""
        where = [] if address is None else ["--ip", address]
        where += ["--server", self._place.server, "--state-dir", str(self._state)]
        program, *words = shlex.split(self._ctl("token", "create", "--node", name, *where))
        state = self._stage.make(name)
        config = self._stage.directory / f"{name}.toml"
        config.write_text(self._place.agent_config)
        joined = self._run(name, [_BIN / program, *words, "--state-dir", state])
        if joined.returncode != 0:
            raise DemoError(f"{name}: {program} join: {_last_line(joined.stderr)}", "cloud-server")
        self._start(name, "agent", _BIN / "tunnel-agent", "run", "--state-dir", state, "--config", config)
        self._say(f"{name} has joined with a token of its own, and its tunnel-agent runs")

    def _start(self, host: str, what: str, *argv: str | Path) -> None:
        self._processes.start(f"{host}-{what}", self._place.at(host, argv))

    def _ctl(self, *words: str | Path) -> str:
        done = self._run("cloud", [_BIN / "tunnelctl", *words])
        if done.returncode != 0:
            what = " ".join(map(str, words[:2]))
            raise DemoError(f"tunnelctl {what}: {_last_line(done.stderr)}", "cloud-server")
        return done.stdout

    def _run(self, host: str, argv: Sequence[str | Path]) -> subprocess.CompletedProcess[str]:
        try:
            return subprocess.run(
                self._place.at(host, argv), capture_output=True, text=True, check=False, timeout=_WAIT
            )
        except subprocess.TimeoutExpired:
            raise DemoError(f"{Path(argv[0]).name} did not end within {_WAIT:g} s", "cloud-server") from None

    def _serves(self, edge: Edge) -> bool:
        return self._get(edge.name, edge.own_url)[0]

    def _get(self, host: str, url: str) -> tuple[bool, str]:
        """Whether GET `url` on `host`, by a program that knows nothing of us, succeeds; what it says."""
        if shutil.which("curl"):
            argv = ["curl", "--silent", "--show-error", "--fail", "--noproxy", "*", "--max-time", "10", url]
        else:
            ask = "import sys, urllib.request as u; u.install_opener(u.build_opener(u.ProxyHandler({})))\n"
            ask += "try: print(u.urlopen(sys.argv[1], timeout=10).read().decode())\n"
            ask += "except OSError as error: sys.exit(str(error))"
            argv = [sys.executable, "-I", "-c", ask, url]
        done = self._run(host, argv)
        return done.returncode == 0, _last_line(done.stdout if done.returncode == 0 else done.stderr)

    def _until(self, condition: Callable[[], bool], *logs: str) -> None:
        """Wait for `condition`, for as long as the programs whose logs these are live. Raises DemoError."""
        deadline = time.monotonic() + _WAIT
        while not condition():
            for name in logs:
                if (status := self._processes.ended().get(name)) is not None:
                    raise DemoError(f"{name} has ended with status {status}", name)
            if time.monotonic() > deadline:
                raise DemoError(f"{logs[0]} was not ready within {_WAIT:g} s", *logs)
            time.sleep(0.02)

    def _admin_answers(self) -> bool:
        with socket.socket(socket.AF_UNIX) as sock:
            try:
                sock.connect(str(self._admin))
            except OSError:
                return False
        return True

    def _connected(self) -> set[str]:
        nodes = json.loads(self._ctl("nodes", "--json", "--admin-socket", self._admin))["nodes"]
        return {node["name"] for node in nodes if node["connected"]}

    def _say(self, what: str) -> None:
        print(f"[{time.monotonic() - self._began:5.1f} s] {what}", flush=True)


def run_demo(*, once: bool, loopback: bool) -> int:
    """Show it, and stay until a signal unless `once`. Return the exit status."""
    with contextlib.ExitStack() as stack:
        shown = False
        try:
            stack.enter_context(_signals_interrupt())
            place = _place(loopback=loopback)
            stage = stack.enter_context(claim())
            stack.enter_context(place.open(stage.prefix))
            processes = stack.enter_context(Processes(stage.make("logs")))
            demo = Demo(stage, place, processes)
            demo.build()
            shown = True
            if not once:
                demo.tell_what_next()
                demo.stay()
            if killed := processes.end_all():
                raise DemoError(
                    f"{', '.join(killed)} did not end when told to, and had to be killed", *killed
                )
        except KeyboardInterrupt:
            print("\nending it", flush=True)
            return 0 if shown else 130
        except DemoError as error:
            print(f"\ndemo: {error}", file=sys.stderr)
            for name in error.logs:
                if tail := processes.tail(name):
                    print(f"--- {name} said last:\n{tail}", file=sys.stderr)
            return 1
        except (topology.TopologyError, OSError) as error:
            print(f"demo: {error}", file=sys.stderr)
            return 1
    print("nothing of it remains")
    return 0


def _place(*, loopback: bool) -> Place:
    if loopback:
        return Loopback()
    try:
        topology.check_prerequisites()
    except topology.NotRootError:
        print("You are not root, so this is on loopback, through a fixed listener. The real thing, an edge")
        print(
            "behind NAT that answers at its own address, needs network namespaces: sudo make run\n",
            flush=True,
        )
        return Loopback()
    return Namespaces()


@contextlib.contextmanager
def _signals_interrupt() -> Iterator[None]:
    """TERM and HUP end us as Ctrl-C does; and a second one does not stop us from cleaning up."""

    def interrupt(signum: int, frame: FrameType | None) -> None:
        for each in _SIGNALS:
            signal.signal(each, signal.SIG_IGN)
        raise KeyboardInterrupt

    before = {each: signal.signal(each, interrupt) for each in _SIGNALS}
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)


def _last_line(text: str) -> str:
    return text.strip().rpartition("\n")[2] or "no word"
