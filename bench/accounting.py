"""What processes cost, from /proc: who belongs to whom, CPU seconds, memory."""

import os
from collections import defaultdict
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

TICKS = os.sysconf("SC_CLK_TCK")  # a second, of the times in /proc/PID/stat


def descendants(roots: Iterable[int]) -> list[int]:
    """Those of `roots` that live, and all their children's children, each once."""
    children: dict[int, list[int]] = defaultdict(list)
    alive = set()
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and (fields := _stat(int(entry.name))):
            children[int(fields[1])].append(int(entry.name))
            if fields[0] != "Z":
                alive.add(int(entry.name))
    found: dict[int, None] = {}
    todo = list(roots)
    while todo:
        pid = todo.pop(0)
        if pid not in found:
            found[pid] = None
            todo += children[pid]
    return [pid for pid in found if pid in alive]


def cpu_seconds(pids: Iterable[int]) -> float:
    """User and system time of all their threads, and of the children that they waited for."""
    ticks = 0
    for pid in pids:
        if fields := _stat(pid):
            ticks += sum(int(field) for field in fields[11:15])
    return ticks / TICKS


def memory_kib(pids: Iterable[int]) -> int:
    """Proportional set size in KiB, all together: what two processes share counts half for each."""
    return _sum_kib(pids, "Pss")


def written_kib(pids: Iterable[int]) -> int:
    """The same of what no file backs."""
    return _sum_kib(pids, "Pss_Anon")


def resident_kib(pids: Iterable[int]) -> int:
    """Resident set size in KiB, added up: what they share counts for each."""
    return _sum_kib(pids, "Rss")


def reset_peaks(pids: Iterable[int]) -> None:
    """Let `peak_kib` count from now on."""
    for pid in pids:
        with suppress(OSError):  # it has ended, or is another user's
            Path(f"/proc/{pid}/clear_refs").write_text("5")


def peak_kib(pids: Iterable[int]) -> int:
    """The most that each has been resident since `reset_peaks`, in KiB, added up; the kernel keeps count.

    What they share counts for each, other than in `memory_kib`.
    """
    total = 0
    for pid in pids:
        with suppress(OSError):
            lines = Path(f"/proc/{pid}/status").read_text().splitlines()
            total += next((int(line.split()[1]) for line in lines if line.startswith("VmHWM:")), 0)
    return total


def _sum_kib(pids: Iterable[int], name: str) -> int:
    """The line of that name of each /proc/PID/smaps_rollup."""
    total = 0
    for pid in pids:
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except (OSError, ProcessLookupError):
            continue  # it has ended, or is another user's
        total += next((int(line.split()[1]) for line in lines if line.startswith(f"{name}:")), 0)
    return total


def _stat(pid: int) -> list[str] | None:
    """The fields of /proc/PID/stat from the third on (state, ppid, ...); None once it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text(errors="replace")
    except OSError:
        return None
    return text[text.rindex(")") + 2 :].split()
