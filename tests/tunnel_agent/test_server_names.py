"""Names of servers while DNS answers, while it does not, and when it does again."""

import socket

import pytest
import trio
import trio.testing

from tunnel_agent.server_names import PATIENCE, ServerNames

HERE, THERE = "127.0.0.7", "127.0.0.8"


@pytest.fixture
async def names():
    return ServerNames()


async def resolve(names: ServerNames, host: str = "a.example") -> tuple[list[str], float]:
    """What is to be dialled, and after how many seconds."""
    trio.socket.set_custom_hostname_resolver(names)
    began = trio.current_time()
    with trio.fail_after(100):
        found = await trio.socket.getaddrinfo(host, 10262, type=socket.SOCK_STREAM)
    assert {(kind, address[1]) for _, kind, _, _, address in found} == {(socket.SOCK_STREAM, 10262)}
    return [address[0] for *_, address in found], trio.current_time() - began


async def answered(names: ServerNames) -> None:
    """Until no lookup is under way."""
    while len(names.lookups):
        await trio.sleep(0)


async def test_what_dns_says_is_dialled(names, dns, autojump_clock):
    dns.answer("a.example", HERE, "::1")
    assert await resolve(names) == ([HERE, "::1"], 0)
    dns.answer("a.example", THERE)
    assert await resolve(names) == ([THERE], 0)
    assert await resolve(names, HERE) == ([HERE], 0)
    assert dns.asked == ["a.example"] * 2
    assert names.known() == {"a.example": [THERE]}


async def test_one_of_another_family_is_not_asked_for(names, dns, autojump_clock):
    trio.socket.set_custom_hostname_resolver(names)
    dns.answer("a.example", HERE, "::1")
    for family, address in ((socket.AF_INET, HERE), (socket.AF_INET6, "::1")):
        ((found, *_, where),) = await trio.socket.getaddrinfo("a.example", 1, family, socket.SOCK_STREAM)
        assert (found, where[0]) == (family, address)
    dns.answer("a.example", HERE)
    with pytest.raises(socket.gaierror, match="No address"):
        await trio.socket.getaddrinfo("a.example", 1, socket.AF_INET6)


async def test_while_dns_is_silent_it_is_dialled_where_it_was(names, dns, caplog, autojump_clock):
    dns.answer("a.example", HERE)
    await resolve(names)
    dns.silent = True
    assert await resolve(names) == ([HERE], PATIENCE)
    # Nobody waits for the same silence again, and no other thread does.
    for _ in range(30):
        assert await resolve(names) == ([HERE], 0)
        await trio.sleep(1)
    assert len(names.lookups) == 1
    assert dns.asked == ["a.example"] * 2
    assert names.describe()["a.example"] == {"addresses": [HERE], "unanswered_s": 31.0}
    assert caplog.messages == [f"a.example: DNS does not answer: dialling where it was last, {HERE}"]


async def test_an_answer_that_comes_late_is_the_next_ones(names, dns, autojump_clock):
    dns.answer("a.example", HERE)
    await resolve(names)
    dns.silent = True
    assert await resolve(names) == ([HERE], PATIENCE)
    dns.answer("a.example", THERE)
    await answered(names)
    assert names.describe()["a.example"] == {"addresses": [THERE], "unanswered_s": None}
    dns.silent = True
    assert await resolve(names) == ([THERE], PATIENCE)


async def test_a_name_that_has_gone_is_dialled_where_it_was(names, dns, caplog, autojump_clock):
    dns.answer("a.example", HERE)
    await resolve(names)
    dns.answers.clear()
    for _ in range(5):
        assert await resolve(names) == ([HERE], 0)
        await answered(names)
    assert len(dns.asked) == 6, "each time it is asked anew"
    assert caplog.text.count("Name or service not known: dialling where it was last") == 1
    dns.answer("a.example", THERE)
    await resolve(names)
    await answered(names)
    assert await resolve(names) == ([THERE], 0)


async def test_old_silence_does_not_count(names, dns, autojump_clock):
    """The link was up for long in between: the server may have moved."""
    dns.answer("a.example", HERE)
    await resolve(names)
    dns.answers.clear()
    await resolve(names)
    await answered(names)
    await trio.sleep(3600)
    dns.silent = True
    assert await resolve(names) == ([HERE], PATIENCE)


async def test_who_knows_nothing_waits_for_dns(names, dns, caplog, autojump_clock):
    dns.silent = True
    with trio.move_on_after(15) as scope:
        await resolve(names)
    assert scope.cancelled_caught
    assert caplog.messages == ["a.example: DNS does not answer, and where it was is not known"]
    dns.answer("a.example", HERE)
    await answered(names)
    assert (await resolve(names))[0] == [HERE]
    with pytest.raises(socket.gaierror, match="Name or service not known"):
        await resolve(names, "nowhere.example")


async def test_of_a_name_that_dns_does_not_know_nothing_else_is_said(names, dns, caplog, autojump_clock):
    """Mistyped, say: each time it is tried DNS answers after a moment that there is no such name."""
    for _ in range(5):
        dns.silent = True
        async with trio.open_nursery() as nursery:

            async def fails() -> None:
                with pytest.raises(socket.gaierror, match="Name or service not known"):
                    await resolve(names, "a.exmaple")

            nursery.start_soon(fails)
            await trio.sleep(PATIENCE / 2)
            dns.answer("another.example", HERE)
        await trio.sleep(PATIENCE)
    assert caplog.messages == []


async def test_what_another_process_knew(dns, autojump_clock):
    dns.silent = True
    names = ServerNames({"a.example": [HERE, "::1"]})
    assert await resolve(names) == ([HERE, "::1"], PATIENCE)


async def test_so_many_names_are_kept(names, dns, autojump_clock):
    dns.answer("a.example", HERE)
    for number in range(100):
        await resolve(names)
        dns.answer(f"{number}.example", HERE)
        await resolve(names, f"{number}.example")
        await trio.sleep(1)
    assert len(names.known()) == 64
    assert {"99.example", "a.example"} <= set(names.known()), "those that are asked for"


async def test_a_try_that_is_short_of_time_still_gets_to_dial(names, dns, autojump_clock):
    dns.answer("a.example", HERE)
    await resolve(names)
    dns.silent = True
    with trio.move_on_after(PATIENCE / 2) as scope:
        assert await resolve(names) == ([HERE], PATIENCE / 4)
    assert not scope.cancelled_caught


async def test_where_to_listen_is_no_name_of_a_server(names, dns, autojump_clock):
    trio.socket.set_custom_hostname_resolver(names)
    dns.answer("health.example", HERE)
    for _ in range(2):
        (listener,) = await trio.open_tcp_listeners(0, host="health.example")
        with listener.socket as sock:
            assert sock.getsockname()[0] == HERE
    assert names.describe() == names.known() == {}
    dns.answers.clear()
    with pytest.raises(socket.gaierror):
        await trio.open_tcp_listeners(0, host="health.example")


async def test_what_nobody_asked_for_here_is_not_shown(dns, autojump_clock):
    names = ServerNames({"a.example": [HERE], "b.example": [THERE]})
    dns.answer("a.example", HERE)
    await resolve(names)
    assert names.describe() == {"a.example": {"addresses": [HERE], "unanswered_s": None}}
    assert names.known() == {"a.example": [HERE], "b.example": [THERE]}
