"""Two ends exchange streams over wires that deliver as they like, and are compared with plain pipes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import h2.settings
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, precondition, rule

from tests.tunnel_wire.handmade import Sent, raw, split_frames
from tests.tunnel_wire.memory import Face, Pair
from tests.tunnel_wire.pipes import ENDS, FLOOR, LIMITS, Pipe, Pipes, Side, Tunnelled, other
from tunnel_wire import frames
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.hello import OPTIMISTIC, DrainReason
from tunnel_wire.rates import Allowance
from tunnel_wire.stream_state import EndCause, State

if TYPE_CHECKING:
    from tests.tunnel_wire.memory import End
    from tunnel_wire.session import Session, Stream


@dataclass(frozen=True)
class Habits:
    """How an implementation frames what it sends; our own does as these say by themselves."""

    credit: str = "as sent"
    splits: bool = False
    """Two DATA frames instead of one."""
    folds: bool = False
    """END_STREAM stands on the last DATA, where that has not gone yet."""
    idles: bool = False
    """DATA frames without anything in between."""
    padding: int | None = None
    """Bytes of padding on each DATA frame, beside their count; None for frames that are not padded."""


_HABITS = st.builds(
    Habits,
    credit=st.sampled_from(["as sent", "split", "merged"]),
    splits=st.booleans(),
    folds=st.booleans(),
    idles=st.booleans(),
    padding=st.sampled_from([None, 0, 1, 255]),
)


def _fold_ends(sent: list[Sent]) -> list[Sent]:
    """The same frames, with the ends that stand alone moved onto the stream's DATA before."""
    kept: list[Sent] = []
    last: dict[int, Sent] = {}
    for frame in sent:
        if frame.kind == frames.DATA:
            if not frame.payload and frame.stream_id in last:
                last[frame.stream_id].flags |= frame.flags
                continue
            last[frame.stream_id] = frame
        kept.append(frame)
    return kept


class TwoEnds(Pipes):
    def __init__(self) -> None:
        super().__init__()
        self.habits = Habits()
        self._greet(frozenset())

    def _greet(self, capabilities: frozenset[str]) -> None:
        """Begin with a link on which both ends have said hello, and one stream."""
        self.tunnelled.clear()
        self.pair = Pair(LIMITS, budget=9 * FLOOR + 90_000, capabilities=capabilities)
        self.pair.rewrite = self._rewrite
        self.ends = {"near": self.pair.near, "far": self.pair.far}
        self.extra = Allowance(LIMITS.control_rate / 4, LIMITS.control_burst / 4, self.pair.now)
        """Frames that nothing asks for: each end bears more of them, and of the credit that they cause."""
        self.pair.settle()
        self.connect()

    def _time(self) -> float:
        return self.pair.now

    def _sessions(self) -> list[Session]:
        return [end.session for end in self.ends.values()]

    # --- what the network does --------------------------------------------------------------------

    def _rewrite(self, end: End, data: bytes) -> bytes:
        """Frame what `end` sends as another implementation might have."""
        if self.habits == Habits():
            return data
        sent = split_frames(data)
        if self.habits.folds:
            sent = _fold_ends(sent)
        out: list[Sent] = []
        merged: dict[int, int] = {}
        for frame in sent:
            if frame.kind == frames.WINDOW_UPDATE and self.habits.credit == "merged":
                merged[frame.stream_id] = merged.get(frame.stream_id, 0) + frame.increment
            elif frame.kind == frames.WINDOW_UPDATE and self.habits.credit == "split" and frame.increment > 1:
                out += [
                    Sent(frame.kind, 0, frame.stream_id, part.to_bytes(4, "big"))
                    for part in (1, frame.increment - 1)
                ]
            elif frame.kind == frames.DATA:
                out += self._reframe(end, frame)
            else:
                out.append(frame)
        credit = b"".join(frames.window_update(*one) for one in merged.items())
        return credit + b"".join(raw(one.kind, one.flags, one.stream_id, one.payload) for one in out)

    def _reframe(self, end: End, frame: Sent) -> list[Sent]:
        """DATA frames that say the same as this one."""
        payload = frame.payload
        pieces = [payload]
        if self.habits.splits and len(payload) > 1:
            middle = len(payload) // 3 + 1
            pieces = [payload[:middle], payload[middle:]]
        if self.habits.idles and self.extra.spend(self.pair.now):
            pieces.insert(-1, b"")
        framed = [self._pad(end, frame.stream_id, piece) for piece in pieces]
        framed[-1].flags |= frame.flags
        return framed

    def _pad(self, end: End, stream_id: int, piece: bytes) -> Sent:
        """A DATA frame, with padding (RFC 9113, 6.1) if `end` has the credit to send it, as it has then."""
        padding, stream = self.habits.padding, self._stream(end, stream_id)
        if padding is None or stream is None or not (stream.state is State.OPEN or stream.optimistic):
            return Sent(frames.DATA, 0, stream_id, piece)
        size = 1 + padding
        sender, out = end.connection._sender, stream.outgoing
        if min(sender.credit, out.limit - out.sent) < size or not self.extra.spend(self.pair.now):
            return Sent(frames.DATA, 0, stream_id, piece)
        sender.credit -= size
        out.limit -= size
        return Sent(frames.DATA, frames.FLAG_PADDED, stream_id, bytes([padding]) + piece + bytes(padding))

    def _stream(self, end: End, stream_id: int) -> Stream | None:
        name = "near" if end is self.pair.near else "far"
        streams = (one.sides[name].stream for one in self.tunnelled if name in one.sides)
        return next((stream for stream in streams if stream.stream_id == stream_id), None)

    @initialize(habits=_HABITS, optimistic=st.booleans())
    def begin_with(self, habits: Habits, optimistic: bool) -> None:
        if optimistic:
            self._greet(frozenset({OPTIMISTIC}))
        self.habits = habits

    @rule(habits=_HABITS)
    def network(self, habits: Habits) -> None:
        self.habits = habits

    @rule(end=st.sampled_from(ENDS), size=st.sampled_from([1, 700, 20_000]))
    def flush(self, end: str, size: int) -> None:
        self.pair.flush(self.ends[end], size)

    @rule(end=st.sampled_from(ENDS), size=st.sampled_from([1, 8, 9, 10, 333, 5000, 1 << 20]))
    def deliver(self, end: str, size: int) -> None:
        self._deliver(self.ends[end], size)

    @rule(end=st.sampled_from(ENDS))
    def deliver_bytewise(self, end: str) -> None:
        for _ in range(60):
            self._deliver(self.ends[end], 1)

    def _deliver(self, end: End, size: int) -> int:
        moved = self.pair.deliver(end, size)
        while self.pair.requests:
            self._requested(self.pair.requests.pop(0))
        return moved

    def _requested(self, stream: Stream) -> None:
        model = next(one for one in self.tunnelled if one.sides["near"].stream.key == stream.key)
        face = stream.face
        assert isinstance(face, Face)
        model.sides["far"] = Side(stream, face, Pipe(2 * stream.key + 1))

    @rule(seconds=st.sampled_from([0.0, 0.003, 0.01, 0.4, 1.1, 3.0]))
    def pass_time(self, seconds: float) -> None:
        if any(self.pair.now + seconds - end.connection.last_received > 11 for end in self.ends.values()):
            self._settle()
        self.pair.pass_time(seconds)

    # --- what users do ----------------------------------------------------------------------------

    @rule()
    def open(self) -> None:
        try:
            stream = self.pair.open()
        except OpenFailed as exc:
            assert exc.cause is Cause.NO_ROOM  # noqa: PT017
            budget = self.pair.near.session.budget
            assert (
                self.pair.opener.draining
                or len(self.pair.near.session.streams) >= LIMITS.max_streams - 1
                or budget.used + FLOOR > budget.total
                or len(self.pair.opener._h2.streams) >= LIMITS.max_streams - 1
            )
            return
        face = stream.face
        assert isinstance(face, Face)
        self.tunnelled.append(Tunnelled({"near": Side(stream, face, Pipe(2 * stream.key))}))

    @rule(size=st.integers(1, 3000), moved=st.booleans(), answered=st.booleans())
    def speak_first(self, size: int, moved: bool, answered: bool) -> None:
        """Open a stream and write to it. The answer is yet to come, or on its way."""
        before = len(self.tunnelled)
        self.open()
        if len(self.tunnelled) > before:
            self.write("near", 0, size, segment=False)
            # What it may send so soon, before SETTINGS on their way come that take some of it back.
            self.ledgers_are_in_order()
            if moved:
                self._settle()
            if answered:
                self.answer(0, True)

    @rule()
    def connect(self) -> None:
        """Open a stream all the way."""
        before = len(self.tunnelled)
        self.open()
        if len(self.tunnelled) > before:
            self._settle()
            if "far" in self.tunnelled[-1].sides:
                self.pair.answerer.accept(self.tunnelled[-1].sides["far"].stream)
                self._settle()

    @rule(
        end=st.sampled_from(ENDS),
        index=st.integers(0, 11),
        rounds=st.integers(1, 25),
        appetite=st.sampled_from([100, 1000, 1 << 20]),
        delay=st.sampled_from([0.0, 0.001, 0.1]),
    )
    def stream_on(self, end: str, index: int, rounds: int, appetite: int, delay: float) -> None:
        """Bulk, with a reader that keeps up or does not."""
        for _ in range(rounds):
            self.write(end, index, 6000, segment=True)
            for one in self.ends.values():
                self.pair.flush(one, 3000)
                self._deliver(one, 4000)
            self.read(other(end), index, appetite)
            self.pair.now += delay
            self.ledgers_are_in_order()

    @rule(end=st.sampled_from(ENDS), index=st.integers(0, 11), size=st.integers(1, 6000))
    def say_last_words(self, end: str, index: int, size: int) -> None:
        """The end is there before the data has gone."""
        self.write(end, index, size, segment=False)
        self.end(end, index)

    @rule(index=st.integers(0, 11), willing=st.sampled_from([True, True, True, False]))
    def answer(self, index: int, willing: bool) -> None:
        if (picked := self._pick(index, "far")) and picked[1].stream.state is State.OPENING:
            model, side = picked
            if willing:
                self.pair.answerer.accept(side.stream)
            else:
                model.refused = True
                self.pair.answerer.refuse(side.stream, Cause.REFUSED, "nobody listens")

    @rule(end=st.sampled_from(ENDS), window=st.sampled_from([0, 1, 700, 2000]))
    def shrink_or_grow(self, end: str, window: int) -> None:
        """A peer changes what streams start with; never beyond what this end has reserved."""
        connection = self.ends[end].connection
        connection._h2.update_settings({h2.settings.SettingCodes.INITIAL_WINDOW_SIZE: window})
        connection._queue(connection._h2.data_to_send())

    @precondition(lambda self: len(self.tunnelled) > 6)
    @rule()
    def drain(self) -> None:
        if not self.pair.opener.draining:
            self.pair.opener.drain(DrainReason.SHUTDOWN, "a test")

    @rule()
    def quiesce(self) -> None:
        self._settle()

    # --- what must hold ---------------------------------------------------------------------------

    def _check_ledger(self, side: Side) -> None:
        super()._check_ledger(side)
        out = side.stream.outgoing
        side.most_granted = max(side.most_granted, out.limit)
        assert out.sent <= side.most_granted
        assert out.queued <= LIMITS.max_queued

    @invariant()
    def h2_holds_nothing_that_is_over(self) -> None:
        near, far = self.pair.opener, self.pair.answerer
        asked = {side.stream.stream_id for one in self.tunnelled if (side := one.sides["near"])}
        assert {number for number in near._h2.streams if number in asked} == set(near._streams)
        assert set(far._streams) <= set(far._h2.streams)

    def _check_reset(self, stream: Stream) -> None:
        assert stream.end_cause is EndCause.PEER_RESET

    def _check_refusal(self, model: Tunnelled, stream: Stream) -> None:
        # The answerer's own limits.
        assert "far" not in model.sides
        assert stream.refusal is not None
        assert stream.refusal.cause is Cause.NO_ROOM

    def _settle(self) -> None:
        while True:
            moved = self.pair.flush(self.pair.near) + self.pair.flush(self.pair.far)
            moved += self._deliver(self.pair.near, 1 << 20) + self._deliver(self.pair.far, 1 << 20)
            if not moved:
                self._credit_is_whole()
                return

    def _credit_is_whole(self) -> None:
        """Nothing is on its way: each end may send what the other takes, on the link and on each stream."""
        for name, end in self.ends.items():
            sender, receiver = end.connection, self.ends[other(name)].connection
            assert sender._sender.credit == receiver._window._left
            # Streams are granted what they start with, whatever SETTINGS have said of it since.
            shift = sender._peer_window - LIMITS.initial_window
            for number, stream in sender._streams.items():
                peer = receiver._streams.get(number)
                if stream.state in (State.OPENING, State.OPEN) and peer is not None:
                    assert stream.outgoing.limit - shift == peer.incoming.granted

    def teardown(self) -> None:
        """Whatever happened, everything that was written arrives, or the stream is reset; then nothing is
        left.
        """
        for end in self.ends:
            self.shrink_or_grow(end, LIMITS.initial_window)
        self._read_until_quiet()
        for model in self.tunnelled:
            for end, side in model.sides.items():
                if side.stream.state is State.OPENING and end == "far":
                    self.pair.answerer.accept(side.stream)
        self._read_until_quiet()
        for model in self.tunnelled:
            if not model.may_reset and not model.refused and "far" in model.sides:
                for end, side in model.sides.items():
                    assert side.out.read == side.out.written, end
        for model in self.tunnelled:
            for side in model.sides.values():
                if side.stream.state is State.OPEN and side.stream.pending_reset is None:
                    side.out.ended = True
                    side.stream.write_end()
        self._read_until_quiet()
        for model in self.tunnelled:
            clean = not model.may_reset and not model.refused and "far" in model.sides
            for side in model.sides.values():
                assert side.stream.state is State.CLOSED
                if clean:
                    assert side.stream.end_cause is EndCause.FINISHED
        for end in self.ends.values():
            assert not end.session.streams
            assert end.session.budget.used == 0
            assert not end.connection._streams
            assert not end.connection._h2.streams
            assert not end.connection._life.sent
            assert not end.connection._life._deadlines
        self.users_are_told_the_truth()

    def _read_until_quiet(self) -> None:
        for _ in range(200):
            self._settle()
            read = self._read_all()
            self.pair.pass_time(0.4)
            self.ledgers_are_in_order()
            if not read and not self.pair.flush(self.pair.near) + self.pair.flush(self.pair.far):
                return
        raise AssertionError("it never ends")


TwoEnds.TestCase.settings = settings(
    max_examples=150,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestTwoEnds = TwoEnds.TestCase
