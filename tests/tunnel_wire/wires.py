"""Links between two processes, as bytes on their way: made, cut, lost and replaced, without any network.

What a server's registry does with a link, and either end's `Link` at its own end, is done here in short.
`test_resumption_machine.py` decides what happens when.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from tests.tunnel_wire.memory import Face, tell
from tests.tunnel_wire.pipes import ENDS, FLOOR, LIMITS, Pipe, Pipes, Side, Tunnelled, other
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.connection import ConnectionFailed
from tunnel_wire.events import DrainReceived, Event, HelloReceived, StreamRequested
from tunnel_wire.flow import Budget
from tunnel_wire.frames import ErrorCode
from tunnel_wire.hello import OPTIMISTIC, RESUME, Hello
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.session import Session
from tunnel_wire.stream_state import EndCause

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_wire.session import Stream

GRACE = 90
_BUDGET = 14 * FLOOR + 30_000
"""Bytes of each end: all streams fit in, and half of their windows do."""


def _id(number: int) -> str:
    """Random ones would be of different lengths on the wire: a failure could not be shown again."""
    return f"{number:x}0123456789abcdef0123456789abcdef"[:32]


class Reclaimable(dict[object, "Callable[[], None]"]):
    """What a budget can have back. Nobody is asked for it while there is room for what is needed."""

    def __init__(self, budget: Budget) -> None:
        super().__init__()
        self.budget = budget
        self.needed = FLOOR
        """Bytes: a new stream's."""
        self.reclaimed: list[object] = []

    def __setitem__(self, holder: object, reclaim: Callable[[], None]) -> None:
        def reclaim_if_short() -> None:
            assert self.budget.used + self.needed > self.budget.total
            self.reclaimed.append(holder)
            reclaim()

        super().__setitem__(holder, reclaim_if_short)


@dataclass(eq=False)
class Wire:
    """A link: two connections, and the bytes on their way from each."""

    index: int
    near: OpenerConnection
    far: AnswererConnection
    from_near: bytearray = field(default_factory=bytearray)
    from_far: bytearray = field(default_factory=bytearray)
    lives: dict[str, bool] = field(default_factory=lambda: {"near": True, "far": True})
    greeted: bool = False
    ended: bool = False
    """The server has ended the link, and has yet to see to its streams."""

    def sent_by(self, end: str) -> bytearray:
        return self.from_near if end == "near" else self.from_far

    def end(self, end: str) -> OpenerConnection | AnswererConnection:
        return self.near if end == "near" else self.far

    def works(self, end: str) -> bool:
        return self.lives[end] and not (self.ended and end == "near")


class Wires(Pipes):
    """A session of an agent's and a server's process, and the links that carry its streams."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.processes = {"near": 1, "far": 1}
        """How many there were."""
        self.sessions: dict[str, Session] = {}
        self.former: list[tuple[str, Session]] = []
        """Of processes that were replaced: nothing may be left of them, but what goes on at a server."""
        self.waiting: dict[Stream, float] = {}
        """Since when streams have waited for a link, or for its answer."""
        self.links: list[Wire] = []
        self._begin_session("far")
        self._begin_session("near")

    def _time(self) -> float:
        return self.now

    def _sessions(self) -> list[Session]:
        return [*self.sessions.values(), *(session for _, session in self.former)]

    def _model(self, stream: Stream) -> Tunnelled:
        (model,) = [
            one for one in self.tunnelled if any(side.stream is stream for side in one.sides.values())
        ]
        return model

    def _begin_session(self, end: str) -> None:
        """A process's, as it starts; a server's as it first hears of the agent's."""
        if end in self.sessions:
            self.former.append((end, self.sessions[end]))
        first = 1 << 63 if end == "far" else 1 + (len(self.former) << 32)
        name = _id(self.processes["far"])
        budget = Budget(_BUDGET)
        budget.reclaimable = Reclaimable(budget)
        made = Session(budget=budget, limits=LIMITS, identifier=name, first_key=first)
        if end == "near":
            made.suspended.grace = GRACE
        self.sessions[end] = made

    # --- links ------------------------------------------------------------------------------------

    def _dial(self, optimistic: tuple[str, ...] = ENDS) -> None:
        """The agent makes a link, unless it has three; it knows of others that they are dead, or does not.
        The `optimistic` ends announce that data may come before the answer.
        """
        living = {link.index for link in self.links if link.lives["far"]}
        if len(living) >= 3:
            return
        index = next(each for each in range(4) if each not in living)
        near_says, far_says = (
            frozenset({RESUME, OPTIMISTIC} if end in optimistic else {RESUME}) for end in ENDS
        )
        server = Hello("1", instance=_id(self.processes["near"]), capabilities=near_says, grace=GRACE)
        agent = Hello(
            "1",
            session=self.sessions["far"].identifier,
            node="edge-1",
            link=index,
            capabilities=far_says,
            links=frozenset(living | {index}),
        )
        near = OpenerConnection(server, now=self.now, limits=LIMITS)
        self.links.append(Wire(index, near, AnswererConnection(self.sessions["far"], agent, now=self.now)))

    def _greeted(self, wire: Wire, hello: Hello | None) -> None:
        """What the server's registry does with a link."""
        assert hello is not None
        assert hello.links is not None
        assert wire.near.resumes
        wire.greeted = True
        if self.sessions["near"].identifier != hello.session:
            for old in self._registered(self.sessions["near"]):
                self._lose(old, "near", for_good=True)
            self._excuse(self.sessions["near"])
            self._give_up("near")
        session = wire.near.session = self.sessions["near"]
        for old in self._registered(session):
            if old is not wire and (old.index == wire.index or old.index not in hello.links):
                self._lose(old, "near")
        self._resume(wire)

    def _registered(self, session: Session) -> list[Wire]:
        return [link for link in self.links if link.lives["near"] and link.near.session is session]

    def _usable(self) -> list[Wire]:
        """For new streams, in the registry's eyes."""
        registered = self._registered(self.sessions["near"])
        return [link for link in registered if link.works("near") and not link.near.draining]

    def _give_up(self, end: str) -> None:
        """A process has gone, or the other one knows so: its session is over."""
        session = self.sessions[end]
        session.end_suspended(EndCause.SERVER_ANEW)
        self._begin_session(end)

    def _excuse(self, session: Session) -> None:
        """A process has gone: streams of its session may be reset from now on."""
        for model in self.tunnelled:
            if any(side.stream.session is session for side in model.sides.values()):
                model.may_reset = True

    def _resume(self, wire: Wire) -> None:
        """As `AgentSession.resume`: all that no living link carries, what a dying one does included."""
        session = wire.near.session
        assert session is not None
        alive = [link for link in self._registered(session) if link.works("near")]
        carried = [link.near for link in alive]
        streams = [stream for stream in session.streams.values() if stream.connection not in carried]
        wire.near.resume(streams, self.now, self._living(session))

    def _living(self, session: Session) -> list[int]:
        return [link.index for link in self._registered(session) if link.works("near")]

    def _lose(self, wire: Wire, end: str, *, for_good: bool = False) -> None:
        if not wire.lives[end]:
            return
        wire.lives[end] = False
        session = wire.end(end).session
        if session is None:
            return
        # What was queued was not sent.
        for stream in session.lose_link(wire.end(end), self.now, for_good=for_good):
            if stream.face is not None:
                stream.face.on_reset()
        self._note_waiting()
        if end == "near" and session.suspended:
            # Others of the session take over at once.
            others = [link for link in self._usable() if link.near.session is session]
            if others:
                self._resume(others[-1])

    def _say_goodbye(self, wire: Wire, end: str) -> None:
        """As `Link` does at an end for good, once what it had encrypted is out."""
        wire.end(end).reset_all(ErrorCode.CANCEL)
        wire.sent_by(end).extend(b"".join(wire.end(end).take(0)))

    # --- the network, and time ---------------------------------------------------------------------

    def _flush(self, wire: Wire, end: str, size: int = 1 << 20) -> int:
        if not wire.works(end):
            return 0
        connection, out = wire.end(end), wire.sent_by(end)
        before = len(out)
        while True:
            pieces = connection.take_or_ask(size, lambda: self.now)
            if not pieces:
                return len(out) - before
            out += b"".join(pieces)

    def _deliver(self, wire: Wire, end: str, size: int) -> int:
        """Give what `end` has sent to the other."""
        sent, to = wire.sent_by(end), other(end)
        data = bytes(sent[:size])
        del sent[:size]
        if wire.works(to) and data:
            try:
                for event in wire.end(to).receive(memoryview(data), self.now):
                    self._dispatch(wire, to, event)
            except ConnectionFailed as failed:
                raise AssertionError(f"{to}: {failed}") from failed
            self._note_waiting()
        return len(data)

    def _dispatch(self, wire: Wire, end: str, event: Event) -> None:
        match event:
            case StreamRequested():
                face = Face(event.stream)
                for model in self.tunnelled:
                    if model.sides["near"].stream.key == event.stream.key:
                        assert "far" not in model.sides, "dialled twice"
                        model.sides["far"] = Side(event.stream, face, Pipe(2 * event.stream.key + 1))
            case HelloReceived():
                if end == "near":
                    self._greeted(wire, event.hello)
            case DrainReceived():
                pass
            case _:
                tell(event)

    def _move_all(self) -> int:
        moved = 0
        for wire in self.links:
            for end in ENDS:
                moved += self._flush(wire, end)
            for end in ENDS:
                moved += self._deliver(wire, end, 1 << 20)
        self.links = [
            wire for wire in self.links if any(wire.lives.values()) or wire.from_near or wire.from_far
        ]
        return moved

    def _settle(self) -> None:
        while self._move_all():
            pass

    def _pass_time(self, seconds: float) -> None:
        self.now += seconds
        for wire in self.links:
            if wire.ended:
                self._lose(wire, "near")
            for end in ENDS:
                if wire.works(end):
                    try:
                        wire.end(end).tick(self.now)
                    except ConnectionFailed as failed:
                        assert failed.code == ErrorCode.NO_ERROR  # noqa: PT017 - silence
                        self._lose(wire, end)
        for session in self._sessions():
            session.expire(self.now)

    def _note_waiting(self) -> None:
        for session in self._sessions():
            for stream in session.streams.values():
                if stream in session.suspended:
                    self.waiting.setdefault(stream, self.now)
                else:
                    self.waiting.pop(stream, None)
