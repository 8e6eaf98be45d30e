"""The ways from the agent end to the server end: loopback, and others, each in a namespace of its own."""

import shutil
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

DEVICE = "bench0"
NEAR, FAR = "10.9.0.1", "10.9.0.2"  # of the device; whoever dials FAR meets NEAR's listener behind it


class RouteFailed(Exception):
    """The way could not be laid; one line."""


@dataclass(frozen=True)
class Route:
    """One way. Whoever listens at `server` is reached by dialling `dial`."""

    name: str
    title: str
    server: str = "127.0.0.1"
    dial: str = "127.0.0.1"
    delay: float = 0.0  # seconds, one way
    rate: int = 0  # bits a second, each way; 0: as it comes
    loss: int = 0  # packets in a hundred, each way
    congestion: str = "reno"  # every kernel has it, and the line's jitter does not confuse it
    offload: bool = False  # the device takes segments of up to 64 KiB whole, or packets of 1500 bytes
    buffer: int = 0  # bytes that a socket's buffers may grow to; 0: as the machine has it

    @property
    def shaped(self) -> bool:
        """It goes through a device that delays."""
        return self.dial != self.server

    @property
    def own(self) -> bool:
        """It needs a network namespace, and so root."""
        return self.shaped or self.buffer > 0


LOOPBACK = Route("loopback", "loopback")
# A thousand sockets of which nobody reads would hold gigabytes in the kernel before any program is felt.
SMALL_BUFFERS = Route("small buffers", "loopback, sockets' buffers of 256 KiB", buffer=262144)
LONG = Route("long", "100 ms round trip, 1 Gbit/s", NEAR, FAR, delay=0.050, rate=1_000_000_000, offload=True)
LOSSY = Route("lossy", "20 ms round trip, 1 % loss each way", NEAR, FAR, delay=0.010, loss=1)
LONG_BBR = replace(LONG, name="long-bbr", title="100 ms round trip, 1 Gbit/s, TCP BBR", congestion="bbr")

_IPV4 = Path("/proc/sys/net/ipv4")
# The same for every program, whatever this machine has: 4 MiB, the usual bound for sending, would hold one
# connection to 40 MB/s at 100 ms. With these its window ends at 16 MiB, of which the line and its queue hold
# all: nothing is lost, unless the route says so.
_MEMORY = {"tcp_rmem": "4096 131072 33554432", "tcp_wmem": "4096 65536 33554432"}


def missing(route: Route) -> str | None:
    """Why this way can't be laid on this machine, with the remedy; None if it can."""
    if not route.own:
        return None
    allowed = (_IPV4 / "tcp_allowed_congestion_control").read_text().split()
    if route.shaped and route.congestion not in allowed:
        wanted = " ".join([*allowed, route.congestion])
        return (
            f"TCP {route.congestion} is not allowed: modprobe tcp_{route.congestion}; "
            f'sysctl -w net.ipv4.tcp_allowed_congestion_control="{wanted}"'
        )
    return missing_for_shaping()


def missing_for_shaping() -> str | None:
    """Why no shaped path can be laid on this machine, with the remedy; None if it can."""
    for program, package in (("unshare", "util-linux"), ("ip", "iproute2"), ("nft", "nftables")):
        if shutil.which(program) is None:
            return f"{program} is not installed: apt-get install {package}"
    tried = subprocess.run(["unshare", "--net", "true"], capture_output=True, text=True, check=False)
    if tried.returncode:
        return f"needs root, for a network namespace of its own ({tried.stderr.strip()})"
    if not Path("/dev/net/tun").exists():
        return "there is no /dev/net/tun: modprobe tun"
    return None


@contextmanager
def lay(route: Route) -> Generator[None, None, None]:
    """Lay the way in this process's namespace, which must be one of its own if the route wants one."""
    if route.buffer:
        for name in _MEMORY:
            (_IPV4 / name).write_text(f"4096 {route.buffer} {route.buffer}")
    if not route.shaped:
        yield
        return
    for name, value in {**_MEMORY, "tcp_congestion_control": route.congestion}.items():
        (_IPV4 / name).write_text(value)
    options = ["--delay", str(route.delay), "--rate", str(route.rate)]
    with subprocess.Popen(
        [sys.executable, "-m", "bench.delay_line", DEVICE, *options, *["--offload"] * route.offload],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        start_new_session=True,
    ) as line:
        try:
            assert line.stdout is not None
            if line.stdout.readline() != b"ready\n":
                raise RouteFailed("the delaying device did not start")
            _run(["ip", "address", "add", f"{NEAR}/24", "dev", DEVICE])
            _run(["ip", "link", "set", DEVICE, "mtu", "1500", "txqueuelen", "10000", "up"])
            if route.loss:
                drop = f'iifname "{DEVICE}" numgen random mod 100 < {route.loss} drop'
                chain = "add chain inet bench in { type filter hook input priority 0; }"
                _run(["nft", f"add table inet bench; {chain}; add rule inet bench in {drop}"])
            yield
        finally:
            line.kill()


def own_namespace(argv: list[str]) -> list[str]:
    """The command that runs `argv` in a network namespace of its own, which ends with it."""
    return ["unshare", "--net", "sh", "-c", 'ip link set lo up && exec "$@"', "sh", *argv]


def _run(argv: list[str]) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RouteFailed(f"{' '.join(argv)}: {done.stderr.strip()}")
