"""What the figures depend on besides the programs: processor, memory, kernel, versions, load, our build."""

import os
import platform
import ssl
from collections.abc import Mapping
from pathlib import Path

from bench.builds import product


def machine() -> dict[str, object]:
    """Facts for the results' head, as JSON has them."""
    return {
        "cpu": _first("/proc/cpuinfo", "model name") or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gib": round(int(_first("/proc/meminfo", "MemTotal").split()[0]) / 2**20, 1),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "openssl": ssl.OPENSSL_VERSION,
        "tcp": Path("/proc/sys/net/ipv4/tcp_congestion_control").read_text().strip(),
        "build": product().name,
        "load_before": os.getloadavg()[0],
    }


def same(one: Mapping[str, object], other: Mapping[str, object]) -> bool:
    """Whether both are one machine, however busy."""
    return {**one, "load_before": 0} == {**other, "load_before": 0}


def _first(path: str, key: str) -> str:
    for line in Path(path).read_text().splitlines():
        name, _, value = line.partition(":")
        if name.strip() == key:
            return value.strip()
    return ""
