"""`tunnelctl restore FILE`: a backup becomes a state directory, on this host or another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from tunnelctl.backup import add_passphrase_argument, read_passphrase
from tunnelctl.errors import CommandError, RefusedError
from tunnelctl.local_server import add_arguments, find_server, open_state, prepared_state, state_errors
from tunnelctl.tables import iso

if TYPE_CHECKING:
    import argparse

    from certs.backup import Backup


def add_parser(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add `restore`; sets `run`."""
    parser = subparsers.add_parser(
        "restore",
        help="make a state directory from a backup",
        description="Write what a backup holds to a state directory that is empty or not there yet. All is "
        "checked first; it is restored as a whole, or nothing is (in a cluster, one that was interrupted is "
        "finished by the same command). Agents come by themselves once their server's address leads there.",
    )
    parser.add_argument("file", type=Path, metavar="FILE", help="as `tunnelctl backup` wrote it")
    parser.add_argument(
        "--authority",
        action="store_true",
        help="only the authority's certificate and key, into state that has lost just these",
    )
    add_passphrase_argument(parser)
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Restore; raises CommandError, and then nothing was."""
    from certs.backup import MAX_BACKUP, BackupError, is_encrypted, read_backup

    path: Path = args.file
    try:
        with path.open("rb") as file:
            data = file.read(MAX_BACKUP + 1)
    except OSError as error:
        raise CommandError(f"{path} cannot be read: {error.strerror}") from None
    if len(data) > MAX_BACKUP:
        raise CommandError(f"{path}: it is larger than {MAX_BACKUP} bytes")
    try:
        encrypted = is_encrypted(data)
        passphrase = read_passphrase(args.passphrase_file, again=False) if encrypted else None
        backup = read_backup(data, passphrase)
    except BackupError as error:
        raise CommandError(f"{path}: {error}") from None
    if args.authority:
        return _authority(args, backup)
    return _everything(args, backup)


def _authority(args: argparse.Namespace, backup: Backup) -> int:
    from certs.backup import BackupError, restore_authority

    with state_errors():
        state = open_state(find_server(args))
        try:
            files = restore_authority(backup, state)
        except BackupError as error:
            raise RefusedError(str(error)) from None
    if args.json:
        report = {"state_dir": str(state), "created": iso(backup.created), "files": sorted(files)}
        print(json.dumps(report, indent=1))
    else:
        print(
            f"put the authority of {backup.created:%Y-%m-%d %H:%M} UTC back to {state}: all else is as it was"
        )
    return 0


def _everything(args: argparse.Namespace, backup: Backup) -> int:
    from certs.backup import BackupError, restore_backup

    server = find_server(args, make=True)
    with state_errors(), prepared_state(server) as state:
        try:
            left_out = restore_backup(backup, state)
        except BackupError as error:
            raise RefusedError(str(error)) from None
    if args.json:
        report = {
            "state_dir": str(state),
            "created": iso(backup.created),
            "files": sorted(backup.files.keys() - set(left_out)),
            "left_out": list(left_out),
        }
        print(json.dumps(report, indent=1))
    else:
        number = len(backup.files) - len(left_out)
        print(f"restored {number} files of {backup.created:%Y-%m-%d %H:%M} UTC to {state}")
        if left_out:
            print(f"left out: {', '.join(left_out)}; in a cluster, `tunnelctl map-port` maps the ports anew")
        print("what was revoked since then has to be revoked again; a token used since then serves once more")
    return 0
