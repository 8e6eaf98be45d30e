"""Two ends exchange streams over wires that deliver as they like, and are compared with plain pipes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import h2.settings
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule

from tests.tunnel_wire.handmade import raw, split_frames
from tests.tunnel_wire.memory import Face, Pair
from tests.tunnel_wire.pipes import ENDS, FLOOR, LIMITS, Pipe, Pipes, Side, Tunnelled, other
from tunnel_wire import frames
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.hello import DrainReason
from tunnel_wire.stream_state import EndCause, State

if TYPE_CHECKING:
    from tests.tunnel_wire.memory import End
    from tunnel_wire.session import Session, Stream


class TwoEnds(Pipes):
    def __init__(self) -> None:
        super().__init__()
        self.pair = Pair(LIMITS, budget=9 * FLOOR + 90_000)
        self.pair.rewrite = self._rewrite
        self.ends = {"near": self.pair.near, "far": self.pair.far}
        self.mode = "plain"
        self.pair.settle()
        self.connect()

    def _time(self) -> float:
        return self.pair.now

    def _sessions(self) -> list[Session]:
        return [end.session for end in self.ends.values()]

    # --- what the network does --------------------------------------------------------------------

    def _rewrite(self, data: bytes) -> bytes:
        """Split or merge credit, and split DATA, as another implementation might have sent them."""
        if self.mode == "plain":
            return data
        out: list[bytes] = []
        merged: dict[int, int] = {}
        for frame in split_frames(data):
            if frame.kind == frames.WINDOW_UPDATE and self.mode == "merge":
                merged[frame.stream_id] = merged.get(frame.stream_id, 0) + frame.increment
            elif frame.kind == frames.WINDOW_UPDATE and frame.increment > 1:
                out.append(frames.window_update(frame.stream_id, 1))
                out.append(frames.window_update(frame.stream_id, frame.increment - 1))
            elif frame.kind == frames.DATA and len(frame.payload) > 1 and self.mode == "split":
                middle = len(frame.payload) // 3 + 1
                out += [
                    raw(frames.DATA, 0, frame.stream_id, piece)
                    for piece in (frame.payload[:middle], frame.payload[middle:])
                ]
            else:
                out.append(raw(frame.kind, frame.flags, frame.stream_id, frame.payload))
        return b"".join(frames.window_update(*one) for one in merged.items()) + b"".join(out)

    @rule(mode=st.sampled_from(["plain", "split", "merge"]))
    def network(self, mode: str) -> None:
        self.mode = mode

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
                return

    def teardown(self) -> None:
        """Whatever happened, everything that was written arrives, or the stream is reset; then nothing is
        left.
        """
        for end in self.ends:
            self.shrink_or_grow(end, LIMITS.initial_window)
        self._read_until_quiet()
        for model in self.tunnelled:
            if not model.may_reset and not model.refused and "far" in model.sides:
                for end, side in model.sides.items():
                    assert side.out.read == side.out.written, end
        for model in self.tunnelled:
            for end, side in model.sides.items():
                if side.stream.state is State.OPENING and end == "far":
                    self.pair.answerer.accept(side.stream)
        self._read_until_quiet()
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
    max_examples=60,
    stateful_step_count=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
TestTwoEnds = TwoEnds.TestCase
