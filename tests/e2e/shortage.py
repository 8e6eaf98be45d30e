"""Taking from a running program what it needs, and looking at what it does without."""

import hashlib
import itertools
import os
import resource
import select
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from http.client import HTTPConnection
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.e2e import services
from tests.e2e.network import dial
from tests.e2e.system import EDGE_1, System
from tunnelctl.demo.topology import Host

_TICKS = os.sysconf("SC_CLK_TCK")


@contextmanager
def descriptors(pid: int, *, free: int = 0, limit: int | None = None) -> Iterator[None]:
    """Inside, the process can open `free` more file descriptors, or none whose number is `limit` or above.

    Those that it has stay open.
    """
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    if limit is None:
        used = _settled(pid)
        unused = (number for number in itertools.count() if number not in used)
        limit = next(itertools.islice(unused, free, None))
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (limit, before[1]))
    try:
        yield
    finally:
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)


def _settled(pid: int) -> set[int]:
    """The descriptors that are open, once nothing is busy with more: a handshake's last step has a pipe."""
    used = _opened(pid)
    for _ in range(20):
        time.sleep(0.05)
        before, used = used, _opened(pid)
        if used == before:
            break
    return used


def _opened(pid: int) -> set[int]:
    listed = list(Path(f"/proc/{pid}/fd").iterdir())
    return {int(each.name) for each in listed if each.is_symlink()}  # not the one that listed them


def said(own: System, name: str, *words: str, since: int = 0) -> list[str]:
    """Lines of a program's log that have all of these words, from character `since` on."""
    return [line for line in own.log(name)[since:].splitlines() if all(word in line for word in words)]


def busy(pid: int, seconds: float) -> float:
    """The share of a CPU that the process takes in the next `seconds`."""
    began, before = time.monotonic(), _cpu(pid)
    time.sleep(seconds)
    return (_cpu(pid) - before) / (time.monotonic() - began)


def _cpu(pid: int) -> float:
    # comm, in parentheses, may have blanks in it (proc_pid_stat(5)).
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _TICKS


def _said(kib: int) -> bytes:
    return next(services.pattern(1))[: kib * 1024]


class Visit:
    """A connection to a service `http` at edge-1's own address, which is kept."""

    def __init__(self, host: Host, *, address: str = EDGE_1, timeout: float = 20) -> None:
        self._connection = HTTPConnection(address, 9081)
        self._socket = self._connection.sock = dial(host, (address, 9081), timeout=timeout)

    def ask(self, *, kib: int = 16) -> None:
        """Begin a request, of `kib` KiB; once the tunnel leads there, it is answered. Raises OSError."""
        self._connection.request("PUT", "/", body=_said(kib))

    def answered(self, *, kib: int = 16) -> None:
        """Have the answer to it. Raises OSError."""
        answer = self._connection.getresponse()
        told = answer.read().decode()
        assert (answer.status, hashlib.sha256(_said(kib)).hexdigest() in told) == (200, True), told

    def works(self, *, kib: int = 16) -> None:
        """Ask, and be answered. Raises OSError."""
        self.ask(kib=kib)
        self.answered(kib=kib)

    def is_reset(self) -> bool:
        """Whether the connection was reset, whatever there is to be read before that."""
        poll = select.poll()
        poll.register(self._socket, 0)
        return any(events & select.POLLERR for _, events in poll.poll(0))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._connection.close()


class Pause(Visit):
    """A download that has begun, and is not read: it waits for `finish`."""

    def __init__(self, host: Host, *, address: str = EDGE_1, mib: int = 8) -> None:
        """Raises OSError if nobody answers."""
        super().__init__(host, address=address)
        self._mib = mib
        try:
            self._connection.request("GET", f"/pattern?mib={mib}")
            self._answer = self._connection.getresponse()
        except BaseException:
            self._connection.close()
            raise

    def finish(self) -> None:
        """Read it to its end, and find every byte. Raises OSError."""
        digest = hashlib.sha256()
        while part := self._answer.read(services.MIB):
            digest.update(part)
        assert digest.hexdigest() == services.pattern_digest(self._mib)


class Disk:
    """A small disk in memory, which directories of a program are on."""

    def __init__(self, root: Path, stack: ExitStack, *, kib: int = 512) -> None:
        """Mount it at `root`, until the stack is left, whoever uses it."""
        self.root = root
        self._stack = stack
        root.mkdir()
        self._mount("-t", "tmpfs", "-o", f"size={kib}k,mode=700", "tmpfs", root)

    def hold(self, path: Path) -> None:
        """Have `path`, where nothing is yet or nothing that matters, be a directory on it."""
        (own := self.root / path.name).mkdir(mode=0o700)
        path.mkdir(exist_ok=True)
        self._mount("--bind", own, path)

    def _mount(self, *words: str | Path) -> None:
        subprocess.run(["mount", *words], check=True)
        self._stack.callback(subprocess.run, ["umount", "--lazy", words[-1]], check=True)

    @contextmanager
    def full(self) -> Iterator[None]:
        """Inside, nothing more can be written."""
        filler = self.root / "filler"
        try:
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            yield
        finally:
            filler.unlink()


def contents(directory: Path) -> dict[str, bytes]:
    """What is in each file of a directory, hidden ones too.

    But for the one by which a write sees whether there is room, which is there for a moment.
    """
    return {each.name: each.read_bytes() for each in directory.iterdir() if each.name != ".room.new"}
