"""A program for the tests: intercepts, and greets each captured caller with what it knows of the call.

Takes its settings as JSON in its argument and commands, one JSON line each, on stdin.
"""

import dataclasses
import json
import logging
import os
import signal
import socket
import sys
import threading
from ipaddress import ip_address, ip_network
from typing import Any

import trio
from trio.testing import wait_all_tasks_blocked

from tunnel_server.intercept import table
from tunnel_server.intercept.config import InterceptConfig, InterceptUnavailable
from tunnel_server.intercept.interception import Interception
from tunnel_server.intercept.original_destination import original_destination

LISTENERS = (10263, 10264)


def greet(connection: socket.socket) -> None:
    original = original_destination(connection)
    told = None if original is None else [str(original[0]), original[1]]
    with connection:
        connection.sendall(
            json.dumps({"original": told, "at": connection.getsockname()[:2]}).encode() + b"\n"
        )
        while data := connection.recv(65536):
            connection.sendall(data)


def accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=greet, args=(connection,), daemon=True).start()


def listen(address: str) -> None:
    for port in LISTENERS:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        listener = socket.create_server((address, port), family=family)
        threading.Thread(target=accept, args=(listener,), daemon=True).start()


def say(value: Any) -> None:
    print(
        json.dumps(value, default=lambda x: dataclasses.asdict(x) if dataclasses.is_dataclass(x) else str(x)),
        flush=True,
    )


async def lose(interception: Interception, addresses: list[str]) -> None:
    """Another server takes the table over while a change of it waits for its turn."""

    async def change() -> None:
        try:
            await interception.apply([ip_address(address) for address in addresses], {9081: 10264})
            say("changed")
        except RuntimeError as error:
            say(str(error))

    async with trio.open_nursery() as nursery, interception.lend() as kernel:
        os.dup(kernel.owner)
        nursery.start_soon(change)
        await wait_all_tasks_blocked(0.1)
        kernel.leave()


async def commands(interception: Interception) -> None:
    async with trio.lowlevel.FdStream(os.dup(0)) as stdin:
        rest = b""
        async for data in stdin:
            *lines, rest = (rest + data).split(b"\n")
            for line in lines:
                request = json.loads(line)
                if request["command"] == "apply":
                    addresses = [ip_address(address) for address in request["addresses"]]
                    config = configuration(request["settings"]) if "settings" in request else None
                    started = trio.current_time()
                    try:
                        change = await interception.apply(
                            addresses,
                            {int(port): target for port, target in request["ports"].items()},
                            config,
                        )
                    except (ValueError, InterceptUnavailable) as error:
                        say({"error": str(error)})
                        continue
                    say({**dataclasses.asdict(change), "seconds": trio.current_time() - started})
                elif request["command"] == "lose":
                    await lose(interception, request["addresses"])
                else:
                    say(dataclasses.asdict(interception.statistics()))


def configuration(settings: dict[str, Any]) -> InterceptConfig:
    return InterceptConfig(
        caller_networks=tuple(ip_network(network) for network in settings.get("caller_networks", ())),
        prerouting_address4=ip_address(settings["host4"]) if "host4" in settings else None,
        prerouting_address6=ip_address(settings["host6"]) if "host6" in settings else None,
    )


async def main(settings: dict[str, Any]) -> None:
    if not settings.get("owner", True):
        table.FLAG_OWNER = 0x8000  # unknown to every kernel, as the owner flag is to an old one
    for address in settings.get("listen", ["127.0.0.1", "::1"]):
        listen(address)
    interception = Interception(configuration(settings))
    async with trio.open_nursery() as nursery:
        await nursery.start(interception.run)
        say("ready")
        nursery.start_soon(commands, interception)
        with trio.open_signal_receiver(signal.SIGTERM) as signals:
            async for _ in signals:
                nursery.cancel_scope.cancel()


if __name__ == "__main__":
    logging.basicConfig(level="INFO", stream=sys.stderr)
    try:
        trio.run(main, json.loads(sys.argv[1]))
    except* InterceptUnavailable as errors:
        say({"unavailable": str(errors.exceptions[0])})
