"""What the suite asks of a program that it measures, and what it gives it (`Stage`).

The *agent* end is beside the target, the *server* end is beside the caller; the agent end dials the server
end. "Down" is from the target to the caller: from the edge to the cloud.

A program is looked for on PATH, and nowhere else (`python -m bench --path DIRECTORY` puts a folder in front).
"""

import random
import socket
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, Self

LISTENERS = range(10000, 32000)  # below the kernel's range for whoever dials
_given: set[int] = set()  # whoever was given one may not listen on it yet


class PeerFailed(Exception):
    """A program did not start or did not carry a byte; the message ends with the last lines that it wrote."""


@dataclass(frozen=True)
class Absent:
    """The program is not on this machine."""

    reason: str  # and the remedy: "not installed: apt-get install stunnel4"


@dataclass(frozen=True)
class Certificates:
    """Files (PEM) of one authority, made for one stage; private keys are 0600. Keys are P-256."""

    authority: Path
    server: Path  # for localhost, 127.0.0.1 and both WAN addresses; serverAuth
    server_key: Path
    agent: Path  # clientAuth
    agent_key: Path


@dataclass(frozen=True)
class Stage:
    """Where one program runs, once: it is started on it, loaded, and stopped, and then the stage is gone."""

    scratch: Path  # a private folder (0700) for configuration, keys and logs
    certificates: Certificates
    target: tuple[str, int]  # what the agent end dials for each caller; it listens already
    wan_server: tuple[str, int]  # the server end listens for the agent end here
    wan_dial: tuple[str, int]  # the agent end dials this; a shaped path leads to `wan_server`

    def free_port(self) -> int:
        """A port that nobody listens on, for the entrance or whatever else a program needs."""
        return free_port()


def free_port() -> int:
    """A port that nobody listens on, at any address, that the kernel gives to nobody who dials, and we to
    nobody else.
    """
    for _ in range(1000):
        port = random.choice(LISTENERS)
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
        _given.add(port)
        return port
    raise PeerFailed(f"no port from {LISTENERS.start} to {LISTENERS.stop - 1} is free")


class Running(Protocol):
    """A program that carries bytes. Leaving it (a context manager) ends its processes and waits for them."""

    @property
    def entrance(self) -> tuple[str, int]:
        """Whoever connects here talks to the stage's target."""

    @property
    def processes(self) -> Mapping[str, Sequence[int]]:
        """Under "server" and "agent" the process ids of that end, children included, as they are now."""

    @property
    def takes_further_agents(self) -> bool:
        """Whether the server end, as configured, has room for more agents than the first."""

    def further_agents(self, count: int) -> AbstractContextManager[Sequence[tuple[str, int]]]:
        """So many more real agents while the block runs, each linked: what leads to them, as `entrance` does.

        Raises PeerFailed.
        """

    def __enter__(self) -> Self: ...

    def __exit__(self, *exception: object) -> None: ...


class Peer(Protocol):
    """One program in one configuration."""

    @property
    def name(self) -> str:
        """As the tables show it: "ssh -R"."""

    @property
    def encrypted(self) -> bool:
        """Whether what crosses the WAN is encrypted and both ends are authenticated."""

    @property
    def one_line(self) -> str:
        """Its configuration, for the tables' footnotes."""

    def available(self) -> Absent | str:
        """Its version, if it is on this machine. Starts nothing that stays."""

    def start(self, stage: Stage) -> Running:
        """Start both ends and return once a byte went through; PeerFailed is raised with nothing left."""
