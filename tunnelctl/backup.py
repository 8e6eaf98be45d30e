"""`tunnelctl backup FILE`: authority and state in one file.

Without one, a lost disk is a visit to every edge.
"""

from __future__ import annotations

import getpass
import json
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from tunnelctl.errors import CommandError, RefusedError, UsageError
from tunnelctl.local_server import add_arguments, find_server, open_state, state_errors

if TYPE_CHECKING:
    import argparse

MIN_PASSPHRASE = 12


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `backup`; sets `run`."""
    parser = subparsers.add_parser(
        "backup",
        help="write authority and state to one file",
        description="Write everything in the state directory to one file (mode 0600), encrypted with a "
        "passphrase. The server may run meanwhile. Whoever can read it can be any node.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="must not exist yet")
    add_passphrase_argument(parser)
    parser.add_argument("--no-encryption", action="store_true", help="write the authority's key in the clear")
    add_arguments(parser)
    parser.set_defaults(run=run)


def add_passphrase_argument(parser: argparse.ArgumentParser) -> None:
    """Add `--passphrase-file`."""
    parser.add_argument(
        "--passphrase-file",
        type=Path,
        metavar="FILE",
        help="its first line is the passphrase; default: asked for on the terminal",
    )


def run(args: argparse.Namespace) -> int:
    """Write a backup; raises CommandError, and then there is no file."""
    from certs.backup import BackupError, make_backup

    if args.no_encryption and args.passphrase_file:
        raise UsageError("--no-encryption and --passphrase-file exclude each other")
    path: Path = args.file
    if path.exists():
        raise RefusedError(f"{path} exists: name another file, or remove it")
    with state_errors():
        state = open_state(find_server(args))
        passphrase = None if args.no_encryption else read_passphrase(args.passphrase_file, again=True)
        try:
            data = make_backup(state, passphrase)
        except BackupError as error:
            raise CommandError(str(error)) from None
    _write(path, data)
    if args.json:
        report = {"file": str(path), "bytes": len(data), "encrypted": passphrase is not None}
        print(json.dumps(report, indent=1))
    else:
        how = "not encrypted: keep it as you would the key itself" if passphrase is None else "encrypted"
        print(f"wrote {path}, {len(data)} bytes, {how}; `tunnelctl restore` reads it")
    return 0


def read_passphrase(path: Path | None, *, again: bool) -> bytes:
    """Return the passphrase from a file or the terminal, there twice if `again`; raises UsageError."""
    if path is not None:
        try:
            text = path.read_text().partition("\n")[0]
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is no text"
            raise UsageError(f"--passphrase-file: {path}: {reason}") from None
    elif sys.stdin.isatty():
        text = getpass.getpass("passphrase: ")
        if again and getpass.getpass("again: ") != text:
            raise UsageError("the two differ: nothing was done")
    else:
        raise UsageError("there is no terminal to ask for a passphrase: name a file, --passphrase-file")
    if again and len(text) < MIN_PASSPHRASE:
        raise UsageError(f"the passphrase has {len(text)} characters: take at least {MIN_PASSPHRASE}")
    return text.encode()


def _write(path: Path, data: bytes) -> None:
    """Write a new file of mode 0600, whole or not at all; never over another."""
    part = path.with_name(f".{path.name}.{os.getpid()}.new")
    try:
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(descriptor)
        os.link(part, path)  # a rename would replace what came meanwhile
    except FileExistsError:
        raise RefusedError(f"{path} exists: name another file, or remove it") from None
    except OSError as error:
        raise CommandError(f"{path} cannot be written: {error.strerror}") from None
    finally:
        part.unlink(missing_ok=True)
