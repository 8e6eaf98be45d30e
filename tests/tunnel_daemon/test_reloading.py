"""The configuration taken again: whole or not at all, by itself when its file changes, and told."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.e2e.shortage import descriptors
from tunnel_daemon.program import ProgramError
from tunnel_daemon.reloading import Reloader, Source
from tunnel_daemon.settings import read_settings, setting


@dataclass(frozen=True, kw_only=True)
class Limits:
    wait: float = setting(5.0, doc="A wait.", unit="seconds", live=True)
    streams: int = setting(10000, doc="Streams.")


@dataclass(frozen=True, kw_only=True)
class Caller:
    nodes: tuple[str, ...] = setting((), doc="Nodes.")


@dataclass(frozen=True, kw_only=True)
class Config:
    ports: str = setting("", doc="Ports.", live=True)
    listener: int = setting(10262, doc="A port.")
    password: str = setting("", doc="A secret.", secret=True, live=True)
    limits: Limits = setting(Limits(), doc="Bounds.")
    callers: dict[str, Caller] = setting({}, doc="Callers.", live=True)


class UnavailableError(Exception):
    """One that the program declares."""


class Program:
    """Takes what it is given, or refuses it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.taken: list[Config] = []
        self.refusal: Exception | None = None
        self.reads = 0
        self.source = Source(path, self.load)
        self.reloader = Reloader(self.source.read(), self.source, self.apply, refusals=(UnavailableError,))

    def load(self) -> Config:
        self.reads += 1
        return read_settings(Config, self.path if self.path.exists() else None)

    async def apply(self, config: Config) -> None:
        if self.refusal:
            raise self.refusal
        self.taken.append(config)

    def write(self, text: str) -> None:
        """As an editor does: another file in its place."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(text)
        fresh.rename(self.path)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    path = tmp_path / "program.toml"
    path.write_text("")
    return Program(path)


def messages(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records]


async def test_changes_are_applied_and_told(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    program.write("ports = '80'\n[limits]\nwait = '1s'\n[callers.prom]\nnodes = 'a'\n")
    await program.reloader.reload()
    (taken,) = program.taken
    assert (taken.ports, taken.limits.wait, list(taken.callers)) == ("80", 1.0, ["prom"])
    assert program.reloader.config == taken
    *settings, caller = messages(caplog)
    assert settings == [
        'configuration: ports: "" -> "80"',
        'configuration: limits.wait: "5s" -> "1s"',
    ]
    assert caller == 'configuration: callers.prom: (none) -> {nodes = ["a"]}'


async def test_a_secret_is_not_told(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    program.write("password = 'hunter2'\n")
    await program.reloader.reload()
    assert program.reloader.config.password == "hunter2"
    assert messages(caplog) == ["configuration: password: (a secret) -> (a secret)"]


async def test_nothing_is_applied_where_nothing_changes(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    program.write("# only a remark\n")
    await program.reloader.reload()
    assert program.taken == []
    assert messages(caplog) == ["configuration read: nothing changes"]


async def test_what_needs_a_restart_stays_and_is_named(
    program: Program, caplog: pytest.LogCaptureFixture
) -> None:
    program.write("listener = 1\nports = '80'\n[limits]\nstreams = 5\n")
    await program.reloader.reload()
    assert program.taken == [Config(ports="80")]
    assert messages(caplog) == [
        "configuration: listener: 10262 -> 1 needs a restart; until then it stays 10262",
        "configuration: limits.streams: 10000 -> 5 needs a restart; until then it stays 10000",
    ]


@pytest.mark.parametrize(
    "refusal", [ProgramError("the port is taken"), UnavailableError("the port is taken")]
)
async def test_what_cannot_be_had_changes_nothing(
    program: Program, refusal: Exception, caplog: pytest.LogCaptureFixture
) -> None:
    program.refusal = refusal
    program.write("ports = '80'\n")
    await program.reloader.reload()
    assert program.reloader.config == Config()
    assert program.reloader.problems == ("the port is taken",)
    assert messages(caplog) == ["the configuration stays as it was: the port is taken"]
    program.refusal = None
    await program.reloader.reload()
    assert program.reloader.problems == ()
    assert program.reloader.config == Config(ports="80")


async def test_every_mistake_is_told(program: Program, caplog: pytest.LogCaptureFixture) -> None:
    program.write("ports = '80'\nlistener = 'x'\nlog-levle = 1\n")
    await program.reloader.reload()
    assert program.taken == []
    assert len(program.reloader.problems) == 2
    assert all(each.startswith("the configuration stays as it was: ") for each in messages(caplog))
    assert len(messages(caplog)) == 2


async def test_a_defect_ends_nothing(program: Program) -> None:
    program.refusal = RuntimeError("a defect")
    program.write("ports = '80'\n")
    await program.reloader.reload()
    assert program.reloader.problems == ("internal error; the log has more",)
    assert program.reloader.config == Config()


@pytest.fixture
def patient_clock(autojump_clock: MockClock) -> MockClock:
    """Jumps only when the thread that reads the file has had its time too."""
    autojump_clock.autojump_threshold = 0.02
    return autojump_clock


async def watching(
    program: Program, patient_clock: MockClock, act: Callable[[], None], seconds: float
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(program.reloader.watch)
        await trio.sleep(5)
        act()
        await trio.sleep(seconds)
        nursery.cancel_scope.cancel()


async def test_the_file_is_watched(program: Program, patient_clock: MockClock) -> None:
    await watching(program, patient_clock, lambda: program.write("ports = '80'\n"), 3)
    assert program.reloader.config.ports == "80"
    assert program.reads == 2


async def test_a_file_that_is_still_being_written_is_not_read(
    program: Program, patient_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(program.reloader.watch)
        for number in range(20):
            program.path.write_text("#" * number)
            os.utime(program.path, ns=(number, number))
            await trio.sleep(0.9)
        assert program.reads == 1
        program.write("ports = '80'\n")
        await trio.sleep(3)
        nursery.cancel_scope.cancel()
    assert program.reads == 2


async def test_a_file_that_cannot_be_read_now_is_read_later(
    program: Program, patient_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(program.reloader.watch)
        program.write("ports = '9081'")
        with descriptors(os.getpid()):
            await trio.sleep(10)
        assert program.taken == []
        assert [each.partition(": ")[2] for each in messages(caplog)] == [
            f"{program.path}: can't be read: Too many open files"
        ]
        assert program.reloader.problems
        await trio.sleep(3)
        assert [each.ports for each in program.taken] == ["9081"]
        assert program.reloader.problems == ()
        nursery.cancel_scope.cancel()


async def test_a_file_that_is_gone_changes_nothing(program: Program, patient_clock: MockClock) -> None:
    program.write("ports = '80'\n")
    await program.reloader.reload()
    await watching(program, patient_clock, program.path.unlink, 3)
    for _ in range(2):
        assert program.reloader.problems == (f"{program.path} is gone",)
        assert program.reloader.config.ports == "80"
        await program.reloader.reload()
    await watching(program, patient_clock, lambda: program.write("ports = '81'\n"), 3)
    assert program.reloader.problems == ()
    assert program.reloader.config.ports == "81"


async def test_a_change_while_the_program_starts_is_not_missed(
    program: Program, patient_clock: MockClock
) -> None:
    config = program.source.read()
    program.write("ports = '80'\n")
    program.reloader = Reloader(config, program.source, program.apply)
    await watching(program, patient_clock, lambda: None, 0)
    assert program.reloader.config.ports == "80"


async def test_a_file_that_comes_later_is_taken(tmp_path: Path, patient_clock: MockClock) -> None:
    program = Program(tmp_path / "program.toml")
    assert program.reloader.config == Config()
    await watching(program, patient_clock, lambda: program.write("ports = '80'\n"), 3)
    assert program.reloader.config.ports == "80"


async def test_a_file_of_a_configmaps_volume_is_watched(tmp_path: Path, patient_clock: MockClock) -> None:
    """Its kubelet never touches the file: it makes another directory, and turns a symbolic link to it."""

    def bring(version: str, text: str) -> None:
        (tmp_path / f"..{version}").mkdir()
        (tmp_path / f"..{version}" / "program.toml").write_text(text)
        (tmp_path / "..data_tmp").symlink_to(f"..{version}")
        (tmp_path / "..data_tmp").rename(tmp_path / "..data")

    bring("2026_01_01", "")
    (tmp_path / "program.toml").symlink_to("..data/program.toml")
    program = Program(tmp_path / "program.toml")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(program.reloader.watch)
        bring("2026_01_02", 'ports = "9100"')
        await trio.sleep(3)
        assert program.reloader.config.ports == "9100"
        nursery.cancel_scope.cancel()
