"""Descriptors over a Unix socket: all of them, or none."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest
import trio

from tunnel_daemon.descriptor_passing import receive_with_descriptors, send_with_descriptors


def _open() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


async def _pass(message: dict[str, object], descriptors: list[int]) -> tuple[dict[str, object], list[int]]:
    ours, theirs = socket.socketpair()
    with theirs:
        async with (
            trio.SocketStream(trio.socket.from_stdlib_socket(ours)) as stream,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(send_with_descriptors, stream, message, descriptors)
            theirs.setblocking(True)
            return await trio.to_thread.run_sync(receive_with_descriptors, theirs)


@pytest.mark.parametrize("number", [0, 1, 200, 201, 450])
async def test_as_many_as_there_are_come_in_order(number: int, tmp_path: Path) -> None:
    sent = []
    for index in range(number):
        (tmp_path / str(index)).write_text(str(index))
        sent.append(os.open(tmp_path / str(index), os.O_RDONLY))
    message = {"text": "x" * 300_000}
    got, received = await _pass(message, sent)
    assert got == message
    assert [os.read(descriptor, 10) for descriptor in received] == [b"%d" % n for n in range(number)]
    assert not any(os.get_inheritable(descriptor) for descriptor in received)
    for descriptor in (*sent, *received):
        os.close(descriptor)


@pytest.mark.parametrize(
    ("data", "error"),
    [
        (b"", EOFError),
        (b"\0\0\0\2\0\0\0\0{", EOFError),
        (b"\0\0\0\2\0\0\0\0[]", ValueError),
        (b"\0\0\0\2\0\0\0\0xx", ValueError),
        (b"\xff\0\0\2\0\0\0\0", ValueError),
        (b"\0\0\0\2\0\0\0\1{}.", EOFError),  # a byte without its descriptor
    ],
)
def test_what_is_no_message(data: bytes, error: type[Exception]) -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        with ours:
            ours.sendall(data)
        with pytest.raises(error):
            receive_with_descriptors(theirs)


def test_none_is_left_open_where_not_all_come() -> None:
    ours, theirs = socket.socketpair()
    with theirs:
        before = _open()
        with ours:
            ours.sendall(b"\0\0\0\2\0\0\0\5{}")
            socket.send_fds(ours, [b"."], [0, 1, 2])
        with pytest.raises(EOFError):
            receive_with_descriptors(theirs)
        assert _open() == before - 1  # ours
