"""Signals of this very process."""

from __future__ import annotations

import os
import signal
from functools import partial

import pytest
import trio
import trio.testing

from tunnel_daemon.settings import SettingsError
from tunnel_daemon.signals import ignore_hangups, watch_signals


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_stop_signal_cancels_the_scope(number: signal.Signals) -> None:
    with trio.fail_after(5), trio.CancelScope() as scope:
        async with trio.open_nursery() as nursery:
            await nursery.start(watch_signals, scope)
            os.kill(os.getpid(), number)
            await trio.sleep_forever()
    assert scope.cancelled_caught


async def test_hangup_calls_the_hook_and_its_failures_stop_nothing(caplog) -> None:
    calls = 0
    called = trio.Event()

    async def reload() -> None:
        nonlocal calls, called
        calls += 1
        called.set()
        if calls == 1:
            raise SettingsError(["c.toml:1: wrong", "c.toml:2: too"])
        if calls == 2:
            raise RuntimeError("defect")

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            await nursery.start(lambda task_status: watch_signals(
                nursery.cancel_scope, on_hangup=reload, task_status=task_status
            ))  # fmt: skip
            for _ in range(3):
                called = trio.Event()
                os.kill(os.getpid(), signal.SIGHUP)
                await called.wait()
            nursery.cancel_scope.cancel()
    assert calls == 3
    assert "stays as it was: c.toml:2: too" in caplog.text
    assert "RuntimeError: defect" in caplog.text


async def test_a_hangup_before_and_after_ends_nothing() -> None:
    before = signal.getsignal(signal.SIGHUP)
    try:
        ignore_hangups()
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
        os.kill(os.getpid(), signal.SIGHUP)
        async with trio.open_nursery() as nursery:
            hook = partial(watch_signals, nursery.cancel_scope, on_hangup=trio.lowlevel.checkpoint)
            await nursery.start(hook)
            nursery.cancel_scope.cancel()
        os.kill(os.getpid(), signal.SIGHUP)
    finally:
        signal.signal(signal.SIGHUP, before)


async def test_without_a_hook_hangup_keeps_its_meaning() -> None:
    before = signal.getsignal(signal.SIGHUP)
    async with trio.open_nursery() as nursery:
        await nursery.start(watch_signals, nursery.cancel_scope)
        assert signal.getsignal(signal.SIGHUP) is before
        assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
        nursery.cancel_scope.cancel()
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL


async def test_each_signal_calls_its_hook() -> None:
    called = []

    async def note(what: str) -> None:
        called.append(what)

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            hooks = {"on_hangup": partial(note, "hangup"), "on_replace": partial(note, "replace")}
            await nursery.start(partial(watch_signals, trio.CancelScope(), **hooks))
            for number in (signal.SIGUSR2, signal.SIGHUP):
                os.kill(os.getpid(), number)
                await trio.testing.wait_all_tasks_blocked(0.05)
            nursery.cancel_scope.cancel()
    assert called == ["replace", "hangup"]
