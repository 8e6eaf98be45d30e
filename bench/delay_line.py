"""A TUN device that is a long line (`python -m bench.delay_line`), until stdin ends.

What is sent to the far address of the device comes back, late, as if it came from there: source and
destination change places, which leaves every checksum as it is. So both ends stand in one namespace, with a
real TCP between them that feels the delay, and nothing else of the kernel has to know.

Both directions have the rate for themselves. At most a tenth of a second's bytes queue before the line (at
100 ms of round trip that is as much as is on its way); what comes on top is dropped, as by a router.
"""

import argparse
import fcntl
import os
import select
import struct
import sys
import time
from collections import deque
from dataclasses import dataclass, field

_TUNSETIFF, _TUNSETOFFLOAD = 0x400454CA, 0x400454D0  # linux/if_tun.h
_IFF_TUN, _IFF_NO_PI, _IFF_VNET_HDR = 0x0001, 0x1000, 0x4000
_TUN_F_CSUM, _TUN_F_TSO4 = 0x01, 0x02
_VNET_HEADER = 10  # bytes before each packet with _IFF_VNET_HDR, which says how it is to be segmented
_PACKET = 65536 + _VNET_HEADER
_BATCH = 64  # packets read before those that are due are looked at
_FIRST_DIALLED_PORT = 32768  # listeners of the suite are below, whoever dials is above


@dataclass
class Line:
    """One direction: packets on their way, and when the line is free for the next."""

    delay: float
    rate: int
    queue_s: float = 0.1
    free_at: float = 0.0
    packets: deque[tuple[float, bytes]] = field(default_factory=deque)

    def put(self, packet: bytes, now: float) -> bool:
        """Take a packet, if the queue has room."""
        start = max(now, self.free_at)
        if start - now > self.queue_s:
            return False
        self.free_at = start + (len(packet) * 8 / self.rate if self.rate else 0.0)
        self.packets.append((self.free_at + self.delay, packet))
        return True

    def take(self, now: float) -> bytes | None:
        """A packet that has arrived."""
        if self.packets and self.packets[0][0] <= now:
            return self.packets.popleft()[1]
        return None

    def due(self) -> float:
        """When the next one arrives."""
        return self.packets[0][0] if self.packets else float("inf")


def open_device(name: str, *, offload: bool) -> int:
    """Make a TUN device; its file descriptor, non-blocking. Raises OSError."""
    device = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK)
    flags = _IFF_TUN | _IFF_NO_PI | (_IFF_VNET_HDR if offload else 0)
    fcntl.ioctl(device, _TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    if offload:
        fcntl.ioctl(device, _TUNSETOFFLOAD, _TUN_F_CSUM | _TUN_F_TSO4)
    return device


def turned(packet: bytes, start: int) -> bytes:
    """The IPv4 packet behind `start` bytes with source and destination exchanged."""
    at = start + 12
    return packet[:at] + packet[at + 4 : at + 8] + packet[at : at + 4] + packet[at + 8 :]


def goes_up(packet: bytes, start: int) -> bool:
    """Whether an IPv4 TCP packet goes towards whoever listens."""
    at = start + (packet[start] & 15) * 4 + 2
    return int.from_bytes(packet[at : at + 2], "big") < _FIRST_DIALLED_PORT


def run(device: int, lines: tuple[Line, Line], start: int) -> None:
    """Carry packets until stdin ends."""
    while True:
        due = min(line.due() for line in lines)
        timeout = None if due == float("inf") else max(0.0, due - time.monotonic())
        readable, _, _ = select.select([device, sys.stdin], [], [], timeout)
        if sys.stdin in readable:
            return
        if device in readable:
            _read(device, lines, start)
        now = time.monotonic()
        for line in lines:
            while (packet := line.take(now)) is not None:
                os.write(device, packet)


def _read(device: int, lines: tuple[Line, Line], start: int) -> None:
    now = time.monotonic()
    for _ in range(_BATCH):
        try:
            packet = os.read(device, _PACKET)
        except BlockingIOError:
            return
        if packet[start] >> 4 == 4:  # the kernel greets with a few packets of IPv6
            lines[goes_up(packet, start)].put(turned(packet, start), now)


def main() -> None:
    """Make the device, say so, and carry."""
    parser = argparse.ArgumentParser()
    parser.add_argument("device")
    parser.add_argument("--delay", type=float, required=True, help="seconds, one way")
    parser.add_argument("--rate", type=int, required=True, help="bits a second, each way; 0: as it comes")
    parser.add_argument("--offload", action="store_true", help="take segments of up to 64 KiB")
    asked = parser.parse_args()
    device = open_device(asked.device, offload=asked.offload)
    print("ready", flush=True)
    lines = (Line(asked.delay, asked.rate), Line(asked.delay, asked.rate))
    run(device, lines, _VNET_HEADER if asked.offload else 0)


if __name__ == "__main__":
    main()
