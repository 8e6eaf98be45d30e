"""Where servers were, from one process to the next: written when that changes, and read whatever is there."""

import json
import os
import stat

import pytest
import trio
import trio.testing

from certs.files import StateDirectory
from tunnel_agent.kept_names import FILE, keep_names, load_names
from tunnel_agent.server_names import ServerNames

HERE, THERE = "127.0.0.7", "127.0.0.8"


@pytest.fixture
def state(tmp_path):
    path = tmp_path / "state"
    path.mkdir(mode=0o700)
    return path


@pytest.fixture
async def names():
    made = ServerNames()
    trio.socket.set_custom_hostname_resolver(made)
    return made


@pytest.fixture
def writes(monkeypatch):
    """What was written, without the thread that does it."""
    made = []

    async def here(function, *arguments, abandon_on_cancel):
        made.append(arguments[1])
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", here)
    return made


async def ask(host: str = "a.example") -> None:
    await trio.socket.getaddrinfo(host, 10262)
    await trio.testing.wait_all_tasks_blocked()


async def test_the_next_process_knows_them(state, names, dns, autojump_clock):
    dns.answer("a.example", HERE, "::1")
    await ask()
    with trio.move_on_after(1):
        await keep_names(state, names, load_names(state))
    # In a thread: time that jumps has left it behind.
    while not (state / FILE).exists():
        os.sched_yield()
    assert stat.S_IMODE((state / FILE).stat().st_mode) == 0o600
    assert load_names(state) == {"a.example": [HERE, "::1"]}


async def test_it_is_written_when_it_changes_and_not_all_the_time(
    state, names, dns, writes, nursery, autojump_clock
):
    nursery.start_soon(keep_names, state, names, load_names(state))
    dns.answer("a.example", HERE, THERE)
    await ask()
    assert load_names(state) == {"a.example": [HERE, THERE]}
    for _ in range(10):
        dns.answer("a.example", THERE, HERE)
        await ask()
        await trio.sleep(1000)
        dns.answer("a.example", HERE, THERE)
        await ask()
    assert len(writes) == 1, "another order is no change"
    for number in range(300):
        dns.answer("a.example", f"127.0.1.{number % 200}")
        await ask()
        await trio.sleep(2)
    assert len(writes) <= 4
    await trio.sleep(600)
    assert load_names(state) == {"a.example": ["127.0.1.99"]}


async def test_without_a_thread_it_is_tried_again(
    state, names, dns, writes, nursery, autojump_clock, monkeypatch, caplog
):
    async def no_thread(*_words, **_settings):
        raise RuntimeError("can't start new thread")

    with monkeypatch.context() as patched:
        patched.setattr(trio.to_thread, "run_sync", no_thread)
        nursery.start_soon(keep_names, state, names, load_names(state))
        dns.answer("a.example", HERE)
        await ask()
        await trio.sleep(1)
    assert caplog.messages[-1].endswith("where servers are is not kept: can't start new thread")
    await trio.sleep(600)
    assert load_names(state) == {"a.example": [HERE]}


async def test_it_is_not_written_again_by_the_next_process(state, dns, writes, nursery, autojump_clock):
    dns.answer("a.example", HERE)
    for _ in range(2):
        names = ServerNames(load_names(state))
        trio.socket.set_custom_hostname_resolver(names)
        with trio.move_on_after(1000):
            nursery.start_soon(keep_names, state, names, load_names(state))
            await ask()
            await trio.sleep_forever()
    assert len(writes) == 1


async def test_what_dns_knows_no_more_of_stays(state, names, dns, writes, nursery, autojump_clock):
    """Of a server that was not asked for since the start, too."""
    nursery.start_soon(keep_names, state, names, load_names(state))
    dns.answer("a.example", HERE)
    await ask()
    dns.answers.clear()
    await trio.sleep(1000)
    dns.answer("b.example", THERE)
    await ask("b.example")
    assert load_names(state) == {"a.example": [HERE], "b.example": [THERE]}


async def test_a_disk_that_takes_nothing_harms_nobody(
    state, names, dns, monkeypatch, writes, nursery, caplog, autojump_clock
):
    def full(*_):
        raise OSError(28, "No space left on device")

    dns.answer("a.example", HERE)
    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        nursery.start_soon(keep_names, state, names, load_names(state))
        await ask()
        await trio.sleep(4000)
    assert not list(state.iterdir())
    assert caplog.messages[0].endswith(
        f"where servers are is not kept: {state} cannot be written: No space left on device; "
        "nothing was changed"
    )
    assert len(caplog.messages) < len(writes) < 16
    await trio.sleep(1000)
    assert load_names(state) == {"a.example": [HERE]}


@pytest.mark.parametrize(
    "content",
    [
        b"", b"\xff", b"[]", b"7", b'{"a.example": 7}', b'{"a.example": ["nowhere"]}', b'{"a.example": [[]]}',
        b'{"a.example": {}}', b"[" * 100_000, b'{"a.example": [',
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_as_if_it_were_not_there(state, content):
    (state / FILE).write_bytes(content)
    assert load_names(state) == {}


def test_nothing_there(state, tmp_path):
    assert load_names(state) == {}
    assert load_names(tmp_path / "nowhere") == {}
    (state / FILE).mkdir()
    assert load_names(state) == {}


async def test_it_is_bounded(state):
    many = {f"{number}.example": [HERE] * 100 for number in range(1000)}
    with StateDirectory(state).transaction() as transaction:
        transaction.write({FILE: json.dumps(many).encode()})
    known = ServerNames(load_names(state)).known()
    assert len(known) == 64
    assert max(map(len, known.values())) == 8
