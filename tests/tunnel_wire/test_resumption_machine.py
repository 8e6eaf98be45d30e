"""Streams over links that are cut anywhere, and replaced; compared with plain pipes."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.tunnel_wire.memory import Face, consume
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.connection import ConnectionFailed
from tunnel_wire.events import (
    Answered,
    DataReceived,
    DrainReceived,
    EndReceived,
    Event,
    HelloReceived,
    RoomGained,
    StreamRequested,
    StreamReset,
)
from tunnel_wire.flow import Budget
from tunnel_wire.frames import ErrorCode
from tunnel_wire.hello import RESUME, Hello
from tunnel_wire.limits import WireLimits
from tunnel_wire.opener import OpenerConnection
from tunnel_wire.session import EndCause, Session, State

if TYPE_CHECKING:
    from tunnel_wire.session import Stream

LIMITS = WireLimits(
    max_streams=12,
    initial_window=2000,
    max_window=15_000,
    kept_floor=1500,
    max_kept=11_000,
    max_queued=4000,
    connection_window=65_535,
    max_frame=16_384,
)
_FLOOR = LIMITS.initial_window + LIMITS.kept_floor
_GRACE = 90
_ID = "0123456789abcdef" * 2
"""Random ones would be of different lengths on the wire: a failure could not be shown again."""
_PATTERN = bytes(range(251)) * 100
_LOST = {EndCause.PEER_RESET, EndCause.EXPIRED, EndCause.LINK_LOST, EndCause.RECLAIMED}
_OPEN = (State.OPEN, State.SUSPENDED, State.ASKED)
ENDS = ("near", "far")


def _content(seed: int, offset: int, size: int) -> bytes:
    """What stands at `offset` of a direction's bytes: any loss, repetition or swap shows."""
    start = (seed * 17 + offset) % 251
    return _PATTERN[start : start + size]


@dataclass(eq=False)
class Wire:
    """A link: two connections, and the bytes on their way from each."""

    index: int
    near: OpenerConnection
    far: AnswererConnection
    hello: Hello
    from_near: bytearray = field(default_factory=bytearray)
    from_far: bytearray = field(default_factory=bytearray)
    lives: dict[str, bool] = field(default_factory=lambda: {"near": True, "far": True})
    greeted: bool = False

    def sent_by(self, end: str) -> bytearray:
        return self.from_near if end == "near" else self.from_far

    def end(self, end: str) -> OpenerConnection | AnswererConnection:
        return self.near if end == "near" else self.far


@dataclass
class Pipe:
    """The model of one direction."""

    seed: int
    written: int = 0
    read: int = 0
    ended: bool = False


@dataclass
class Side:
    stream: Stream
    face: Face
    out: Pipe


@dataclass(eq=False)
class Tunnelled:
    """A stream as the model knows it."""

    sides: dict[str, Side] = field(default_factory=dict)
    may_reset: bool = False
    refused: bool = False


class Resumption(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.now = 1000.0
        self.instance = _ID
        self.sessions = {
            "near": Session(budget=Budget(60 * _FLOOR + 90_000), limits=LIMITS, identifier=_ID),
            "far": Session(
                budget=Budget(60 * _FLOOR + 90_000), limits=LIMITS, identifier=_ID, first_key=1 << 63
            ),
        }
        self.sessions["near"].suspended.grace = _GRACE
        self.links: list[Wire] = []
        self.dialled = 0
        self.tunnelled: list[Tunnelled] = []
        self.requests: list[Stream] = []
        self.dial()
        self._settle()
        self.connect()

    # --- links ------------------------------------------------------------------------------------

    @rule()
    def dial(self) -> None:
        """The agent makes a link; it knows of others that they are dead, or does not."""
        if sum(link.lives["far"] for link in self.links) >= 3:
            return
        living = {link.index for link in self.links if link.lives["far"]}
        server = Hello("1", instance=self.instance, capabilities=frozenset({RESUME}), grace=_GRACE)
        agent = Hello(
            "1",
            session=self.sessions["far"].identifier,
            node="edge-1",
            link=self.dialled,
            capabilities=frozenset({RESUME}),
            links=frozenset(living | {self.dialled}),
        )
        wire = Wire(
            self.dialled,
            OpenerConnection(server, now=self.now, limits=LIMITS),
            AnswererConnection(self.sessions["far"], agent, now=self.now),
            agent,
        )
        self.dialled += 1
        self.links.append(wire)

    def _greeted(self, wire: Wire, hello: Hello | None) -> None:
        """What the server does with a link of the same session."""
        assert hello is not None
        assert hello.links is not None
        assert wire.near.resumes
        session = self.sessions["near"]
        wire.near.session = session
        wire.greeted = True
        for old in self.links:
            if old is not wire and old.greeted and old.lives["near"] and old.index not in hello.links:
                self._lose(old, "near")
        wire.near.resume(list(session.suspended), self.now, self._living())

    def _living(self) -> list[int]:
        return [link.index for link in self.links if link.greeted and link.lives["near"]]

    @rule(number=st.integers(0, 3), end=st.sampled_from(ENDS))
    def cut(self, number: int, end: str) -> None:
        """One end finds its link dead. What it had sent may still arrive."""
        living = [link for link in self.links if link.lives[end]]
        if living:
            self._lose(living[number % len(living)], end)

    @rule(number=st.integers(0, 3), lost=st.sampled_from(["near", "far", "both"]))
    def blackhole(self, number: int, lost: str) -> None:
        """What is on its way gets lost, and nothing more comes."""
        if self.links:
            wire = self.links[number % len(self.links)]
            for end in ENDS:
                self._lose(wire, end)
                if lost in (end, "both"):
                    wire.sent_by(end).clear()

    @rule(number=st.integers(0, 3))
    def move(self, number: int) -> None:
        """The server moves what one living link carries to another."""
        usable = [link for link in self.links if link.greeted and link.lives["near"]]
        if len(usable) >= 2:
            wire = usable[number % len(usable)]
            others = [one.near for one in usable if one is not wire]
            streams = [one for one in self.sessions["near"].streams.values() if one.connection in others]
            wire.near.resume(streams, self.now, self._living())

    def _lose(self, wire: Wire, end: str) -> None:
        if not wire.lives[end]:
            return
        wire.lives[end] = False
        # What was queued was not sent.
        for stream in self.sessions[end].lose_link(wire.end(end), self.now):
            if stream.face is not None:
                stream.face.on_reset()
        if end == "near" and wire.greeted:
            # Others of the session take over at once.
            for other in self.links:
                if other.greeted and other.lives["near"] and self.sessions["near"].suspended:
                    other.near.resume(list(self.sessions["near"].suspended), self.now, self._living())
                    break

    # --- the network ------------------------------------------------------------------------------

    def _flush(self, wire: Wire, end: str, size: int = 1 << 20) -> int:
        if not wire.lives[end]:
            return 0
        connection, out = wire.end(end), wire.sent_by(end)
        before = len(out)
        while True:
            pieces = connection.take(size)
            if not pieces and connection.ask_for_receipt(self.now):
                pieces = connection.take(0)
            if not pieces:
                return len(out) - before
            out += b"".join(pieces)

    def _deliver(self, wire: Wire, end: str, size: int) -> int:
        """Give what `end` has sent to the other."""
        other = "far" if end == "near" else "near"
        sent = wire.sent_by(end)
        data = bytes(sent[:size])
        del sent[:size]
        if wire.lives[other] and data:
            try:
                for event in wire.end(other).receive(memoryview(data), self.now):
                    self._dispatch(wire, other, event)
            except ConnectionFailed as failed:
                raise AssertionError(f"{other}: {failed}") from failed
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
                face_of = event.stream.face
                if face_of is None:
                    return
                match event:
                    case DataReceived():
                        face_of.on_data(event.data)
                    case EndReceived():
                        face_of.on_end()
                    case StreamReset():
                        face_of.on_reset()
                    case Answered():
                        face_of.on_answer()
                    case RoomGained():
                        face_of.on_room()

    def _wire(self, number: int) -> Wire | None:
        return self.links[-1 - number % len(self.links)] if self.links else None

    @rule(number=st.integers(0, 3), end=st.sampled_from(ENDS), size=st.sampled_from([1, 700, 20_000]))
    def flush(self, number: int, end: str, size: int) -> None:
        if wire := self._wire(number):
            self._flush(wire, end, size)

    @rule(
        number=st.integers(0, 3),
        end=st.sampled_from(ENDS),
        size=st.sampled_from([1, 8, 9, 10, 57, 333, 5000, 1 << 20]),
    )
    def deliver(self, number: int, end: str, size: int) -> None:
        if wire := self._wire(number):
            self._deliver(wire, end, size)

    @rule(rounds=st.integers(1, 4))
    def run_on(self, rounds: int) -> None:
        for _ in range(rounds):
            self._move_all()

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

    @rule(seconds=st.sampled_from([0.0, 0.003, 0.01, 0.4, 1.1, 3.0]))
    def pass_time(self, seconds: float) -> None:
        self._pass_time(seconds)

    def _pass_time(self, seconds: float) -> None:
        self.now += seconds
        for wire in self.links:
            for end in ENDS:
                if wire.lives[end]:
                    try:
                        wire.end(end).tick(self.now)
                    except ConnectionFailed as failed:
                        assert failed.code == ErrorCode.NO_ERROR  # noqa: PT017 - silence
                        self._lose(wire, end)

    # --- what users do ----------------------------------------------------------------------------

    @rule()
    def open(self) -> None:
        usable = [link for link in self.links if link.greeted and link.lives["near"]]
        if not usable:
            return
        try:
            stream = usable[-1].near.open_stream(self.sessions["near"], "target", 80)
        except OpenFailed as exc:
            assert exc.cause is Cause.NO_ROOM  # noqa: PT017
            return
        self.tunnelled.append(Tunnelled({"near": Side(stream, Face(stream), Pipe(2 * stream.key))}))

    @rule()
    def connect(self) -> None:
        """Open a stream all the way, if that is possible now."""
        before = len(self.tunnelled)
        self.open()
        if len(self.tunnelled) > before:
            for _ in range(3):
                self._move_all()
            self.answer(0, True)

    def _pick(self, index: int, end: str) -> tuple[Tunnelled, Side] | None:
        usable = [one for one in self.tunnelled if end in one.sides]
        if not usable:
            return None
        model = usable[-1 - index % len(usable)]
        return model, model.sides[end]

    @rule(index=st.integers(0, 11), willing=st.sampled_from([True, True, True, False]))
    def answer(self, index: int, willing: bool) -> None:
        if (picked := self._pick(index, "far")) and picked[1].stream.state is State.OPENING:
            model, side = picked
            answerer = self._any_answerer()
            if willing:
                answerer.accept(side.stream)
            else:
                model.refused = True
                answerer.refuse(side.stream, Cause.REFUSED, "nobody listens")

    def _any_answerer(self) -> AnswererConnection:
        """One that has long gone: who dials holds it."""
        hello = Hello("1", session=self.sessions["far"].identifier, node="edge-1")
        return AnswererConnection(self.sessions["far"], hello, now=self.now)

    @rule(
        end=st.sampled_from(ENDS), index=st.integers(0, 11), size=st.integers(1, 6000), segment=st.booleans()
    )
    def write(self, end: str, index: int, size: int, segment: bool) -> None:
        if not (picked := self._pick(index, end)):
            return
        side = picked[1]
        size = min(size, side.stream.room())
        if not size:
            return
        data = _content(side.out.seed, side.out.written, size)
        if segment:
            buffer = side.stream.session.pool.take()
            buffer[:size] = data
            side.stream.write(memoryview(buffer)[:size], buffer)
        else:
            side.stream.write(data)
        side.out.written += size

    @rule(
        end=st.sampled_from(ENDS),
        index=st.integers(0, 11),
        rounds=st.integers(1, 12),
        appetite=st.sampled_from([100, 1000, 1 << 20]),
    )
    def stream_on(self, end: str, index: int, rounds: int, appetite: int) -> None:
        """Bulk, that lets windows grow."""
        other = "far" if end == "near" else "near"
        for _ in range(rounds):
            self.write(end, index, 6000, segment=True)
            for wire in self.links:
                for one in ENDS:
                    self._flush(wire, one, 3000)
                    self._deliver(wire, one, 4000)
            self.read(other, index, appetite)
            self.now += 0.006

    @rule(end=st.sampled_from(ENDS), index=st.integers(0, 11), size=st.integers(1, 5000))
    def read(self, end: str, index: int, size: int) -> None:
        if picked := self._pick(index, end):
            self._read(*picked, end, size)

    def _read(self, model: Tunnelled, side: Side, end: str, size: int) -> int:
        data = consume(side.stream, size, self.now)
        if data:
            pipe = model.sides["far" if end == "near" else "near"].out
            assert data == _content(pipe.seed, pipe.read, len(data))
            pipe.read += len(data)
        return len(data)

    @rule(end=st.sampled_from(ENDS), index=st.integers(0, 11))
    def end(self, end: str, index: int) -> None:
        if (picked := self._pick(index, end)) and picked[1].stream.state in _OPEN:
            side = picked[1]
            if side.stream.pending_reset is None:
                side.out.ended = True
            side.stream.write_end()

    @rule(end=st.sampled_from(ENDS), index=st.integers(0, 11), behind=st.booleans())
    def reset(self, end: str, index: int, behind: bool) -> None:
        if picked := self._pick(index, end):
            model, side = picked
            if end == "far" and side.stream.state is State.OPENING:
                return
            model.may_reset = True
            if behind:
                side.stream.reset_behind_data(ErrorCode.CONNECT_ERROR, self.now)
            else:
                side.stream.reset(ErrorCode.CANCEL)

    @rule(end=st.sampled_from(ENDS), index=st.integers(0, 11))
    def abandon(self, end: str, index: int) -> None:
        if picked := self._pick(index, end):
            model, side = picked
            if side.stream.state is State.CLOSED or (end == "far" and side.stream.state is State.OPENING):
                return
            model.may_reset = True
            if side.stream.pending_reset is None and side.stream.state is not State.OPENING:
                side.out.ended = True
            side.stream.abandon(self.now)

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def ledgers_are_in_order(self) -> None:
        for model in self.tunnelled:
            for side in model.sides.values():
                out, into = side.stream.outgoing, side.stream.incoming
                assert 0 <= out.acknowledged <= out.sent <= out.written
                if side.stream.state is State.CLOSED:
                    continue
                assert out.written - out.acknowledged <= out.allowance <= LIMITS.max_kept
                assert out.written == side.out.written
                assert out.end in (None, out.written)
                assert 0 <= into.consumed <= into.received <= into.granted
                assert into.granted - into.consumed <= into.window <= LIMITS.max_window
                assert sum(map(len, into.queue)) == into.received - into.consumed
            if len(model.sides) == 2:
                near, far = (model.sides[end].stream for end in ENDS)
                for one, other in ((near, far), (far, near)):
                    if State.CLOSED not in (one.state, other.state):
                        assert one.outgoing.acknowledged <= other.incoming.received <= one.outgoing.written
                        assert one.outgoing.sent <= other.incoming.granted

    @invariant()
    def memory_is_accounted_for(self) -> None:
        for session in self.sessions.values():
            held = sum(
                _FLOOR
                + stream.incoming.window
                - LIMITS.initial_window
                + stream.outgoing.allowance
                - LIMITS.kept_floor
                for stream in session.streams.values()
            )
            assert session.budget.used == held <= session.budget.total
            assert set(session.suspended) == set(session.budget.reclaimable)
            for stream in session.suspended:
                assert (stream.connection is None) is (stream.state is not State.ASKED)

    @invariant()
    def users_are_told_the_truth(self) -> None:
        for model in self.tunnelled:
            for end, side in model.sides.items():
                told = side.face.told
                assert len(told) == len(set(told)), told
                if "reset" in told:
                    assert model.may_reset, side.stream.end_cause
                    assert side.stream.end_cause in _LOST
                if "end" in told:
                    pipe = model.sides["far" if end == "near" else "near"].out
                    assert pipe.ended
                    assert len(side.face.arrived) == pipe.written == side.stream.incoming.end
                if side.stream.end_cause is EndCause.REFUSED and not model.refused:
                    assert side.stream.refusal is not None
                    assert side.stream.refusal.cause is Cause.NO_ROOM or model.may_reset
                    model.refused = True
                if side.stream.end_cause is EndCause.FINISHED:
                    assert side.out.ended
                    assert "end" in told or side.stream.abandoned
                assert side.stream.end_cause is not EndCause.PROTOCOL

    def teardown(self) -> None:
        """Links come back; everything that was written arrives, or the stream is reset; nothing is left."""
        for wire in self.links:
            for end in ENDS:
                self._lose(wire, end)
        self.links.clear()
        self.dial()
        self._read_until_quiet()
        for model in self.tunnelled:
            if "far" in model.sides and model.sides["far"].stream.state is State.OPENING:
                self.links[0].far.accept(model.sides["far"].stream)
        self._read_until_quiet()
        self.users_are_told_the_truth()
        for model in self.tunnelled:
            if not model.may_reset and not model.refused:
                assert set(model.sides) == set(ENDS)
                for end, side in model.sides.items():
                    assert side.out.read == side.out.written, end
        for model in self.tunnelled:
            for side in model.sides.values():
                if side.stream.state is State.OPEN and side.stream.pending_reset is None:
                    side.out.ended = True
                    side.stream.write_end()
        self._read_until_quiet()
        self.users_are_told_the_truth()
        for model in self.tunnelled:
            for side in model.sides.values():
                assert side.stream.state is State.CLOSED
                if not model.may_reset and not model.refused:
                    assert side.stream.end_cause is EndCause.FINISHED
        for session in self.sessions.values():
            assert not session.streams
            assert not session.suspended
            assert session.budget.used == 0
        (wire,) = self.links
        for end in ENDS:
            connection = wire.end(end)
            assert not connection._streams
            assert not connection._h2.streams
            assert not connection._life.sent
            assert not connection._left

    def _read_until_quiet(self) -> None:
        for _ in range(300):
            self._settle()
            read = 0
            for model in self.tunnelled:
                for end, side in list(model.sides.items()):
                    read += self._read(model, side, end, 1 << 20)
            self._pass_time(0.4)
            self.ledgers_are_in_order()
            if not read and not self._move_all():
                return
        raise AssertionError("it never ends")


Resumption.TestCase.settings = settings(
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestResumption = Resumption.TestCase
