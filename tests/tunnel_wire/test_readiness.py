"""Sockets call back when they are ready for what is wanted; one that fails does not disturb the others."""

import logging
import os
import socket
import time

import pytest
import trio
import trio.testing

from tests.tunnel_wire.links import tcp_pair
from tunnel_wire.readiness import FAILED, HUNG_UP, READABLE, WRITABLE, Watch, watch
from tunnel_wire.sockets import close_with_reset


def never() -> None:
    raise AssertionError("no defect was expected")


async def settled() -> None:
    await trio.testing.wait_all_tasks_blocked(0.01)


async def test_it_calls_again_until_everything_is_read() -> None:
    near, far = tcp_pair()
    got: list[bytes] = []
    with near, far:
        watched = watch(near, lambda events: got.append(near.recv(1)), never, READABLE)
        far.send(b"three")
        with trio.fail_after(5):
            while len(got) < 5:
                await trio.lowlevel.checkpoint()
        await settled()
        assert b"".join(got) == b"three"
        watched.close()


class CountedWaits(trio.abc.Instrument):
    count = 0

    def before_io_wait(self, timeout: float) -> None:
        self.count += 1


async def test_sockets_take_turns_without_a_turn_of_the_loop() -> None:
    near, far = tcp_pair()
    got: list[bytes] = []
    done, waits = trio.Event(), CountedWaits()

    def on_ready(events: int) -> None:
        got.append(near.recv(1))
        if len(got) == 100:
            done.set()

    with near, far:
        watched = watch(near, on_ready, never, READABLE)
        trio.lowlevel.add_instrument(waits)
        far.send(bytes(100))
        with trio.fail_after(5):
            await done.wait()
        assert waits.count < 10
        trio.lowlevel.remove_instrument(waits)
        watched.close()


async def test_a_busy_socket_keeps_neither_tasks_nor_deadlines_waiting() -> None:
    near, far = tcp_pair()
    busy, tasks = 0, 0

    def on_ready(events: int) -> None:
        nonlocal busy
        busy += 1

    async def other_sockets() -> None:
        nonlocal tasks
        one, other = trio.socket.from_stdlib_socket, tcp_pair()
        with one(other[0]) as here, one(other[1]) as there:
            while True:
                await here.send(b"x")
                await there.recv(1)
                tasks += 1

    with near, far:
        far.send(b"never read, so always ready")
        watched = watch(near, on_ready, never, READABLE)
        with trio.move_on_after(0.05) as scope:
            await other_sockets()
        assert scope.cancelled_caught
        with trio.move_on_after(0.05) as scope:
            await trio.sleep_forever()
        assert scope.cancelled_caught
        assert busy > 10
        assert tasks > 10
        watched.close()


async def test_a_deadline_that_a_callback_brings_forward_is_met() -> None:
    near, far = tcp_pair()
    scope = trio.CancelScope(deadline=trio.current_time() + 60)

    def on_ready(events: int) -> None:
        near.recv(10)
        scope.deadline = trio.current_time() + 0.01

    with near, far:
        watched = watch(near, on_ready, never, READABLE)
        far.send(b"x")
        began = time.monotonic()
        with scope:
            await trio.sleep_forever()
        assert time.monotonic() - began < 30
        watched.close()


async def test_it_calls_for_what_is_wanted_and_nothing_else() -> None:
    near, far = tcp_pair()
    told: list[int] = []

    def on_ready(events: int) -> None:
        told.append(events)
        watched.want(0)

    with near, far:
        watched = watch(near, on_ready, never)
        far.send(b"unwanted")
        await settled()
        assert told == []
        watched.want(READABLE)
        await settled()
        assert told == [READABLE]
        watched.want(WRITABLE)
        await settled()
        assert told == [READABLE, WRITABLE]
        assert watched.wanted == 0
        watched.close()


async def test_failing_and_hanging_up_are_told_unasked() -> None:
    held: list[Watch] = []
    for fail, expected in ((True, FAILED), (False, HUNG_UP)):
        near, far = tcp_pair()
        told: list[int] = []

        def on_ready(events: int, told: list[int] = told) -> None:
            told.append(events)
            held.pop().close()

        watched = watch(near, on_ready, never)
        held.append(watched)
        if fail:
            close_with_reset(far)
        else:
            far.shutdown(socket.SHUT_WR)
            near.shutdown(socket.SHUT_WR)
        with trio.fail_after(5):
            while not told:
                await trio.lowlevel.checkpoint()
        assert told[0] & expected
        assert bool(told[0] & FAILED) is fail
        near.close()
        far.close()


async def test_one_closed_by_another_of_the_same_round_is_not_called() -> None:
    pairs = [tcp_pair() for _ in range(2)]
    watches: dict[int, Watch] = {}
    told: list[int] = []

    def on_ready(mine: int) -> None:
        told.append(mine)
        for other in watches.values():
            other.close()

    for index, (near, far) in enumerate(pairs):
        watches[index] = watch(near, lambda events, index=index: on_ready(index), never, READABLE)
        far.send(b"x")
    await settled()
    assert len(told) == 1
    for pair in pairs:
        for sock in pair:
            sock.close()


async def test_what_befell_a_closed_socket_is_not_told_of_the_next_with_its_number() -> None:
    pairs = [tcp_pair() for _ in range(2)]
    fresh, far_of_fresh = tcp_pair()
    told: list[int] = []
    watches: dict[int, Watch] = {}

    def whoever_is_first(index: int) -> None:
        # The other one of this round is closed, and its number is another socket's, which is well.
        other = pairs[1 - index][0]
        watches.pop(1 - index).close()
        watches.pop(index).close()
        os.dup2(fresh.fileno(), other.fileno())
        watches[2] = watch(other, told.append, never, READABLE)

    for index, (near, far) in enumerate(pairs):
        watches[index] = watch(near, lambda _events, index=index: whoever_is_first(index), never, READABLE)
        close_with_reset(far)
    await settled()
    assert not told
    far_of_fresh.send(b"x")
    with trio.fail_after(5):
        while not told:
            await trio.lowlevel.checkpoint()
    assert set(told) == {READABLE}
    watches[2].close()
    for sock in (*(near for near, _ in pairs), fresh, far_of_fresh):
        sock.close()


async def test_closed_it_can_be_closed_again_and_its_number_used_again() -> None:
    near, far = tcp_pair()
    number = near.fileno()
    old = watch(near, lambda events: never(), never, READABLE)
    old.close()
    near.close()
    far.close()
    other, far = tcp_pair()
    with other, far, socket.socket(fileno=os.dup2(other.fileno(), number)) as near:
        told = trio.Event()
        fresh = watch(near, lambda events: (told.set(), fresh.want(0)), never, READABLE)
        old.want(WRITABLE)
        old.close()
        far.send(b"x")
        with trio.fail_after(5):
            await told.wait()
        fresh.close()


async def test_a_defect_costs_its_own_socket_alone(caplog: pytest.LogCaptureFixture) -> None:
    bad, bad_peer = tcp_pair()
    good, good_peer = tcp_pair()
    defects: list[str] = []
    got = trio.Event()

    def on_ready(events: int) -> None:
        raise RuntimeError("a defect")

    with bad, bad_peer, good, good_peer:
        watch(bad, on_ready, lambda: defects.append("told"), READABLE)
        fine = watch(good, lambda events: (got.set(), fine.want(0)), never, READABLE)
        bad_peer.send(b"x")
        await settled()
        good_peer.send(b"x")
        with trio.fail_after(5):
            await got.wait()
        assert defects == ["told"]
        assert [record.levelno for record in caplog.records] == [logging.ERROR]
        fine.close()


async def test_one_that_is_closed_too_late_takes_nothing_from_the_next_with_its_number() -> None:
    near, far = tcp_pair()
    late = watch(near, lambda events: None, never, READABLE)
    number = near.detach()
    os.close(number)
    got: list[bytes] = []
    one, other = tcp_pair()
    with far, one, other, socket.socket(fileno=os.dup2(one.fileno(), number)) as following:
        watched = watch(following, lambda events: got.append(following.recv(1)), never, READABLE)
        late.close()
        other.send(b"x")
        await settled()
        assert got == [b"x"]
        watched.close()
