"""A way to a server that can be long, silent, or cut."""

from __future__ import annotations

import socket
import struct
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio


@dataclass
class Path:
    """A port on loopback that leads to another one."""

    endpoint: str = ""
    delay: float = 0.0
    """Seconds, each way; of what is sent. TCP's handshake with this port takes no time."""
    silent: bool = False
    """Whoever connects now hears nothing."""
    connections: int = 0
    _open: list[trio.SocketStream] = field(default_factory=list)

    def cut(self) -> None:
        """Reset what goes through it."""
        for stream in self._open:
            if stream.socket.fileno() >= 0:
                stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
                stream.socket.close()
        self._open.clear()

    async def _serve(self, near: trio.SocketStream, port: int) -> None:
        self.connections += 1
        self._open.append(near)
        try:
            if self.silent:
                await trio.sleep_forever()
            far = await trio.open_tcp_stream("127.0.0.1", port)
            self._open.append(far)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._carry, near, far)
                nursery.start_soon(self._carry, far, near)
        except OSError:
            await trio.aclose_forcefully(near)

    async def _carry(self, source: trio.SocketStream, target: trio.SocketStream) -> None:
        send, receive = trio.open_memory_channel[tuple[float, bytes]](10_000)

        async def deliver() -> None:
            async for due, data in receive:
                await trio.sleep_until(due)
                await target.send_all(data)
            await target.aclose()

        try:
            async with trio.open_nursery() as nursery, send:
                nursery.start_soon(deliver)
                while data := await source.receive_some(65536):
                    await send.send((trio.current_time() + self.delay, data))
        except* (trio.BrokenResourceError, trio.ClosedResourceError):
            await trio.aclose_forcefully(target)


@asynccontextmanager
async def path_to(server):
    """A Path to this server; its `endpoint` stands for it."""
    path = Path()
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    port = int(server.endpoint.rpartition(":")[2])
    path.endpoint = f"127.0.0.1:{listener.socket.getsockname()[1]}"
    try:
        async with trio.open_nursery() as nursery:

            async def accept() -> None:
                while True:
                    nursery.start_soon(path._serve, await listener.accept(), port)

            nursery.start_soon(accept)
            yield path
            nursery.cancel_scope.cancel()
    finally:
        for sock in (listener.socket, *(stream.socket for stream in path._open)):
            sock.close()
