"""The long line, without a device: when packets arrive, which are dropped, how they are turned."""

import struct
from ipaddress import IPv4Address

from bench.delay_line import Line, goes_up, turned


def packet(source: str, destination: str, source_port: int, port: int) -> bytes:
    header = struct.pack("!BxH16x", 0x45, 24)[:12]
    return (
        header
        + IPv4Address(source).packed
        + IPv4Address(destination).packed
        + struct.pack("!HH", source_port, port)
    )


def test_a_packet_arrives_after_the_delay() -> None:
    line = Line(delay=0.05, rate=0)
    line.put(b"x", now=1.0)
    assert line.due() == 1.05
    assert line.take(1.04) is None
    assert line.take(1.05) == b"x"
    assert line.due() == float("inf")


def test_packets_follow_each_other_at_the_rate() -> None:
    line = Line(delay=0.0, rate=8000)  # a byte a millisecond
    for each in (b"a" * 10, b"b" * 10):
        line.put(each, now=0.0)
    assert line.take(0.0105) == b"a" * 10
    assert line.take(0.0105) is None
    assert line.take(0.0205) == b"b" * 10


def test_the_line_is_free_again_after_a_pause() -> None:
    line = Line(delay=0.0, rate=8000)
    line.put(b"a" * 10, now=0.0)
    line.put(b"b" * 10, now=5.0)
    assert line.take(5.0) == b"a" * 10
    assert line.due() == 5.010


def test_what_the_queue_does_not_hold_is_dropped() -> None:
    line = Line(delay=0.0, rate=8000, queue_s=0.015)
    assert [line.put(bytes([each]) * 10, now=0.0) for each in range(4)] == [True, True, False, False]
    assert line.put(b"x", now=0.010)


def test_what_is_turned_comes_from_where_it_went() -> None:
    there = packet("10.9.0.1", "10.9.0.2", 40000, 10262)
    assert turned(there, 0) == packet("10.9.0.2", "10.9.0.1", 40000, 10262)
    assert turned(bytes(10) + there, 10)[10:] == turned(there, 0)


def test_directions_are_told_apart_by_who_listens() -> None:
    assert goes_up(packet("10.9.0.1", "10.9.0.2", 40000, 10262), 0)
    assert not goes_up(packet("10.9.0.1", "10.9.0.2", 10262, 40000), 0)
