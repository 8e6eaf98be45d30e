"""A control group with little memory, for programs that run already: what they have is not counted in it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

_ROOT = Path("/sys/fs/cgroup")
_UNIFIED = (_ROOT / "cgroup.controllers").exists()
_MEMORY = _ROOT if _UNIFIED else _ROOT / "memory"
_LIMIT, _PEAK, _EVENTS = (
    ("memory.max", "memory.peak", "memory.events")
    if _UNIFIED
    else ("memory.limit_in_bytes", "memory.max_usage_in_bytes", "memory.oom_control")
)


def missing_memory_group() -> str:
    """Why no program's memory can be limited; empty if it can."""
    if not (_MEMORY / "cgroup.procs").exists():
        return "needs the memory controller of control groups in /sys/fs/cgroup"
    if _UNIFIED and "memory" not in (_MEMORY / "cgroup.subtree_control").read_text().split():
        return "needs `memory` in /sys/fs/cgroup/cgroup.subtree_control"
    return ""


class MemoryGroup:
    """One such group."""

    def __init__(self, group: Path) -> None:
        self._group = group

    @property
    def peak(self) -> float:
        """MiB that its programs have held at most, since they are in it."""
        return int((self._group / _PEAK).read_text()) / (1 << 20)

    @property
    def killed(self) -> int:
        """How many of them the kernel has killed for want of memory."""
        lines = (self._group / _EVENTS).read_text().splitlines()
        return next(int(line.split()[1]) for line in lines if line.startswith("oom_kill "))


@contextmanager
def memory_group(name: str, pid: int, mib: int) -> Iterator[MemoryGroup]:
    """Inside, the process can take `mib` MiB more than it has; beyond, the kernel kills it."""
    home = next(
        line.split(":", 2)[2].strip("/")
        for line in Path(f"/proc/{pid}/cgroup").read_text().splitlines()
        if line.split(":")[1] == ("" if _UNIFIED else "memory")
    )
    group = _MEMORY / name
    group.mkdir()
    try:
        (group / _LIMIT).write_text(str(mib << 20))
        (group / "cgroup.procs").write_text(str(pid))
        yield MemoryGroup(group)
    finally:
        if Path(f"/proc/{pid}").exists():
            (_MEMORY / home / "cgroup.procs").write_text(str(pid))
        deadline = time.monotonic() + 10
        while (group / "cgroup.procs").read_text() and time.monotonic() < deadline:
            time.sleep(0.02)
        group.rmdir()
