"""Streams over links that are cut anywhere, and replaced, between processes that come and go; compared with
plain pipes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import initialize, invariant, rule

from tests.tunnel_wire.memory import Face
from tests.tunnel_wire.pipes import ENDS, FLOOR, LIMITS, Pipe, Side, Tunnelled, other
from tests.tunnel_wire.wires import GRACE, Reclaimable, Wire, Wires
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.hello import DrainReason, Hello
from tunnel_wire.stream_state import LOST, EndCause, State

if TYPE_CHECKING:
    from tunnel_wire.session import Session, Stream

_NUMBER = st.integers(0, 3)
_INDEX = st.integers(0, 11)


class Resumption(Wires):
    def __init__(self) -> None:
        super().__init__()
        self._dial()
        self._settle()
        self.connect()

    @initialize(streams=st.sampled_from([0, 3, 6]))
    def begin(self, streams: int) -> None:
        """More streams than are asked for at once."""
        self.connect(streams)
        self._settle()

    # --- links ------------------------------------------------------------------------------------

    @rule(optimistic=st.sampled_from([ENDS, ENDS, *((end,) for end in ENDS)]))
    def dial(self, optimistic: tuple[str, ...] = ENDS) -> None:
        self._dial(optimistic)

    @rule(number=_NUMBER, end=st.sampled_from(ENDS))
    def cut(self, number: int, end: str) -> None:
        """One end finds its link dead. What it had sent may still arrive."""
        living = [link for link in self.links if link.lives[end]]
        if living:
            self._lose(living[number % len(living)], end)

    @rule(number=_NUMBER)
    def die(self, number: int) -> None:
        """The server ends a link, and is not done with it before something else happens."""
        living = [link for link in self.links if link.works("near")]
        if living:
            living[number % len(living)].ended = True

    @rule(number=_NUMBER, lost=st.sampled_from(["near", "far", "both"]))
    def blackhole(self, number: int, lost: str) -> None:
        """What is on its way gets lost, and nothing more comes."""
        if self.links:
            wire = self.links[number % len(self.links)]
            for end in ENDS:
                self._lose(wire, end)
                if lost in (end, "both"):
                    wire.sent_by(end).clear()

    @rule(number=_NUMBER, end=st.sampled_from(ENDS))
    def end_for_good(self, number: int, end: str) -> None:
        """A link ends with all that it carries, as for a revoked certificate, and says so."""
        living = [link for link in self.links if link.works(end)]
        if not living:
            return
        wire = living[number % len(living)]
        connection = wire.end(end)
        session = connection.session
        for stream in [] if session is None else list(session.streams.values()):
            if stream.connection is connection:
                self._model(stream).may_reset = True
        self._say_goodbye(wire, end)
        self._lose(wire, end, for_good=True)

    @rule(number=_NUMBER)
    def move(self, number: int) -> None:
        """The server moves what its other links carry to one."""
        usable = self._usable()
        if len(usable) >= 2:
            wire = usable[number % len(usable)]
            others = [one.near for one in usable if one is not wire]
            streams = [one for one in self.sessions["near"].streams.values() if one.connection in others]
            wire.near.resume(streams, self.now, self._living(self.sessions["near"]))

    @rule(number=_NUMBER)
    def drain(self, number: int) -> None:
        """The server retires a link, whatever it was doing."""
        if usable := self._usable():
            usable[number % len(usable)].near.drain(DrainReason.EXPIRED, "a test")

    # --- processes --------------------------------------------------------------------------------

    @rule(end=st.sampled_from(ENDS), politely=st.booleans(), chance=st.integers(0, 5))
    def restart(self, end: str, politely: bool, chance: int) -> None:
        """A process ends, or is killed, and another one starts in its place."""
        if chance < 4:
            return
        session = self.sessions[end]
        self._excuse(session)
        for wire in self.links:
            if wire.end(end).session in (session, None):
                if politely and wire.works(end):
                    self._say_goodbye(wire, end)
                self._lose(wire, end, for_good=True)
        for stream in list(session.streams.values()):
            stream.lose(EndCause.SERVER_ANEW)
        self._succeed(end)

    @rule(chance=st.integers(0, 5))
    def replace(self, chance: int) -> None:
        """A server hands over to another one: what is open on its links goes on there until these end."""
        if chance < 5:
            return
        session = self.sessions["near"]
        self._excuse(session)
        session.suspended.grace = 0
        for wire in self._usable():
            wire.near.drain(DrainReason.SHUTDOWN, "a test")
        self._succeed("near")

    def _succeed(self, end: str) -> None:
        self.processes[end] += 1
        self._give_up(end)
        for wire in self.links:
            if not wire.greeted:
                # It was being made by, or to, the process that is no more.
                for each in ENDS:
                    self._lose(wire, each)
                    wire.sent_by(each).clear()

    @rule(end=st.sampled_from(ENDS), streams=st.integers(1, 3))
    def need_memory(self, end: str, streams: int) -> None:
        """Others need it: the longest suspended streams give theirs, and no more of them than must."""
        session = self.sessions[end]
        budget, before = session.budget, list(session.suspended)
        amount = budget.total - budget.used + streams * FLOOR
        assert isinstance(budget.reclaimable, Reclaimable)
        budget.reclaimable.needed = amount
        if amount <= budget.total and budget.reserve_at_cost(amount):
            budget.release(amount)
        budget.reclaimable.needed = FLOOR
        reclaimed = [stream for stream in before if stream.end_cause is EndCause.RECLAIMED]
        assert reclaimed == before[: len(reclaimed)]
        assert len(reclaimed) <= streams

    # --- the network ------------------------------------------------------------------------------

    def _wire(self, number: int) -> Wire | None:
        return self.links[-1 - number % len(self.links)] if self.links else None

    @rule(number=_NUMBER, end=st.sampled_from(ENDS), size=st.sampled_from([1, 700, 20_000]))
    def flush(self, number: int, end: str, size: int) -> None:
        if wire := self._wire(number):
            self._flush(wire, end, size)

    @rule(
        number=_NUMBER,
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

    @rule(seconds=st.sampled_from([0.0, 0.003, 0.01, 0.4, 1.1, 3.0]))
    def pass_time(self, seconds: float) -> None:
        self._pass_time(seconds)

    @rule(seconds=st.sampled_from([9, 16, 45, 80, 91, 125]), delivered=st.booleans())
    def wait(self, seconds: int, delivered: bool) -> None:
        """For long; the network does its work meanwhile, or does not."""
        for _ in range(seconds // 3):
            self._pass_time(3)
            if delivered:
                self._move_all()

    @rule(times=st.integers(1, 3), seconds=st.sampled_from([9, 45, 80]))
    def flap(self, times: int, seconds: int) -> None:
        """Links come, the server asks there for what waits, and they are lost before an answer comes."""
        for _ in range(times):
            for wire in self._ask():
                for end in ENDS:
                    self._lose(wire, end)
            self.wait(seconds, delivered=False)

    @rule()
    def drain_early(self) -> None:
        """A link is retired while the server is still asking there."""
        for wire in self._ask():
            if wire in self._usable():
                wire.near.drain(DrainReason.EXPIRED, "a test")

    def _ask(self) -> list[Wire]:
        """A link if there is place for one, as far as that the server has asked there for what waits."""
        before = len(self.links)
        self.dial()
        for wire in self.links[before:]:
            for end in ENDS:
                self._flush(wire, end)
                self._deliver(wire, end, 1 << 20)
        return self.links[before:]

    # --- what users do ----------------------------------------------------------------------------

    @rule()
    def open(self) -> None:
        usable = self._usable()
        if not usable:
            return
        try:
            stream = usable[-1].near.open_stream(self.sessions["near"], "target", 80)
        except OpenFailed as exc:
            assert exc.cause is Cause.NO_ROOM  # noqa: PT017
            return
        self.tunnelled.append(Tunnelled({"near": Side(stream, Face(stream), Pipe(2 * stream.key))}))

    @rule(size=st.integers(1, 3000), rounds=st.integers(0, 2), answered=st.booleans())
    def speak_first(self, size: int, rounds: int, answered: bool) -> None:
        """Open a stream and write to it. The answer is yet to come, or on its way."""
        before = len(self.tunnelled)
        self.open()
        if len(self.tunnelled) > before:
            self.write("near", 0, size, segment=False)
            for _ in range(rounds):
                self._move_all()
            if answered:
                self.answer(0, True)

    @rule(
        size=st.integers(1, 3000),
        arrived=st.sampled_from([0, 20, 250, 1 << 20]),
        answered=st.booleans(),
        lost=st.sampled_from(["near", "far", "both"]),
    )
    def lose_what_speaks_first(self, size: int, arrived: int, answered: bool, lost: str) -> None:
        """The link of a stream that is opening goes, and another one comes at once."""
        if usable := self._usable():
            wire = usable[-1]
            self.speak_first(size, 0, False)
            self._flush(wire, "near")
            self._deliver(wire, "near", arrived)
            if answered:
                self.answer(0, True)
            self.blackhole(self.links.index(wire), lost)
            self.dial()
            for _ in range(3):
                self._move_all()

    @rule(count=st.sampled_from([1, 1, 1, 4]))
    def connect(self, count: int = 1) -> None:
        """Open streams all the way, as far as that is possible now."""
        for _ in range(count):
            before = len(self.tunnelled)
            self.open()
            if len(self.tunnelled) > before:
                for _ in range(3):
                    self._move_all()
                self.answer(0, True)

    @rule(index=_INDEX, willing=st.sampled_from([True, True, True, False]))
    def answer(self, index: int, willing: bool) -> None:
        if (picked := self._pick(index, "far")) and picked[1].stream.state is State.OPENING:
            model, side = picked
            answerer = self._any_answerer(side.stream.session)
            if willing:
                answerer.accept(side.stream)
            else:
                model.refused = True
                answerer.refuse(side.stream, Cause.REFUSED, "nobody listens")

    def _any_answerer(self, session: Session) -> AnswererConnection:
        """One that has long gone: who dials holds it."""
        hello = Hello("1", session=session.identifier, node="edge-1")
        made = AnswererConnection(session, hello, now=self.now)
        session.lose_link(made, self.now)
        return made

    @rule(
        end=st.sampled_from(ENDS),
        index=_INDEX,
        rounds=st.integers(1, 12),
        appetite=st.sampled_from([100, 1000, 1 << 20]),
    )
    def stream_on(self, end: str, index: int, rounds: int, appetite: int) -> None:
        """Bulk, that lets windows grow."""
        for _ in range(rounds):
            self.write(end, index, 6000, segment=True)
            for wire in self.links:
                for one in ENDS:
                    self._flush(wire, one, 3000)
                    self._deliver(wire, one, 4000)
            self.read(other(end), index, appetite)
            self.now += 0.051

    # --- what must hold ---------------------------------------------------------------------------

    @invariant()
    def both_ledgers_agree(self) -> None:
        for model in self.tunnelled:
            if len(model.sides) == 2:
                near, far = (model.sides[end].stream for end in ENDS)
                for one, another in ((near, far), (far, near)):
                    if State.CLOSED not in (one.state, another.state):
                        assert one.outgoing.acknowledged <= another.incoming.received <= one.outgoing.written
                        assert one.outgoing.sent <= another.incoming.granted

    @invariant()
    def who_waits_can_be_reclaimed_and_expires(self) -> None:
        self._note_waiting()
        for session in self._sessions():
            assert set(session.suspended) == set(session.budget.reclaimable)
            grace = GRACE if session.tombstones is None else GRACE + 30
            for stream in session.streams.values():
                linkless = stream.connection is None
                match stream.state:
                    case State.OPENING:
                        assert linkless is (stream in session.suspended)
                    case State.OPEN | State.ENDED:
                        assert linkless is (stream.state is State.ENDED)
                        assert stream not in session.suspended
                    case State.SUSPENDED | State.ASKED:
                        assert linkless is (stream.state is State.SUSPENDED)
                        assert stream in session.suspended
                if stream in self.waiting:
                    # Answered and asked for again at once, it has gone on unseen: then it waits anew.
                    assert self.now - self.waiting[stream] <= 2 * grace

    @invariant()
    def users_are_told_the_truth(self) -> None:
        for model in self.tunnelled:
            for end, side in model.sides.items():
                if self._is_policy(side.stream, end):
                    model.may_reset = True
        super().users_are_told_the_truth()

    def _is_policy(self, stream: Stream, end: str) -> bool:
        """Whether an end has given the stream up by itself; then it had a reason."""
        waited = self.now - self.waiting.get(stream, self.now)
        match stream.end_cause:
            case EndCause.EXPIRED:
                assert waited >= (GRACE if end == "near" else GRACE + 30) - 0.1
            case EndCause.UNANSWERED:
                assert waited >= LIMITS.answer_timeout - 0.1
            case EndCause.RECLAIMED:
                reclaimable = stream.session.budget.reclaimable
                assert isinstance(reclaimable, Reclaimable)
                assert stream in reclaimable.reclaimed
            case EndCause.SERVER_ANEW:
                assert self.former
            case _:
                return False
        return True

    def _check_reset(self, stream: Stream) -> None:
        assert stream.end_cause in {EndCause.PEER_RESET, *LOST}

    def _check_refusal(self, model: Tunnelled, stream: Stream) -> None:
        assert stream.refusal is not None
        assert stream.refusal.cause is Cause.NO_ROOM or model.may_reset

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
        for session in self._sessions():
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
            read = self._read_all()
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
