"""A TCP relay that is a long path: `python slow_path.py PORT HOST PORT SECONDS`. It knows of no tunnel.

What either side sends is delivered `SECONDS` after it came; ended, so are all connections through it.
"""

import math
import sys
from functools import partial

import trio


async def relay(host: str, port: int, delay: float, near: trio.SocketStream) -> None:
    try:
        async with near, await trio.open_tcp_stream(host, port) as far, trio.open_nursery() as nursery:
            nursery.start_soon(carry, near, far, delay)
            nursery.start_soon(carry, far, near, delay)
    except* (OSError, trio.BrokenResourceError):
        pass  # one side has gone, and so has the other now


async def carry(source: trio.SocketStream, sink: trio.SocketStream, delay: float) -> None:
    send, receive = trio.open_memory_channel[tuple[float, bytes]](math.inf)

    async def deliver() -> None:
        async for due, piece in receive:
            await trio.sleep_until(due)
            await sink.send_all(piece)
        await sink.send_eof()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(deliver)
        with send:
            async for piece in source:
                send.send_nowait((trio.current_time() + delay, bytes(piece)))


if __name__ == "__main__":
    here, target, there, seconds = sys.argv[1:]
    trio.run(partial(trio.serve_tcp, partial(relay, target, int(there), float(seconds)), int(here)))
