"""A state machine's streams, each compared with a pair of plain pipes: what users do, and what must hold."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.tunnel_wire.memory import consume
from tunnel_wire.frames import ErrorCode
from tunnel_wire.limits import WireLimits
from tunnel_wire.stream_state import EndCause, State

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tests.tunnel_wire.memory import Face
    from tunnel_wire.session import Session, Stream

LIMITS = WireLimits(
    max_streams=12,
    initial_window=2000,
    max_window=15_000,
    kept_floor=1500,
    max_kept=11_000,
    max_queued=4000,
    connection_window=65_535,
    max_frame=16_384,
    resumed_at_once=3,
)
FLOOR = LIMITS.initial_window + LIMITS.kept_floor
ENDS = ("near", "far")
_PATTERN = bytes(range(251)) * 100
_OPEN = (State.OPEN, State.SUSPENDED, State.ASKED)
_SOME = st.integers(0, 11)


def other(end: str) -> str:
    return "far" if end == "near" else "near"


def content(seed: int, offset: int, size: int) -> bytes:
    """What stands at `offset` of a direction's bytes: any loss, repetition or swap shows."""
    start = (seed * 17 + offset) % 251
    return _PATTERN[start : start + size]


@dataclass
class Pipe:
    """The model of one direction."""

    seed: int
    written: int = 0
    read: int = 0
    ended: bool = False


@dataclass
class Side:
    """One end of a stream, and the pipe that leads away from it."""

    stream: Stream
    face: Face
    out: Pipe
    most_granted: int = 0


@dataclass(eq=False)
class Tunnelled:
    """A stream as the model knows it."""

    sides: dict[str, Side] = field(default_factory=dict)
    may_reset: bool = False
    """Something was done to it that an end may see as a reset."""
    refused: bool = False


class Pipes(RuleBasedStateMachine):
    """The rules and invariants that do not depend on what carries the streams."""

    def __init__(self) -> None:
        super().__init__()
        self.tunnelled: list[Tunnelled] = []

    def _time(self) -> float:
        raise NotImplementedError

    def _sessions(self) -> Iterable[Session]:
        raise NotImplementedError

    def _pick(self, index: int, end: str) -> tuple[Tunnelled, Side] | None:
        usable = [one for one in self.tunnelled if end in one.sides]
        if not usable:
            return None
        model = usable[-1 - index % len(usable)]
        return model, model.sides[end]

    # --- what users do ----------------------------------------------------------------------------

    @rule(end=st.sampled_from(ENDS), index=_SOME, size=st.integers(1, 6000), segment=st.booleans())
    def write(self, end: str, index: int, size: int, segment: bool) -> None:
        if not (picked := self._pick(index, end)):
            return
        side = picked[1]
        size = min(size, side.stream.room())
        if not size:
            return
        data = content(side.out.seed, side.out.written, size)
        if segment:
            buffer = side.stream.session.pool.take()
            buffer[:size] = data
            side.stream.write(memoryview(buffer)[:size], buffer)
        else:
            side.stream.write(data)
        side.out.written += size

    @rule(end=st.sampled_from(ENDS), index=_SOME, size=st.integers(1, 5000))
    def read(self, end: str, index: int, size: int) -> None:
        if picked := self._pick(index, end):
            self._read(*picked, end, size)

    def _read(self, model: Tunnelled, side: Side, end: str, size: int) -> int:
        if side.stream.state is State.OPENING:
            return 0  # What came early waits for the target.
        data = consume(side.stream, size, self._time())
        if data:
            pipe = model.sides[other(end)].out
            assert data == content(pipe.seed, pipe.read, len(data))
            pipe.read += len(data)
        return len(data)

    def _read_all(self) -> int:
        return sum(
            self._read(model, side, end, 1 << 20)
            for model in self.tunnelled
            for end, side in list(model.sides.items())
        )

    @rule(end=st.sampled_from(ENDS), index=_SOME)
    def end(self, end: str, index: int) -> None:
        if (picked := self._pick(index, end)) and picked[1].stream.state in _OPEN:
            side = picked[1]
            if side.stream.pending_reset is None:
                side.out.ended = True
            side.stream.write_end()

    @rule(end=st.sampled_from(ENDS), index=_SOME, behind=st.booleans())
    def reset(self, end: str, index: int, behind: bool) -> None:
        # Of an opening stream this is what its opener does when it gives up, and its answerer never.
        if picked := self._pick(index, end):
            model, side = picked
            if end == "far" and side.stream.state is State.OPENING:
                return
            model.may_reset = True
            if behind:
                side.stream.reset_behind_data(ErrorCode.CONNECT_ERROR, self._time())
            else:
                side.stream.reset(ErrorCode.CANCEL)

    @rule(end=st.sampled_from(ENDS), index=_SOME)
    def abandon(self, end: str, index: int) -> None:
        if picked := self._pick(index, end):
            model, side = picked
            if side.stream.state is State.CLOSED or (end == "far" and side.stream.state is State.OPENING):
                return
            model.may_reset = True
            if side.stream.pending_reset is None and side.stream.state is not State.OPENING:
                side.out.ended = True
            side.stream.abandon(self._time())

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def ledgers_are_in_order(self) -> None:
        for model in self.tunnelled:
            for side in model.sides.values():
                out = side.stream.outgoing
                assert 0 <= out.acknowledged <= out.sent <= out.written
                if side.stream.state is not State.CLOSED:
                    self._check_ledger(side)

    def _check_ledger(self, side: Side) -> None:
        out, into = side.stream.outgoing, side.stream.incoming
        assert out.written - out.acknowledged <= out.allowance <= LIMITS.max_kept
        assert out.written == side.out.written
        assert out.end in (None, out.written)
        assert not out.end_sent or out.sent == out.written
        assert 0 <= into.consumed <= into.received <= into.granted
        assert into.granted - into.consumed <= into.window <= LIMITS.max_window
        assert sum(map(len, into.queue)) == into.received - into.consumed

    @invariant()
    def memory_is_accounted_for(self) -> None:
        for session in self._sessions():
            held = sum(
                FLOOR
                + stream.incoming.window
                - LIMITS.initial_window
                + stream.outgoing.allowance
                - LIMITS.kept_floor
                for stream in session.streams.values()
            )
            assert session.budget.used == held <= session.budget.total

    @invariant()
    def users_are_told_the_truth(self) -> None:
        for model in self.tunnelled:
            for end, side in model.sides.items():
                told = side.face.told
                assert len(told) == len(set(told)), told
                if "reset" in told:
                    assert model.may_reset, side.stream.end_cause
                    self._check_reset(side.stream)
                if "end" in told:
                    pipe = model.sides[other(end)].out
                    assert pipe.ended
                    assert len(side.face.arrived) == pipe.written == side.stream.incoming.end
                if side.stream.end_cause is EndCause.REFUSED and not model.refused:
                    self._check_refusal(model, side.stream)
                    model.refused = True
                if side.stream.end_cause is EndCause.FINISHED:
                    assert side.out.ended
                    assert "end" in told or side.stream.abandoned
                assert side.stream.end_cause is not EndCause.PROTOCOL

    def _check_reset(self, stream: Stream) -> None:
        raise NotImplementedError

    def _check_refusal(self, model: Tunnelled, stream: Stream) -> None:
        """A stream was refused, though nobody had refused it in the model."""
        raise NotImplementedError
