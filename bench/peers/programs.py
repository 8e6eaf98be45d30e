"""The processes of a running peer: started with a log each, seen to carry a byte, ended for certain."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Generator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import MappingProxyType
from typing import Literal, Self

from bench.accounting import descendants
from bench.family import family_ends
from bench.peers.peer import PeerFailed, Stage, free_port

Role = Literal["server", "agent", "entrance"]  # an entrance is the suite's own, and nobody's cost
StartAgent = Callable[[int, tuple[str, int]], object]
"""Launches an agent: its number, 1 for the first, and the entrance that is to lead to it."""
START_S = 40.0  # that a program has to carry its first byte, also on a machine that has much to do
END_S = 3.0  # that it has to end when asked, before it is killed


class Programs:
    """What `start` of a peer returns.

    It is used so::

        programs = Programs(stage, entrance=("127.0.0.1", stage.free_port()))
        with programs.starting():
            programs.launch("server", ["stunnel", str(config)])
            programs.launch("agent", [...])
            programs.wait_until_it_carries()
        return programs
    """

    def __init__(self, stage: Stage, entrance: tuple[str, int]) -> None:
        self.entrance = entrance
        # Set by a peer whose server end takes several agents; it has started the first with it.
        self.start_agent: StartAgent | None = None
        self._agents = 1
        self._scratch = stage.scratch
        self._running: list[tuple[Role, subprocess.Popen[bytes], Path]] = []

    @property
    def processes(self) -> Mapping[str, Sequence[int]]:
        """The process ids of each end, children included, as they are now."""
        roots: dict[Role, list[int]] = {"server": [], "agent": [], "entrance": []}
        for role, process, _ in self._running:
            roots[role].append(process.pid)
        return {role: descendants(roots[role]) for role in ("server", "agent")}

    def launch(
        self, role: Role, argv: Sequence[str | Path], env: Mapping[str, str] = MappingProxyType({})
    ) -> subprocess.Popen[bytes]:
        """Start one program of that end, in the foreground; `env` is added to ours. Raises PeerFailed."""
        log = self._scratch / f"{role}-{len(self._running)}-{Path(argv[0]).name}.log"
        with log.open("wb") as output:
            try:
                process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=self._scratch,
                    env={**os.environ, **env},
                    start_new_session=True,  # Ctrl-C is for the suite, which ends them
                )
            except OSError as error:
                raise PeerFailed(f"{argv[0]}: {error.strerror}") from None
        self._running.append((role, process, log))
        return process

    def wait_until_it_listens(self, address: tuple[str, int], seconds: float = START_S) -> None:
        """Return once somebody accepts at `address`. Not for an entrance whose first caller counts."""

        def accepts() -> bool:
            with socket.create_connection(address, timeout=1):
                return True

        self._retry(accepts, f"nobody accepts at {address[0]}:{address[1]}", seconds)

    def wait_until_it_has_written(self, name: str, seconds: float = START_S) -> None:
        """Return once that file is in the scratch folder, which a program started here makes."""
        self._retry((self._scratch / name).exists, f"no {name}", seconds)

    def wait_until_it_has_said(self, text: str, seconds: float = START_S) -> None:
        """Return once that is among the last lines of a program started here."""
        self._retry(lambda: text in self.last_lines(), f"no {text!r} was said", seconds)

    def wait_until_it_carries(
        self, seconds: float = START_S, *, entrance: tuple[str, int] | None = None
    ) -> None:
        """Return once the target answered through the entrance; raises PeerFailed with the last lines."""
        self._retry(lambda: carries(entrance or self.entrance), "no byte came through", seconds)

    @property
    def takes_further_agents(self) -> bool:
        """Whether `further_agents` can be asked for."""
        return self.start_agent is not None

    @contextmanager
    def further_agents(self, count: int) -> Generator[Sequence[tuple[str, int]], None, None]:
        """So many more agents, each of which has carried a byte: their entrances. They end with the block.

        Raises PeerFailed, also where the server end, as configured, has one agent only.
        """
        if self.start_agent is None:
            raise PeerFailed("its server end, as configured, has one agent only")
        already = len(self._running)
        entrances = []
        try:
            for _ in range(count):  # not at once: sshd, for one, turns away whom it can't attend to
                self._agents += 1
                entrances.append((self.entrance[0], free_port()))
                self.start_agent(self._agents, entrances[-1])
                self.wait_until_it_carries(entrance=entrances[-1])
            yield entrances
        finally:
            self._end(*(process for _, process, _ in self._running[already:]))
            del self._running[already:]

    @contextmanager
    def starting(self) -> Generator[None, None, None]:
        """Around the start: whatever fails in it ends what was started, and is raised."""
        try:
            yield
        except BaseException:
            self.__exit__()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        """End every process, politely first; children that left their group or lost their parent too."""
        self._end(*(process for _, process, _ in self._running))

    def end(self, role: Role) -> None:
        """End the processes of one end, so that it can be started again."""
        self._end(*(process for each, process, _ in self._running if each == role))
        self._running = [entry for entry in self._running if entry[0] != role]

    def _end(self, *processes: subprocess.Popen[bytes]) -> None:
        with family_ends(*(process.pid for process in processes)):
            for process in processes:
                process.terminate()
            deadline = time.monotonic() + END_S
            for process in processes:
                try:
                    process.wait(max(0.0, deadline - time.monotonic()))
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()

    def last_lines(self, count: int = 15) -> str:
        """The end of what each program wrote."""
        tails = []
        for role, process, log in self._running:
            state = "runs" if process.poll() is None else f"ended with status {process.returncode}"
            lines = log.read_text(errors="replace").splitlines()[-count:]
            tails.append("\n".join([f"{role}, {log.name}, {state}:", *lines]))
        return "\n".join(tails)

    def _retry(self, attempt: Callable[[], bool], failure: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while True:
            try:
                if attempt():
                    return
            except OSError:
                pass
            if any(process.poll() not in {None, 0} for _, process, _ in self._running):
                raise PeerFailed(f"a program ended early\n{self.last_lines()}")
            if time.monotonic() > deadline:
                raise PeerFailed(f"{failure} within {seconds:g} s\n{self.last_lines()}")
            time.sleep(0.05)


def carries(entrance: tuple[str, int], seconds: float = 2.0) -> bool:
    """Whether the target echoes a byte through this entrance."""
    with socket.create_connection(entrance, timeout=seconds) as caller:
        caller.sendall(b"e?")
        return caller.recv(1) == b"?"
