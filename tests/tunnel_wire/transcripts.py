"""What connections say and report while a script plays, line by line: the same in each build, to the byte.

A script is made of the rules of a state machine, as hypothesis would have called them.
"""

from __future__ import annotations

import pickle
import sys
from itertools import count
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

from hypothesis import strategies as st

from tests.tunnel_wire.test_resumption_machine import Resumption
from tests.tunnel_wire.test_state_machine import TwoEnds
from tunnel_wire import hello
from tunnel_wire.build import build
from tunnel_wire.events import DataReceived, DrainReceived, Event, HelloReceived

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.tunnel_wire.memory import End
    from tests.tunnel_wire.pipes import Pipes
    from tests.tunnel_wire.wires import Wire
    from tunnel_wire.connection import Connection
    from tunnel_wire.session import Stream

Step = tuple[str, dict[str, Any]]
"""A rule's name, and its arguments."""


class Told:
    """Notes what there is to compare."""

    def __init__(self) -> None:
        self.lines: list[str] = []
        super().__init__()

    def note(self, event: Event) -> None:
        match event:
            case HelloReceived():
                # Each process has its own order of a set.
                self.lines.append(f"HelloReceived {event.hello and event.hello.to_headers()}")
            case DrainReceived():
                self.lines.append(repr(event))
            case DataReceived():
                self.lines.append(f"DataReceived {event.stream.key:x} {event.data.hex()}")
            case _:
                self.lines.append(f"{type(event).__name__} {_told_of(event.stream)}")


class ToldTwoEnds(Told, TwoEnds):
    """Two ends of one link."""

    noted = 0

    def _rewrite(self, end: End, data: bytes) -> bytes:
        self.lines.append(f"{'near' if end is self.pair.near else 'far'} sends {data.hex()}")
        return super()._rewrite(end, data)

    def _deliver(self, end: End, size: int) -> int:
        to = self.pair.other(end)
        before = len(to.noted)
        moved = super()._deliver(end, size)
        for event in to.noted[before:]:
            self.note(event)
        return moved

    def connections(self) -> Iterator[Connection]:
        yield from (end.connection for end in self.ends.values())


class ToldResumption(Told, Resumption):
    """Links that are cut, lost and replaced."""

    def _flush(self, wire: Wire, end: str, size: int = 1 << 20) -> int:
        moved = super()._flush(wire, end, size)
        if moved:
            self.lines.append(f"{end} sends {wire.sent_by(end)[-moved:].hex()}")
        return moved

    def _dispatch(self, wire: Wire, end: str, event: Event) -> None:
        self.note(event)
        super()._dispatch(wire, end, event)

    def connections(self) -> Iterator[Connection]:
        yield from (wire.end(end) for wire in self.links for end in ("near", "far"))


MACHINES: dict[str, type[ToldTwoEnds | ToldResumption]] = {
    "two ends": ToldTwoEnds,
    "resumption": ToldResumption,
}


def scripts(machine: type[Pipes]) -> st.SearchStrategy[list[Step]]:
    """Of its rules: those that begin, and up to 50 of the others."""

    def step(each: Any) -> st.SearchStrategy[Step]:
        return st.tuples(st.just(each.function.__name__), st.fixed_dictionaries(each.arguments))

    rules = machine.setup_state()
    first = st.tuples(*map(step, rules.initializers)).map(list)
    then = st.lists(st.one_of([step(each) for each in rules.rules]), min_size=10, max_size=50)
    return st.builds(list.__add__, first, then)


def play(name: str, script: list[Step]) -> list[str]:
    """Have the machine go through it, and come to its end."""
    numbers = count(1)
    with patch.object(hello.secrets, "token_hex", lambda _: f"{next(numbers):032x}"):
        machine = MACHINES[name]()
        rules = machine.setup_state()
        by_name = {each.function.__name__: each for each in [*rules.initializers, *rules.rules]}
        try:
            for rule, arguments in script:
                if all(holds(machine) for holds in by_name[rule].preconditions):
                    machine.lines.append(f"-- {rule} {arguments}")
                    getattr(machine, rule)(**arguments)
                    for each in rules.invariants:
                        each.function(machine)
                    machine.lines += _state(machine)
            machine.teardown()
        except Exception as error:  # noqa: BLE001 - whether the machine is content is its own tests' matter
            said = "" if isinstance(error, AssertionError) else str(error)
            machine.lines.append(f"{type(error).__name__} {said}")
        return [*machine.lines, *_state(machine)]


def _state(machine: ToldTwoEnds | ToldResumption) -> Iterator[str]:
    for session in machine._sessions():
        yield f"session {session.identifier} {session.budget.used}"
        yield from map(_told_of, session.streams.values())
    for each in machine.connections():
        yield f"connection {each.deadline():.9f} {each.round_trip} {each.load} {each.draining} {each.resumes}"


def _told_of(stream: Stream) -> str:
    out, into = stream.outgoing, stream.incoming
    return (
        f"{stream.key:x} {stream.host} {stream.port} {stream.stream_id} {stream.epoch} {stream.state.name}"
        f" {stream.end_cause} {stream.refusal} {stream.reset_code} {stream.pending_reset} {stream.scheduled}"
        f" out {out.acknowledged} {out.sent} {out.written} {out.limit} {out.allowance} {out.end}"
        f" in {into.consumed} {into.received} {into.granted} {into.window} {into.end}"
    )


def main() -> None:
    """Say which build this is, and play the scripts that come."""
    said = sys.stdout.buffer
    pickle.dump(build(), said)
    said.flush()
    while True:
        try:
            name, script = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        pickle.dump(play(name, script), said)
        said.flush()


if __name__ == "__main__":
    main()
