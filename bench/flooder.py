"""An agent that floods: `python -m bench.flooder HOST PORT --state DIR`, until its stdin ends.

It has a certificate of its own, links, says hello, sends more PING frames at once than a server bears, and
does the same again as soon as its link is closed, or soon after it is refused. At its end it prints a line of
JSON: how many links were closed, and the median of the seconds from a flood's first byte to the end of its
link.
"""

import argparse
import json
import socket
import ssl
import statistics
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from bench.light_agents import node_contexts
from tunnel_wire import frames
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.events import HelloReceived
from tunnel_wire.flow import Budget
from tunnel_wire.hello import Hello
from tunnel_wire.limits import DEFAULT_LIMITS
from tunnel_wire.session import Session

NODE = "flooder"
FLOOD = frames.ping(b"flooding") * (DEFAULT_LIMITS.control_burst + 4 * DEFAULT_LIMITS.control_rate)
PATIENCE_S = 20.0
REFUSED_S = 0.05
PIECE = 64 * 1024


def flood(address: tuple[str, int], context: ssl.SSLContext) -> float:
    """One link, and its flood: seconds until it is closed. Raises OSError."""
    with (
        socket.create_connection(address, timeout=PATIENCE_S) as tcp,
        context.wrap_socket(tcp, server_hostname=address[0]) as sock,
    ):
        _say_hello(sock)
        began = time.perf_counter()
        with suppress(ConnectionError):
            sock.sendall(FLOOD)
            while sock.recv(PIECE):
                pass
        return time.perf_counter() - began


def _say_hello(sock: ssl.SSLSocket) -> None:
    session = Session(budget=Budget(1 << 20))
    hello = Hello("bench", session=session.identifier, node=NODE)
    connection = AnswererConnection(session, hello, now=time.monotonic())
    greeted = False
    while not greeted:
        data = sock.recv(PIECE)
        if not data:
            raise ConnectionResetError("the link was refused")
        events = connection.receive(memoryview(data), time.monotonic())
        greeted = any(isinstance(event, HelloReceived) for event in events)
        sock.sendall(b"".join(connection.take(0)))


def main() -> None:
    """Flood, again and again."""
    parser = argparse.ArgumentParser()
    parser.add_argument("host")
    parser.add_argument("port", type=int)
    parser.add_argument("--state", type=Path, required=True, help="the server's state directory")
    asked = parser.parse_args()
    ((_, context),) = node_contexts(asked.state, [NODE])
    until = threading.Thread(target=sys.stdin.read, daemon=True)
    until.start()
    closed = []
    while until.is_alive():
        try:
            closed.append(flood((asked.host, asked.port), context))
        except OSError:
            time.sleep(REFUSED_S)  # it had too many links that flooded
            continue
        if len(closed) == 1:
            print("floods", flush=True)
    print(json.dumps({"links": len(closed), "closed": statistics.median(closed)}), flush=True)


if __name__ == "__main__":
    main()
