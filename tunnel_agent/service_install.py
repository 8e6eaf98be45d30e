"""`install-service` and `uninstall-service`: the agent as a systemd service of its own user."""

from __future__ import annotations

import os
import pwd
import shutil
import stat
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from tunnel_agent.config import DEFAULT_CONFIG, DEFAULT_STATE
from tunnel_agent.service_unit import SERVICE, USER, USUAL_PROGRAM, unit_text

if TYPE_CHECKING:
    import argparse
    from collections.abc import Callable, Sequence

FAILED = 1
UNITS = Path("/etc/systemd/system")
_HOMES = (Path("/home"), Path("/root"), Path("/run/user"))
_TIMEOUT = 60.0
"""Seconds for one useradd or systemctl."""


class ServiceError(Exception):
    """The service can't be installed or removed; one line, with the remedy."""


class Installation:
    """The service on this machine. All methods block, and need root."""

    def __init__(self, *, units: Path = UNITS, config: Path = DEFAULT_CONFIG) -> None:
        self._unit = units / SERVICE
        self._config = config

    def check(self, program: Path, state_dir: Path) -> None:
        """Raise ServiceError for what would make `install` fail; to ask before a token is used up."""
        if os.geteuid() != 0:
            raise ServiceError("a service is installed by root: run it with sudo")
        if not self._unit.parent.is_dir():
            raise ServiceError(f"{self._unit.parent} does not exist: this machine has no systemd")
        _check_program(program)
        try:
            unit_text(program, state_dir, self._config)
        except ValueError as error:
            raise ServiceError(str(error)) from None
        if _inside(state_dir, _HOMES):
            raise ServiceError(f"{state_dir} is in a home directory, which the service does not see")

    def install(self, program: Path, state_dir: Path) -> list[str]:
        """Make the user, give it the state, write the unit, start it; what was done, a line each.

        Raises ServiceError. May be done again: what is there is brought up to date.
        """
        self.check(program, state_dir)
        told = _make_user()
        try:
            _give(state_dir, USER)
            told += self._let_read_config()
            _write(self._unit, unit_text(program, state_dir, self._config))
        except OSError as error:
            raise ServiceError(f"{error.filename}: {(error.strerror or str(error)).lower()}") from None
        told.append(f"wrote {self._unit}")
        if not systemd_runs():
            told.append(f"systemd does not run here; where it does: systemctl enable --now {SERVICE}")
            return told
        _run("systemctl", "daemon-reload")
        _run("systemctl", "enable", SERVICE)
        _run("systemctl", "restart", SERVICE)
        told.append(f"started; see: systemctl status {SERVICE}, journalctl -u {SERVICE}")
        return told

    def uninstall(self, state_dir: Path | None) -> list[str]:
        """Stop and remove the service; with a `state_dir` that and the user too. Raises ServiceError."""
        if os.geteuid() != 0:
            raise ServiceError("a service is removed by root: run it with sudo")
        told = []
        there = self._unit.exists()
        if there and systemd_runs():
            _run("systemctl", "disable", "--now", SERVICE)
        with suppress(FileNotFoundError):
            self._unit.unlink()
        if there:
            told.append(f"removed {self._unit}")
            if systemd_runs():
                _run("systemctl", "daemon-reload")
        if state_dir is not None:
            if state_dir.exists():
                _remove_state(state_dir)
                told.append(f"removed {state_dir}: this machine has to join again")
            if _user() is not None:
                _run("userdel", USER)
                told.append(f"removed the user {USER}")
        return told or ["nothing was installed"]

    def _let_read_config(self) -> list[str]:
        """The configuration may hold a proxy's password: the service's group may read it, others not."""
        user = _user()
        if user is None or not self._config.exists():
            return []
        os.chown(self._config, 0, user.pw_gid)
        self._config.chmod(0o640)
        return [f"{self._config} is readable by root and {USER} now"]


def systemd_runs() -> bool:
    """Whether systemd is this machine's init (sd_booted(3))."""
    return Path("/run/systemd/system").is_dir()


def own_program() -> Path:
    """Return the `tunnel-agent` of this very installation."""
    beside = Path(sys.executable).parent / "tunnel-agent"
    found = beside if beside.exists() else shutil.which("tunnel-agent")
    if found is None:
        raise ServiceError("this installation has no program tunnel-agent: install it with pip")
    return Path(found).absolute()


def _check_program(program: Path) -> None:
    """Raise ServiceError unless another user, and a unit with ProtectHome, can run `program`."""
    # The interpreter behind a venv's link is needed as well.
    for path in (program, program.parent / "python3"):
        for real in {path, path.resolve()}:
            if path != program and not path.exists():
                continue
            if _inside(real, _HOMES):
                raise ServiceError(
                    f"{real} is in a home directory, which the service does not see: install into a venv "
                    f"like {USUAL_PROGRAM.parent.parent} (python3 -m venv there, and its bin/pip install)"
                )
            for each in (real, *real.parents):
                if not each.exists():
                    raise ServiceError(f"{each} does not exist")
                if not each.stat().st_mode & stat.S_IXOTH:
                    raise ServiceError(f"{each} is closed to other users: the service can't run {program}")


def _inside(path: Path, directories: Sequence[Path]) -> bool:
    return any(path.is_relative_to(each) for each in directories)


def _user() -> pwd.struct_passwd | None:
    try:
        return pwd.getpwnam(USER)
    except KeyError:
        return None


def _make_user() -> list[str]:
    if _user() is not None:
        return []
    _run(
        "useradd", "--system", "--user-group", "--no-create-home", "--home-dir", "/nonexistent",
        "--shell", "/usr/sbin/nologin", USER,
    )  # fmt: skip
    return [f"made the user {USER}"]


def _give(state_dir: Path, name: str) -> None:
    """Give the state directory and its files to a user. Raises OSError."""
    owner = pwd.getpwnam(name)
    state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
    for path in (*state_dir.iterdir(), state_dir):
        os.chown(path, owner.pw_uid, owner.pw_gid, follow_symlinks=False)


def _write(path: Path, text: str) -> None:
    """Write a file whole or not at all, for all to read. Raises OSError."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            os.fchmod(descriptor, 0o644)
            file.flush()
            os.fsync(descriptor)
        Path(temporary).replace(path)
    except BaseException:
        with suppress(OSError):
            Path(temporary).unlink()
        raise


def _remove_state(state_dir: Path) -> None:
    from tunnel_agent.credentials import DETAILS

    # Whatever --state-dir was mistyped as: only what joining made is removed.
    if state_dir.is_symlink() or not (state_dir / DETAILS).is_file():
        raise ServiceError(f"{state_dir} holds no agent's identity: nothing was removed from it")
    shutil.rmtree(state_dir)


def _run(*words: str) -> None:
    try:
        done = subprocess.run(words, capture_output=True, text=True, check=False, timeout=_TIMEOUT)
    except FileNotFoundError:
        raise ServiceError(f"{words[0]} is not on this machine") from None
    except subprocess.TimeoutExpired:
        raise ServiceError(f"{' '.join(words)}: no end within {_TIMEOUT:g} s") from None
    if done.returncode != 0:
        said = " ".join(done.stderr.split()) or f"exit code {done.returncode}"
        raise ServiceError(f"{' '.join(words)}: {said}")


def add_service_parsers(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `install-service` and `uninstall-service`; sets `run`."""
    install = subparsers.add_parser(
        "install-service",
        help="run the agent as a systemd service, now and from every boot on",
        description="Make a user, write a unit that may do little, and start it. Join first.",
    )
    remove = subparsers.add_parser(
        "uninstall-service",
        help="stop the service and remove its unit",
        description="Stop the service and remove its unit. The identity stays, unless --purge is given.",
    )
    for parser, run in ((install, run_install), (remove, run_uninstall)):
        parser.add_argument("--state-dir", type=Path, default=DEFAULT_STATE, metavar="DIR")
        parser.set_defaults(run=run)
    remove.add_argument(
        "--purge", action="store_true", help="remove this machine's identity and the service's user too"
    )


class ServiceStep:
    """The service behind `join --install-service`: asked first, so that no token is used up in vain."""

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir.absolute()

    def is_possible(self) -> bool:
        """Whether it can be installed; says why if not."""
        return _report("join", lambda: Installation().check(own_program(), self._state_dir)) == 0

    def run(self) -> int:
        """Install it, and return the exit code."""
        return _report("install-service", lambda: Installation().install(own_program(), self._state_dir))


def run_install(args: argparse.Namespace) -> int:
    """Install; print what was done, and return the exit code."""
    return ServiceStep(args.state_dir).run()


def run_uninstall(args: argparse.Namespace) -> int:
    """Remove; print what was done, and return the exit code."""
    state_dir = args.state_dir.absolute() if args.purge else None
    return _report("uninstall-service", lambda: Installation().uninstall(state_dir))


def _report(command: str, act: Callable[[], list[str] | None]) -> int:
    try:
        lines = act() or []
    except ServiceError as error:
        sys.stderr.write(f"tunnel-agent {command}: {error}\n")
        return FAILED
    except OSError as error:
        sys.stderr.write(f"tunnel-agent {command}: {error.filename}: {error.strerror or error}\n")
        return FAILED
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    return 0
