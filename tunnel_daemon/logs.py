"""Logging of a process: text for people or JSON lines for machines, to stderr, never in the way.

A line is formatted where it is logged and written by a thread of its own, because stderr may
be a pipe that nobody reads: then lines are dropped and counted, and no connection waits.
Secrets are not filtered out here; they are never to be passed to a logger.
"""

from __future__ import annotations

import atexit
import contextlib
import contextvars
import datetime
import json
import logging
import os
import queue
import threading
import time
import types
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

LogLevel = Literal["debug", "info", "warning", "error"]
LogFormat = Literal["text", "json"]

MAX_LINES = 2000  # waiting to be written
MAX_LINE = 8192  # characters of a record, its traceback included
FLUSH_TIMEOUT = 1.0  # seconds at exit
STDERR = 2
# Their debug records cost more than the work they describe.
CHATTY = ("h2", "hpack", "hyperframe", "pyroute2")

_nothing: Mapping[str, object] = types.MappingProxyType({})
_bound = contextvars.ContextVar("log_fields", default=_nothing)
_ordinary = set(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


@contextlib.contextmanager
def bind(**fields: object) -> Iterator[None]:
    """Put these fields on every record logged inside, tasks started inside included."""
    token = _bound.set({**_bound.get(), **fields})
    try:
        yield
    finally:
        _bound.reset(token)


def configure_logging(level: LogLevel, form: LogFormat) -> None:
    """Send the process's log to stderr. May be called again, to change either."""
    formatter = JsonFormatter() if form == "json" else TextFormatter()
    root = logging.getLogger()
    for handler in list(root.handlers):
        if isinstance(handler, BackgroundHandler):
            handler.setFormatter(formatter)
            break
    else:
        background = BackgroundHandler(STDERR)
        background.setFormatter(formatter)
        root.addHandler(background)
    root.setLevel(level.upper())
    for name in CHATTY:
        logging.getLogger(name).setLevel(logging.WARNING)
    logging.captureWarnings(capture=True)


class BackgroundHandler(logging.Handler):
    """Writes records to a file descriptor from a thread; never waits for it."""

    def __init__(self, fd: int) -> None:
        super().__init__()
        self.fd = fd
        self.dropped = 0  # ever; written under the handler's lock, read by the thread
        self._lines: queue.Queue[bytes | None] = queue.Queue(MAX_LINES)
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._thread.start()
        atexit.register(self.close)

    def emit(self, record: logging.LogRecord) -> None:
        """Queue a record, or count it as dropped."""
        try:
            line = self.format(record)[:MAX_LINE]
        except Exception as error:  # noqa: BLE001 - a bad log call must not become a failed connection
            line = f"a log record of {record.pathname}:{record.lineno} can't be formatted: {error!r}"
        try:
            self._lines.put_nowait(line.encode(errors="backslashreplace") + b"\n")
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what is queued, for at most `FLUSH_TIMEOUT`, and end the thread."""
        deadline = time.monotonic() + FLUSH_TIMEOUT
        with contextlib.suppress(queue.Full):
            self._lines.put(None, timeout=FLUSH_TIMEOUT)
        self._thread.join(max(0.0, deadline - time.monotonic()))
        atexit.unregister(self.close)
        super().close()

    def _write(self) -> None:
        reported = 0
        why, unwritten, torn = "stderr was not read", 0, b""
        while (line := self._lines.get()) is not None:
            if (dropped := self.dropped + unwritten) > reported:
                line = f"{dropped - reported} log lines were dropped: {why}\n".encode() + line
            line = torn + line
            try:
                while line:
                    line = line[os.write(self.fd, line) :]
                    torn = b"\n"
            except OSError as error:  # nowhere is left to say so, until there is
                why, unwritten = f"stderr could not be written ({error.strerror})", unwritten + 1
            else:
                why, reported, torn = "stderr was not read", dropped, b""


class TextFormatter(logging.Formatter):
    """``TIME LEVEL message key=value``; a traceback follows, indented."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line, and more only for a traceback."""
        parts = [_time(record), record.levelname, printable(record.getMessage())]
        parts += [f"{key}={_value(value)}" for key, value in _fields(record).items()]
        line = " ".join(parts)
        for extra in _traceback(self, record).splitlines():
            line += f"\n    {printable(extra)}"
        return line


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, the fields, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line."""
        entry: dict[str, object] = {
            "time": _time(record),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        entry = {**entry, **_fields(record), **entry}
        if traceback := _traceback(self, record):
            # Shortened here: an object cut off at the end would be no JSON.
            entry["exception"] = traceback[-MAX_LINE // 2 :]
        return json.dumps(entry, ensure_ascii=False, default=str)


def _fields(record: logging.LogRecord) -> dict[str, object]:
    own = {key: value for key, value in record.__dict__.items() if key not in _ordinary}
    return {**_bound.get(), **own}


def _time(record: logging.LogRecord) -> str:
    moment = datetime.datetime.fromtimestamp(record.created, datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(formatter: logging.Formatter, record: logging.LogRecord) -> str:
    text = formatter.formatException(record.exc_info) if record.exc_info and record.exc_info[0] else ""
    return text + (formatter.formatStack(record.stack_info) if record.stack_info else "")


def printable(text: str) -> str:
    """Escape what would start a line of its own, or steer a terminal."""
    return text if text.isprintable() else "".join(c if c.isprintable() else repr(c)[1:-1] for c in text)


def _value(value: object) -> str:
    text = str(value)
    plain = text and text.isprintable() and not any(c in ' "=' for c in text)
    return text if plain else json.dumps(text, ensure_ascii=True)
