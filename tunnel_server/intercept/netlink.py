"""Netlink sockets of our own: transactions, requests and notifications, all synchronous.

Requests are answered by the kernel inside `sendmsg`, so a reply is there when the call returns and nothing
here waits for anybody but the kernel. Nobody but the caller holds the socket: while the one a table was made
on stays open the table is ours (`table.py`), and when the process dies the kernel closes it.
"""

from __future__ import annotations

import errno
import os
import secrets
import socket
import struct
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, Self

from tunnel_server.intercept.messages import (
    BATCH_BEGIN,
    BATCH_END,
    NLM_F_ACK,
    NLM_F_DUMP,
    Message,
    batch_edge,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

NETLINK_ROUTE, NETLINK_NETFILTER = 0, 12
SOL_NETLINK = 270
NETLINK_ADD_MEMBERSHIP = 1
SO_SNDBUFFORCE, SO_RCVBUFFORCE = 32, 33
GROUP_NFTABLES = 7
GROUP_LINK = 1
GROUP_IPV4_ROUTE, GROUP_IPV6_ROUTE = 7, 11

HEADER = struct.Struct("=IHHII")  # length, type, flags, sequence, port
NLMSG_ERROR, NLMSG_DONE = 2, 3
_FIRST_PORT = 1 << 23  # above every process id
_PORTS = (1 << 31) - _FIRST_PORT
_BUFFER = 8 << 20  # bytes: one transaction with 16,384 addresses, which are the most, is about 0.5 MiB
_DATAGRAM = 1 << 20  # bytes: the kernel's largest piece of a dump is 32 KiB
_PIPELINE = 64  # requests in one write: their replies must fit the receive buffer together
_NOTIFICATIONS = 256  # datagrams taken at once
_REPLY_TIMEOUT = 5  # seconds


class NetlinkError(OSError):
    """The kernel refused a request; `label` says which."""

    def __init__(self, number: int, label: str) -> None:
        super().__init__(number, os.strerror(number))
        self.label = label

    def __str__(self) -> str:
        return f"{self.label}: {self.strerror}"


class Request(Protocol):
    """What can be asked: a `Message`, or something that packs itself."""

    @property
    def flags(self) -> int:
        """Those of the netlink header."""

    @property
    def label(self) -> str:
        """What it is, for an error."""

    def encode(self, sequence: int) -> bytes:
        """The request as bytes."""


class NetlinkSocket:
    """One netlink socket. Not thread-safe: one user at a time."""

    def __init__(self, protocol: int, groups: Sequence[int] = (), *, descriptor: int | None = None) -> None:
        """Open and bind it, joined to multicast `groups`. Raises OSError.

        A `descriptor` is one that another process has opened so: it is taken instead, and closed with this.
        """
        if descriptor is not None:
            self.socket = socket.socket(fileno=descriptor)
            self.port: int = self.socket.getsockname()[0]
            self._sequence = 0
            self.discard()
            return
        self.socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, protocol)
        try:
            for option in (SO_SNDBUFFORCE, SO_RCVBUFFORCE):
                with suppress(PermissionError):
                    self.socket.setsockopt(socket.SOL_SOCKET, option, _BUFFER)
            # Not settimeout(): with that, Python waits even where MSG_DONTWAIT is given.
            self.socket.setsockopt(
                socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("@ll", _REPLY_TIMEOUT, 0)
            )
            # The kernel would give the process id, which the next process, or one in another container, may
            # have too; a table that names this port must never seem to be somebody else's.
            self.socket.bind((secrets.randbelow(_PORTS) + _FIRST_PORT, 0))
            for group in groups:
                self.socket.setsockopt(SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, group)
        except BaseException:
            self.socket.close()
            raise
        self.port = self.socket.getsockname()[0]
        self._sequence = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.close()

    def close(self) -> None:
        """Close it: the kernel takes away what is owned by it, before this returns."""
        self.socket.close()

    def transact(self, messages: Sequence[Message]) -> None:
        """Do all of it or nothing, as one nftables transaction. Raises NetlinkError for the first refusal."""
        *earlier, last = messages
        acknowledged = replace(last, flags=last.flags | NLM_F_ACK)
        batch = [batch_edge(BATCH_BEGIN), *earlier, acknowledged, batch_edge(BATCH_END)]
        first = self._send(batch)
        done = False
        while True:
            packet = self._receive(batch[0].label, socket.MSG_DONTWAIT)
            if packet is None:
                break
            for kind, sequence, _port, payload in split(packet):
                if kind == NLMSG_ERROR and 0 <= sequence - first < len(batch):
                    number = -struct.unpack_from("=i", payload)[0]
                    if number:
                        self.discard()
                        raise NetlinkError(number, batch[sequence - first].label)
                    done = True
        if not done:
            raise NetlinkError(errno.EIO, "transaction, which the kernel did not acknowledge")

    def request(self, message: Request) -> list[bytes]:
        """Ask for one thing, or for a dump; the replies, whole messages each. Raises NetlinkError."""
        (reply,) = self.request_each([message])
        if isinstance(reply, NetlinkError):
            raise reply
        return reply

    def request_each(self, messages: Sequence[Request]) -> list[list[bytes] | NetlinkError]:
        """Ask for each by itself: its replies, or the refusal, in the same order.

        Every message must be one that the kernel answers: a GET, a dump, or with NLM_F_ACK.
        """
        answers: list[list[bytes] | NetlinkError] = []
        for start in range(0, len(messages), _PIPELINE):
            answers += self._pipeline(messages[start : start + _PIPELINE])
        return answers

    def heard(self) -> list[tuple[int, int, bytes]] | None:
        """Notifications that have come: type, port of who caused it, payload. None: some were lost."""
        result: list[tuple[int, int, bytes]] = []
        try:
            for _ in range(_NOTIFICATIONS):
                packet = self.socket.recv(_DATAGRAM, socket.MSG_DONTWAIT)
                result += [(kind, port, payload) for kind, _sequence, port, payload in split(packet)]
        except BlockingIOError:
            pass
        except OSError as error:
            if error.errno != errno.ENOBUFS:
                raise
            return None
        return result

    def _pipeline(self, messages: Sequence[Request]) -> list[list[bytes] | NetlinkError]:
        first = self._send(messages)
        replies: list[list[bytes]] = [[] for _ in messages]
        answers: dict[int, list[bytes] | NetlinkError] = {}
        while len(answers) < len(messages):
            packet = self._receive(messages[0].label)
            if packet is None:
                raise NetlinkError(errno.ETIMEDOUT, messages[0].label)
            for kind, sequence, _port, payload in split(packet):
                index = sequence - first
                if not 0 <= index < len(messages):
                    continue
                if kind == NLMSG_ERROR and (number := -struct.unpack_from("=i", payload)[0]):
                    answers[index] = NetlinkError(number, messages[index].label)
                elif kind in {NLMSG_ERROR, NLMSG_DONE}:
                    answers[index] = replies[index]
                else:
                    header = HEADER.pack(HEADER.size + len(payload), kind, 0, sequence, 0)
                    replies[index].append(header + payload)
                    if messages[index].flags & NLM_F_DUMP != NLM_F_DUMP:
                        answers[index] = replies[index]
        return [answers[index] for index in range(len(messages))]

    def _send(self, messages: Sequence[Request]) -> int:
        first = self._sequence + 1
        self._sequence += len(messages)
        data = b"".join(message.encode(first + index) for index, message in enumerate(messages))
        try:
            self.socket.sendto(data, (0, 0))
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO, messages[0].label) from error
        return first

    def _receive(self, label: str, flags: int = 0) -> bytes | None:
        """One datagram, or None if there is none (in time)."""
        try:
            return self.socket.recv(_DATAGRAM, flags)
        except BlockingIOError:
            return None
        except OSError as error:
            raise NetlinkError(error.errno or errno.EIO, label) from error

    def discard(self) -> None:
        """Forget what has come."""
        with suppress(OSError):
            while True:
                self.socket.recv(_DATAGRAM, socket.MSG_DONTWAIT)


def split(packet: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """The messages in one datagram: type, sequence, port of the originator, payload."""
    offset = 0
    while offset + HEADER.size <= len(packet):
        length, kind, _flags, sequence, port = HEADER.unpack_from(packet, offset)
        if length < HEADER.size:
            return
        yield kind, sequence, port, packet[offset + HEADER.size : offset + length]
        offset += (length + 3) & ~3
