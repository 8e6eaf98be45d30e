"""`tunnel-agent prepare-state`: a state directory for an agent that runs as another user, made by root.

In a pod, an init container runs it over a hostPath; so it does with CAP_CHOWN alone. Without
CAP_DAC_OVERRIDE and CAP_FOWNER, root is an ordinary user to what is not its own: the directory is root's
while it is worked on, and is given away last. Whoever ends in between leaves what the next one finishes.
"""

from __future__ import annotations

import os
import stat
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tunnel_agent.config import DEFAULT_STATE

if TYPE_CHECKING:
    import argparse

_DIRECTORY, _FILE = 0o700, 0o600
_MAX_ID = 2**32 - 2  # the last one means "nobody" to chown(2)


class PrepareError(Exception):
    """It cannot be prepared, and nothing that is not ours was touched; one line."""


def add_prepare_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `prepare-state` to the agent's command line; sets `run`."""
    parser = subparsers.add_parser(
        "prepare-state",
        help="make the state directory, for an agent that runs as another user (root)",
        description="Make the state directory, or hand over the one that is there, with the identity in it.",
    )
    parser.add_argument("--state-dir", type=Path, default=DEFAULT_STATE, metavar="DIR")
    parser.add_argument("--uid", type=int, required=True, help="the agent's user, by number")
    parser.add_argument("--gid", type=int, help="its group; default: the same number")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> int:
    gid = options.uid if options.gid is None else options.gid
    try:
        prepare_state(options.state_dir, options.uid, gid)
    except PrepareError as error:
        sys.stderr.write(f"tunnel-agent prepare-state: {error}\n")
        return 1
    sys.stdout.write(f"{options.state_dir} is user {options.uid}'s\n")
    return 0


def prepare_state(path: Path, uid: int, gid: int) -> None:
    """Make `path` a directory of mode 0700 that is `uid`'s, with every file in it; raises PrepareError.

    What is there may be root's or `uid`'s. A symbolic link (no other component of the path is looked at), a
    file of anybody else, and one of root's that has another name elsewhere are refused.
    """
    for number, what in ((uid, "user"), (gid, "group")):
        if not 0 <= number <= _MAX_ID:
            raise PrepareError(f"{number} is no {what}")
    try:
        directory = _open(path, uid)
        try:
            _hand_over(directory, path, uid, gid)
        finally:
            os.close(directory)
    except OSError as error:
        raise PrepareError(f"{path} cannot be prepared: {error.strerror}; is this root?") from None


def _open(path: Path, uid: int) -> int:
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        path.mkdir(mode=_DIRECTORY)
    except FileExistsError:
        found = path.lstat()
        if stat.S_ISLNK(found.st_mode):
            raise PrepareError(f"{path} is a symbolic link: name what it leads to, or remove it") from None
        if not stat.S_ISDIR(found.st_mode):
            raise PrepareError(f"{path} is in the way: it is no directory") from None
        if found.st_uid not in {0, uid}:
            raise PrepareError(
                f"{path} is user {found.st_uid}'s, not root's nor {uid}'s: if that is an agent that "
                f"ran as another user, `chown root {path}`"
            ) from None
    # O_PATH: its mode may forbid even root to read it, until it is root's.
    return os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)


def _hand_over(directory: int, path: Path, uid: int, gid: int) -> None:
    found = os.fstat(directory)
    if found.st_uid not in {0, uid}:
        raise PrepareError(f"{path} was exchanged for another meanwhile")
    here = f"/proc/self/fd/{directory}"  # what is held, whatever its name leads to by now
    os.chown(here, 0, 0)
    os.chmod(here, _DIRECTORY)  # noqa: PTH101 - no path
    # From here on it is nobody's but ours: what is looked at stays what it is.
    names = sorted(os.listdir(here))  # noqa: PTH208 - no path
    try:
        for name in names:
            _check(directory, path / name, name, uid)
        for name in names:
            os.chown(name, 0, 0, dir_fd=directory, follow_symlinks=False)
            os.chmod(name, _FILE, dir_fd=directory)
            os.chown(name, uid, gid, dir_fd=directory, follow_symlinks=False)
    except PrepareError:
        os.chmod(here, stat.S_IMODE(found.st_mode))  # noqa: PTH101 - no path
        os.chown(here, found.st_uid, found.st_gid)
        raise
    os.chown(here, uid, gid)


def _check(directory: int, path: Path, name: str, uid: int) -> None:
    found = os.stat(name, dir_fd=directory, follow_symlinks=False)
    if not stat.S_ISREG(found.st_mode):
        raise PrepareError(f"{path} is no file of an agent: remove it")
    if found.st_uid not in {0, uid}:
        raise PrepareError(f"{path} is user {found.st_uid}'s, not root's nor {uid}'s: remove it")
    if found.st_uid == 0 and found.st_nlink != 1:
        # The agent's user could have made that one, and would be given another file of root's.
        raise PrepareError(f"{path} is a second name for a file of root's: remove it")
