"""Log lines, fields, and what an unread stderr does (nothing)."""

from __future__ import annotations

import errno
import json
import logging
import os
import subprocess
import sys
import time

import pytest
import trio

from tunnel_daemon.logs import MAX_LINE, MAX_LINES, BackgroundHandler, JsonFormatter, TextFormatter, bind


def record(
    message: str, *args: object, error: BaseException | None = None, **fields: object
) -> logging.LogRecord:
    exc_info = (type(error), error, error.__traceback__) if error else None
    made = logging.LogRecord("tunnel.x", logging.INFO, "f.py", 1, message, args, exc_info)
    made.created = 1_800_000_000.123
    made.__dict__.update(fields)
    return made


def raised(error: Exception) -> Exception:
    try:
        raise error
    except type(error) as caught:
        return caught


def test_text_has_time_level_message_and_fields() -> None:
    line = TextFormatter().format(record("joined %s", "edge-1", node="edge-1", why='a "b" = c', empty=""))
    assert line == '2027-01-15T08:00:00.123Z INFO joined edge-1 node=edge-1 why="a \\"b\\" = c" empty=""'


def test_text_can_not_be_forged() -> None:
    line = TextFormatter().format(
        record("a\n2027 INFO b\x1b[2J", field="x\ny", error=raised(ValueError("p\nq")))
    )
    first, *traceback = line.split("\n")
    assert first.endswith('a\\n2027 INFO b\\x1b[2J field="x\\ny"')
    assert traceback
    assert all(each.startswith("    ") for each in traceback)


def test_json_has_one_object_a_line_and_own_keys_win() -> None:
    line = JsonFormatter().format(
        record("m\n", level="forged", port=9081, error=raised(ValueError("é" * 9000)))
    )
    entry = json.loads(line)
    assert "\n" not in line
    assert len(line) < MAX_LINE
    assert entry.pop("exception").endswith("é")
    assert entry.pop("time") == "2027-01-15T08:00:00.123Z"
    assert entry == {"level": "info", "logger": "tunnel.x", "message": "m\n", "port": 9081}


async def test_bound_fields_follow_tasks_and_nest() -> None:
    seen = []

    async def child() -> None:
        seen.append(json.loads(JsonFormatter().format(record("m", call=2))))

    async with trio.open_nursery() as nursery:
        with bind(node="a", link=1), bind(link=2):
            nursery.start_soon(child)
    assert (seen[0]["node"], seen[0]["link"], seen[0]["call"]) == ("a", 2, 2)
    assert "node" not in TextFormatter().format(record("m"))


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


def test_an_unread_stderr_drops_lines_and_says_how_many(pipe) -> None:
    read, write = pipe
    handler = BackgroundHandler(write)
    start = time.monotonic()
    for _ in range(MAX_LINES + 200):
        handler.handle(record("x" * 1000))
    assert time.monotonic() - start < 20
    assert 0 < handler.dropped <= 200
    handler.close()  # writes nothing more: the pipe is full
    written = told = 0
    with open(read, "rb", closefd=False) as reader:
        while written < MAX_LINES + 200 - handler.dropped:
            line = reader.readline()
            if b"lines were dropped: stderr was not read" in line:
                told += int(line.split()[0])
            else:
                written += 1
    assert told == handler.dropped


def test_a_full_disk_costs_lines_and_how_many_is_said_when_there_is_room(
    pipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    write, room = os.write, [0, 5]  # bytes that the disk takes, write by write; then it has room

    def on_a_full_disk(number: int, data: bytes) -> int:
        if not room:
            return write(number, data)
        if not (left := room.pop(0)):
            raise OSError(errno.ENOSPC, "No space left on device")
        room.insert(0, 0)
        return write(number, data[:left])

    monkeypatch.setattr(os, "write", on_a_full_disk)
    handler = BackgroundHandler(pipe[1])
    for word in ("lost", "torn", "written", "as ever"):
        handler.emit(record(word))
    handler.close()
    lines = os.read(pipe[0], 4096).decode().splitlines()
    assert lines[0] == "1 log"  # of the line that was to say so
    assert lines[1] == "2 log lines were dropped: stderr could not be written (No space left on device)"
    assert lines[2:] == ["written", "as ever"]


def test_a_bad_log_call_is_a_line_too(pipe) -> None:
    handler = BackgroundHandler(pipe[1])
    handler.emit(record("%d", "not a number"))
    handler.close()
    assert b"f.py:1 can't be formatted" in os.read(pipe[0], 4096)


PROGRAM = """
import logging, warnings
from tunnel_daemon.logs import configure_logging
configure_logging("debug", "text")
configure_logging("info", "json")
logging.debug("hidden")
logging.getLogger("hpack").info("hidden")
warnings.warn("old")
logging.info("shown", extra={"node": "edge-1"})
"""


def test_a_process_logs_to_stderr_and_flushes_at_exit() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, check=True, timeout=30)
    assert done.stdout == b""
    entries = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(entry["level"], entry["message"]) for entry in entries][1:] == [("info", "shown")]
    assert "old" in entries[0]["message"]
    assert entries[1]["node"] == "edge-1"
