import gc
import ipaddress
import logging
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.tunnel_wire.links import linked
from tests.tunnel_wire.test_client_hello import hello
from tunnel_agent.allow_list import AllowList, Rule
from tunnel_agent.dialer import Dialer
from tunnel_agent.own_addresses import OwnAddresses
from tunnel_agent.resolve import UnresolvableError
from tunnel_agent.status import AgentStatus
from tunnel_wire.causes import Cause, OpenFailed
from tunnel_wire.stream_state import State


def open_fds() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


ANYWHERE = ["0.0.0.0/0:*", "::/0:*", "loopback:*", "node:*"]
NODE = ipaddress.ip_address("192.168.2.143")


@dataclass
class Request:
    """A request that records what became of it, without a link."""

    host: str
    port: int
    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    done: trio.Event = field(default_factory=trio.Event)
    refusal: tuple[Cause, str] | None = None

    def answer(self):
        raise OpenFailed(Cause.CANCELLED, "the request has gone")

    def refuse(self, cause: Cause, detail: str = "") -> None:
        self.refusal = (cause, detail)
        self.done.set()

    async def cause(self) -> Cause:
        with trio.fail_after(60):
            await self.done.wait()
        assert self.refusal is not None
        return self.refusal[0]


@asynccontextmanager
async def dialing(rules=ANYWHERE, *, lookup=None, here=(NODE,), max_dials=512, timeout=10.0):
    async with trio.open_nursery() as nursery:
        dialer = Dialer(
            nursery,
            AllowList(Rule.parse(rule) for rule in rules),
            AgentStatus("test"),
            dial_timeout=timeout,
            max_dials=max_dials,
            own=OwnAddresses(read=lambda: frozenset(here)),
            lookup=lookup,
        )
        dialer.node_addresses = frozenset({NODE})
        yield dialer
        nursery.cancel_scope.cancel()


async def cause_of(dialer: Dialer, host: str, port: int) -> Cause:
    request = Request(host, port)
    dialer.on_request(request)
    return await request.cause()


async def test_dials():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with dialing() as dialer:
            for host in ("127.0.0.1", "localhost", "::ffff:127.0.0.1"):
                with await dialer.dial(host, listener.getsockname()[1]) as sock:
                    assert sock.getpeername() == listener.getsockname()
                    assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


async def test_refused(refusing):
    async with dialing() as dialer:
        request = Request("127.0.0.1", refusing)
        dialer.on_request(request)
        assert await request.cause() is Cause.REFUSED
        assert request.refusal == (Cause.REFUSED, f"127.0.0.1:{refusing}: connection refused")
        assert dialer._status.refused == {"refused": 1}
        assert dialer._status.dialling == 0


async def test_a_black_hole_times_out(black_hole, autojump_clock):
    async with dialing() as dialer:
        assert await cause_of(dialer, "127.0.0.1", black_hole) is Cause.TIMED_OUT
        assert trio.current_time() == 10


async def test_a_slow_target_delays_no_other(black_hole, refusing):
    async with dialing() as dialer:
        slow = [Request("127.0.0.1", black_hole) for _ in range(100)]
        for request in slow:
            dialer.on_request(request)
        with trio.fail_after(5):
            assert await cause_of(dialer, "127.0.0.1", refusing) is Cause.REFUSED
        assert not any(request.done.is_set() for request in slow)


async def test_dials_in_flight_are_bounded_and_the_rest_wait_in_turn(black_hole, autojump_clock):
    async with dialing(max_dials=4) as dialer:
        requests = [Request("127.0.0.1", black_hole) for _ in range(4)]
        for request in requests:
            dialer.on_request(request)
        with trio.fail_after(30):
            for request in requests:
                await request.done.wait()
        causes = [request.refusal[0] for request in requests]
        assert causes.count(Cause.TIMED_OUT) == 1, "one target gets a quarter of the places"
        assert causes.count(Cause.NO_ROOM) == 3


async def test_a_dial_is_given_up_with_its_request(black_hole):
    async with dialing() as dialer:
        before = open_fds()
        request = Request("127.0.0.1", black_hole)
        dialer.on_request(request)
        await trio.testing.wait_all_tasks_blocked()
        assert dialer._status.dialling == 1
        request.scope.cancel()
        await trio.testing.wait_all_tasks_blocked()
        assert dialer._status.dialling == 0
        assert open_fds() == before
        assert request.refusal is None


async def test_a_request_that_goes_at_the_last_moment():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        async with dialing() as dialer:
            before = open_fds()
            dialer.on_request(Request("127.0.0.1", listener.getsockname()[1]))
            await trio.testing.wait_all_tasks_blocked()
            listener.accept()[0].close()
            assert open_fds() == before
            assert dialer._status.opened == 0


@pytest.mark.parametrize(
    "host",
    ["127.0.0.1", "::1", "localhost", "LOCALHOST", "localhost.", "127.1", "2130706433", "0x7f000001",
     "0177.1", "10.0.0.1", "169.254.169.254", "2852039166", "::ffff:10.0.0.1", "::ffff:169.254.169.254"],
)  # fmt: skip
async def test_what_is_not_listed_is_not_dialled(host, caplog):
    async with dialing(["node:9081"]) as dialer:
        assert await cause_of(dialer, host, 22) is Cause.NOT_ALLOWED
    assert "is not on the agent's allow-list" in caplog.text


async def test_a_mapped_address_is_judged_as_what_it_is():
    async with dialing(["::/0:*"]) as dialer:
        assert await cause_of(dialer, "::ffff:10.0.0.1", 22) is Cause.NOT_ALLOWED


async def test_a_name_leads_to_nothing_that_is_not_listed():
    async def lookup(_host):
        return [ipaddress.ip_address("169.254.169.254"), ipaddress.ip_address("127.0.0.1")]

    async with dialing(["evil.example:*", "0.0.0.0/0:*"], lookup=lookup) as dialer:
        assert await cause_of(dialer, "evil.example", 80) is Cause.NOT_ALLOWED


async def test_unresolvable_names():
    async def lookup(host):
        raise UnresolvableError(f"{host}: Name or service not known")

    async with dialing(lookup=lookup) as dialer:
        request = Request("nowhere.example", 80)
        dialer.on_request(request)
        assert await request.cause() is Cause.UNRESOLVABLE
        assert request.refusal[1] == "nowhere.example: Name or service not known"


async def test_dead_dns_costs_the_dial_timeout(autojump_clock):
    async def lookup(_host):
        await trio.sleep_forever()

    async with dialing(lookup=lookup) as dialer:
        request = Request("slow.example", 80)
        dialer.on_request(request)
        assert await request.cause() is Cause.UNRESOLVABLE
        assert "resolving slow.example: no answer within 10 s" in request.refusal[1]


@pytest.mark.parametrize(
    ("by_machine", "addresses", "here", "cause"),
    [
        (True, (), (NODE,), None),
        (True, (), (), Cause.NOT_ON_THIS_NODE),
        (True, ("192.168.2.144",), (NODE,), Cause.NOT_ALLOWED),  # the certificate knows better
        (False, (), (NODE,), Cause.NOT_ALLOWED),
    ],
)
async def test_without_an_address_a_node_is_its_machine(by_machine, addresses, here, cause):
    async with dialing(["node:*"], here=here) as dialer:
        dialer._by_machine = by_machine
        dialer.node_addresses = frozenset(map(ipaddress.ip_address, addresses))
        if cause is None:
            assert dialer._permitted(str(NODE), [NODE], 9081) == [NODE]
            return
        with pytest.raises(OpenFailed) as caught:
            dialer._permitted(str(NODE), [NODE], 9081)
        assert caught.value.cause is cause


async def test_a_machine_is_not_what_it_may_not_be():
    async with dialing(["node:*"], here=(ipaddress.ip_address("169.254.169.254"),)) as dialer:
        dialer._by_machine, dialer.node_addresses = True, frozenset()
        for address in ("169.254.169.254", "192.168.2.144"):
            with pytest.raises(OpenFailed):
                dialer._permitted(address, [ipaddress.ip_address(address)], 80)


async def test_the_nodes_own_address_only_while_this_machine_has_it():
    async with dialing(here=()) as dialer:
        request = Request(str(NODE), 9081)
        dialer.on_request(request)
        assert await request.cause() is Cause.NOT_ON_THIS_NODE
        assert "does not have it now" in request.refusal[1]


async def test_unknown_own_addresses_are_no_permission(caplog):
    def broken():
        raise PermissionError(1, "Operation not permitted")

    async with dialing() as dialer:
        dialer._own = OwnAddresses(read=broken)
        assert await cause_of(dialer, str(NODE), 9081) is Cause.FAILED
    assert "addresses can't be listed: Operation not permitted" in caplog.text


async def test_the_next_address_of_a_name_is_tried(black_hole, autojump_clock):
    """The first does not answer, the second refuses, the third answers."""
    with socket.create_server(("127.0.0.3", black_hole)) as listener:

        async def lookup(_host):
            return [ipaddress.ip_address(f"127.0.0.{n}") for n in (1, 2, 3)]

        async with dialing(lookup=lookup) as dialer:
            with await dialer.dial("three.example", black_hole) as sock:
                assert sock.getpeername() == listener.getsockname()
            assert trio.current_time() < 5


async def test_the_most_telling_failure_is_reported(black_hole, autojump_clock):
    async def lookup(_host):
        return [ipaddress.ip_address(f"127.0.0.{n}") for n in (1, 2)]

    async with dialing(lookup=lookup) as dialer:
        assert await cause_of(dialer, "two.example", black_hole) is Cause.REFUSED


async def test_an_unreachable_network():
    async with dialing(["fe80::/10:*"]) as dialer:
        # Link-local without a zone: no kernel knows where to.
        assert await cause_of(dialer, "fe80::1234", 80) is Cause.UNREACHABLE


async def test_no_file_descriptor_is_no_room(monkeypatch):
    import errno

    def none_left(*_args, **_kwargs):
        raise OSError(errno.EMFILE, "Too many open files")

    async with dialing() as dialer:
        monkeypatch.setattr(socket, "socket", none_left)
        cause = await cause_of(dialer, "127.0.0.1", 80)
        monkeypatch.undo()
        assert cause is Cause.NO_ROOM


async def test_a_defect_costs_one_stream_only(caplog):
    async def lookup(_host):
        raise RuntimeError("a defect")

    async with dialing(lookup=lookup) as dialer:
        assert await cause_of(dialer, "x.example", 80) is Cause.FAILED
    assert "a stream failed" in caplog.text


async def test_ten_thousand_failed_dials_leave_nothing(refusing, caplog):
    caplog.set_level(logging.WARNING)

    async def many(dialer: Dialer, count: int) -> None:
        for _ in range(count // 100):
            requests = [Request("127.0.0.1", refusing) for _ in range(100)]
            for request in requests:
                dialer.on_request(request)
            for request in requests:
                assert await request.cause() is Cause.REFUSED

    def tasks() -> int:
        return trio.lowlevel.current_statistics().tasks_living

    async with dialing() as dialer:
        await many(dialer, 500)
        gc.collect()
        before = tasks(), open_fds(), len(gc.get_objects())
        await many(dialer, 10_000)
        await trio.testing.wait_all_tasks_blocked()
        gc.collect()
        assert tasks() == before[0]
        assert open_fds() == before[1]
        assert len(gc.get_objects()) - before[2] < 500
        assert dialer._status.dialling == 0
        assert dialer._status.refused["refused"] == 10_500
    assert not caplog.messages


async def test_new_rules_count_also_for_who_is_being_resolved(refusing):
    answer = trio.Event()

    async def lookup(_host):
        await answer.wait()
        return [ipaddress.ip_address("127.0.0.1")]

    async with dialing(lookup=lookup) as dialer:
        request = Request("localhost", refusing)
        dialer.on_request(request)
        await trio.testing.wait_all_tasks_blocked()
        dialer.configure(AllowList([]), dial_timeout=10, max_dials=1)
        answer.set()
        assert await request.cause() is Cause.NOT_ALLOWED
        dialer.configure(AllowList([Rule.parse("loopback:*")]), dial_timeout=10, max_dials=1)
        assert await cause_of(dialer, "localhost", refusing) is Cause.REFUSED


async def test_a_new_timeout_counts_from_the_next_dial_on(black_hole, autojump_clock):
    async def lookup(_host):
        await trio.sleep(1)
        return [ipaddress.ip_address("127.0.0.1")]

    async with dialing(lookup=lookup) as dialer:
        request = Request("127.0.0.1", black_hole)
        dialer.on_request(request)
        await trio.testing.wait_all_tasks_blocked()
        dialer.configure(AllowList([Rule.parse("loopback:*")]), dial_timeout=3, max_dials=512)
        second = Request("127.0.0.1", black_hole)
        dialer.on_request(second)
        assert await second.cause() is Cause.TIMED_OUT
        assert trio.current_time() == 3
        assert await request.cause() is Cause.TIMED_OUT
        assert trio.current_time() == 10
        assert request.refusal[1].endswith("no answer within 10 s")


@pytest.mark.parametrize("pieces", [1, 3])
async def test_what_was_said_before_the_answer_is_what_the_target_hears_first(pieces):
    """And is looked at, as what comes later is: many requests share this connection."""
    said, found = hello("h2"), trio.Event()
    size = -(-len(said) // pieces)

    async def lookup(host):
        await found.wait()
        return [ipaddress.ip_address("127.0.0.1")]

    with socket.create_server(("127.0.0.1", 0)) as listener, trio.fail_after(20):
        async with dialing(lookup=lookup) as dialer, linked() as ends:
            ends.on_request = dialer.on_request
            stream = ends.opener.open_stream(ends.opening, "somewhere", listener.getsockname()[1])
            for at in range(0, len(said), size):
                stream.write(said[at : at + size])
                stream.flush()
            while not ends.answering.streams:
                await trio.sleep(0.001)
            (far,) = ends.answering.streams.values()
            while far.incoming.queued < len(said):
                await trio.sleep(0.001)
            found.set()
            while far.state is State.OPENING:
                await trio.sleep(0.001)
            stream.write(b", and more")
            stream.flush()
            target, _ = await trio.to_thread.run_sync(listener.accept)
            with target:
                heard = b""
                while len(heard) < len(said + b", and more"):
                    heard += await trio.to_thread.run_sync(target.recv, 65536)
            assert heard == said + b", and more"
            assert far.is_pooled


async def test_what_was_said_to_a_target_that_refuses_is_dropped(refusing):
    found = trio.Event()

    async def lookup(host):
        await found.wait()
        return [ipaddress.ip_address("127.0.0.1")]

    with trio.fail_after(20):
        async with dialing(lookup=lookup) as dialer, linked() as ends:
            ends.on_request = dialer.on_request
            stream = ends.opener.open_stream(ends.opening, "somewhere", refusing)
            stream.write(b"hello")
            stream.flush()
            while not ends.answering.streams:
                await trio.sleep(0.001)
            (far,) = ends.answering.streams.values()
            while far.incoming.queued < len(b"hello"):
                await trio.sleep(0.001)
            found.set()
            while stream.state is State.OPENING:
                await trio.sleep(0.001)
            assert stream.refusal.cause is Cause.REFUSED
            while ends.opening.budget.used or ends.answering.budget.used:
                await trio.sleep(0.001)
            assert dialer._status.dialling == 0
