"""The audit log: one line a call, whatever the disk does, and rotation by others."""

from __future__ import annotations

import errno
import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.tunnel_server.core import running
from tests.tunnel_server.test_calls import echo
from tunnel_daemon.program import ProgramError
from tunnel_server import audit as module
from tunnel_server.asked import Asked
from tunnel_server.audit import Audit
from tunnel_server.calls import Calls, Target
from tunnel_wire.splice import End

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678900, tzinfo=UTC)


def record(audit: Audit, target: str = "192.168.2.143:80") -> None:
    asked = Asked("connect", "127.0.0.1:5", "edge-1:80", "spiffe://edge.test/caller/kube")
    audit.record(
        WHEN, asked, node="edge-1", target=target, end="finished", seconds=1.23456, to_node=1, to_caller=2
    )


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


async def written(path: Path, count: int) -> list[dict[str, object]]:
    with trio.fail_after(5):
        while not path.exists() or len(path.read_bytes().splitlines()) < count:
            await trio.sleep(0.005)
    return lines(path)


async def test_a_line_a_call(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    audit = Audit(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        record(audit)
        (line,) = await written(path, 1)
        nursery.cancel_scope.cancel()
    record(audit, 'a "line"\nbreak' + "x" * 1000)
    audit.close()
    assert line == {
        "time": "2026-01-02T03:04:05.678+00:00",
        "seconds": 1.235,
        "frontend": "connect",
        "caller": "127.0.0.1:5",
        "identity": "spiffe://edge.test/caller/kube",
        "wanted": "edge-1:80",
        "node": "edge-1",
        "target": "192.168.2.143:80",
        "end": "finished",
        "to_node": 1,
        "to_caller": 2,
    }
    last = lines(path)[1]["target"]
    assert isinstance(last, str)
    assert last.startswith('a "line"\nbreak')
    assert len(last) == 300
    assert path.stat().st_mode & 0o007 == 0


async def test_rotation(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    audit = Audit(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        record(audit, "old")
        await written(path, 1)
        path.rename(tmp_path / "audit.log.1")
        record(audit, "still old")
        await written(tmp_path / "audit.log.1", 2)
        audit.reopen()
        record(audit, "new")
        assert (await written(path, 1))[0]["target"] == "new"
        nursery.cancel_scope.cancel()
    audit.close()
    assert len(lines(tmp_path / "audit.log.1")) == 2


async def test_a_full_disk_loses_nothing_until_memory_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "audit.log"
    audit = Audit(path)
    real, full = os.write, True

    def write(file: int, data: bytes) -> int:
        if file == audit._file and full:
            if len(data) > 10:
                return real(file, data[:10])  # the middle of a line
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(file, data)

    monkeypatch.setattr("tunnel_server.audit.os.write", write)
    monkeypatch.setattr(module, "MAX_WAITING", 3)
    monkeypatch.setattr(module, "_RETRY", 0.01)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        record(audit, "first")
        with trio.fail_after(5):
            while "No space left" not in caplog.text and "no space left" not in caplog.text:
                await trio.sleep(0.005)
        with trio.fail_after(5):
            while not audit._lost:
                record(audit, "more")
        full = False
        with trio.fail_after(5):
            while b'"lost"' not in path.read_bytes():
                await trio.sleep(0.005)
        nursery.cancel_scope.cancel()
    audit.close()
    found = lines(path)
    assert found[0]["target"] == "first"
    assert found[-1] == {"lost": found[-1]["lost"]}


async def test_what_a_killed_server_has_left_of_a_line_spoils_no_other(tmp_path: Path) -> None:
    (path := tmp_path / "audit.log").write_text('{"whole":1}\n{"torn":')
    for target in ("first", "second"):
        audit = Audit(path)
        record(audit, target)
        audit.close()
    found = path.read_text().splitlines()
    assert found[:2] == ['{"whole":1}', '{"torn":']
    assert [json.loads(each)["target"] for each in found[2:]] == ["first", "second"]


def test_a_file_that_cannot_be_had(tmp_path: Path) -> None:
    with pytest.raises(ProgramError, match=r"can't append to audit-log .*/nowhere/audit.log: no such file"):
        Audit(tmp_path / "nowhere" / "audit.log")
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(ProgramError, match="can't append"):
        Audit(tmp_path / "link")


async def test_calls_say_who_reached_what(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    audit = Audit(path)
    async with running() as core, echo() as port:
        calls = Calls(core.metrics, core.registry, open_timeout=5, away_wait=0, limit=10, audit=audit)
        agent = await core.agent()
        await core.wait_linked("edge-1", agent.session)
        asked = Asked("connect", "uid 0", f"edge-1:{port}", "local")
        async with calls.place(
            asked, lambda: Target(core.registry.by_name("edge-1"), "127.0.0.1", port)
        ) as call:
            call.result.to_tunnel = 7
        async with calls.place(
            asked, lambda: Target(core.registry.by_name("edge-1"), "127.0.0.1", port)
        ) as call:
            call.result.end, call.result.detail = End.LINK_LOST, "nobody came back"
        core.registry.node("edge-2")
        with pytest.raises(Exception, match="away"):
            async with calls.place(asked, lambda: Target(core.registry.by_name("edge-2"), "127.0.0.1", 1)):
                pass
    audit.close()
    one, lost, two = lines(path)
    assert (one["node"], one["end"], one["to_node"]) == ("edge-1", "cancelled", 7)
    assert (lost["end"], lost["detail"]) == ("link-lost", "nobody came back")
    assert (two["node"], two["end"], two["detail"]) == ("edge-2", "away", "edge-2 is not connected")


async def test_a_disk_that_stays_full_holds_a_bounded_number_of_lines(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "MAX_WAITING", 50)
    monkeypatch.setattr(module, "_RETRY", 0.001)
    audit = Audit(Path("/dev/full"))
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        for _ in range(40):
            for _ in range(50):
                record(audit, "more")
            await trio.sleep(0.003)
        nursery.cancel_scope.cancel()
    assert audit._unwritten.count(b"\n") + len(audit._lines) <= 100
    assert audit._lost >= 40 * 50 - 100
    audit.close()


async def test_what_is_recorded_as_the_server_stops_is_written(tmp_path: Path) -> None:
    path = tmp_path / "audit.log"
    audit = Audit(path)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(audit.run)
        await trio.testing.wait_all_tasks_blocked()
        record(audit, "last")
        nursery.cancel_scope.cancel()
    audit.close()
    assert [line["target"] for line in lines(path)] == ["last"]
