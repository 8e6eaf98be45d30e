"""The whole state of a server in one file: authority, certificates, tokens, nodes, revocations, mappings.

Whoever reads it can be any node, so it is encrypted (scrypt, AES-256-GCM) unless that is expressly not
wanted.
The layout: one line of JSON that says what it is and how it is protected, then the payload: JSON with each
file's contents and SHA-256. The line is authenticated with the payload.
"""

import base64
import hashlib
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hmac import compare_digest

from cryptography import x509
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt

from certs.authority import CA_CERTIFICATE, CA_KEY
from certs.files import StateNotEmptyError
from certs.roll import NEXT_KEY
from certs.server_state import SERVER_CERTIFICATE, read_server
from certs.state import Change, State
from certs.subjects import is_issued_by

VERSION = 1
MAX_BACKUP = 256 * 1024 * 1024
"""Bytes."""
_AUTHORITY = (CA_CERTIFICATE, CA_KEY, NEXT_KEY)
_MAGIC = "edge-tunnel-backup"
_MAX_HEADER = 4096
_SCRYPT_N, _SCRYPT_R, _SCRYPT_P = 2**15, 8, 1  # 32 MiB and a tenth of a second (RFC 7914, section 2)


class BackupError(Exception):
    """The backup cannot be made or used; one line."""


@dataclass(frozen=True)
class Backup:
    """What a backup holds."""

    created: datetime
    files: Mapping[str, bytes]


def make_backup(state: State, passphrase: bytes | None, now: datetime | None = None) -> bytes:
    """Return a backup of every file in `state`, all of one moment; raises StateError, BackupError.

    Without `passphrase` it is not encrypted.
    """
    files = state.change(lambda _change: {name: state.read(name) for name in state.names()})
    for name in (CA_KEY, CA_CERTIFICATE):
        if name not in files:
            raise BackupError(f"{state} has no {name}: there is nothing that could be restored from it")
    created = (now or datetime.now(UTC)).isoformat(timespec="seconds")
    contents = {
        name: {"sha256": hashlib.sha256(data).hexdigest(), "data": base64.b64encode(data).decode()}
        for name, data in files.items()
    }
    payload = json.dumps({"files": contents}).encode()
    head: dict[str, object] = {"format": _MAGIC, "version": VERSION, "created": created}
    if passphrase is None:
        head |= {"encryption": "none", "sha256": hashlib.sha256(payload).hexdigest()}
        return _line(head) + payload
    salt, nonce = os.urandom(16), os.urandom(12)
    head |= {
        "encryption": "scrypt-aes-256-gcm",
        "n": _SCRYPT_N,
        "r": _SCRYPT_R,
        "p": _SCRYPT_P,
        "salt": salt.hex(),
        "nonce": nonce.hex(),
    }
    line = _line(head)
    return line + AESGCM(_key(passphrase, salt)).encrypt(nonce, payload, line)


def is_encrypted(data: bytes) -> bool:
    """Whether a backup takes a passphrase; raises BackupError if it is none."""
    return str(_head(data)[0]["encryption"]) != "none"


def read_backup(data: bytes, passphrase: bytes | None) -> Backup:
    """Read and check a whole backup; raises BackupError."""
    head, line, payload = _head(data)
    if head["encryption"] == "none":
        if not compare_digest(hashlib.sha256(payload).hexdigest(), str(head.get("sha256"))):
            raise BackupError("it is damaged: its checksum is wrong")
    else:
        payload = _decrypt(head, line, payload, passphrase)
    try:
        contents = json.loads(payload)["files"]
        files = {name: _checked(name, entry) for name, entry in contents.items()}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise BackupError("it is damaged: its contents cannot be read") from None
    return Backup(datetime.fromisoformat(str(head["created"])), files)


def restore_backup(backup: Backup, state: State) -> Sequence[str]:
    """Write all files to a place that must be empty, or none; raises BackupError, StateError.

    Returns the names of those that such a place does not keep.
    """
    try:
        return state.change(lambda change: change.fill(backup.files))
    except StateNotEmptyError as error:
        raise BackupError(str(error)) from None


def restore_authority(backup: Backup, state: State) -> Sequence[str]:
    """Put the authority alone back to a state that has lost it; everything else there stays.

    Returns the names of the files. Raises BackupError, also for an authority that is none of this state's,
    and StateError; then nothing was written.
    """
    files = {name: backup.files[name] for name in _AUTHORITY if name in backup.files}
    if not files.keys() >= {CA_CERTIFICATE, CA_KEY}:
        raise BackupError("it holds no authority")

    def put_back(change: Change) -> Sequence[str]:
        present = {name: state.read(name) for name in _AUTHORITY if state.exists(name)}
        if present == files:
            raise BackupError(f"{state} has that authority: nothing was changed")
        if any(files.get(name) != data for name, data in present.items()):
            raise BackupError(f"{state} has an authority already: nothing was changed")
        if state.exists(SERVER_CERTIFICATE):
            roots = x509.load_pem_x509_certificates(files[CA_CERTIFICATE])
            if not any(is_issued_by(read_server(state).certificate, root) for root in roots):
                raise BackupError(
                    f"its authority is not the one of {state.place(SERVER_CERTIFICATE)}, which the edges "
                    "know: take a later backup, or restore everything to an empty place"
                )
        change.write(files)
        return tuple(files)

    return state.change(put_back)


def _head(data: bytes) -> tuple[dict[str, object], bytes, bytes]:
    """Return the first line, read and as it is, and what is behind it; raises BackupError."""
    end = data.find(b"\n", 0, _MAX_HEADER) + 1
    line, payload = data[:end], data[end:]
    try:
        head: dict[str, object] = json.loads(line)
        if head["format"] != _MAGIC or not isinstance(head["encryption"], str):
            raise ValueError
        version = int(str(head["version"]))
        datetime.fromisoformat(str(head["created"]))
    except (ValueError, KeyError, TypeError, RecursionError):
        raise BackupError("it is no backup of a tunnel server") from None
    if version > VERSION:
        raise BackupError(f"it is of version {version}, and this tunnelctl reads up to {VERSION}: upgrade it")
    return head, line, payload


def _decrypt(head: Mapping[str, object], line: bytes, payload: bytes, passphrase: bytes | None) -> bytes:
    if head["encryption"] != "scrypt-aes-256-gcm":
        raise BackupError(f"it is encrypted in a way unknown here ({head['encryption']}): upgrade tunnelctl")
    if passphrase is None:
        raise BackupError("it is encrypted: name the file with its passphrase, --passphrase-file")
    # Taken as read, somebody else's numbers would decide how much memory is used.
    if [head.get(name) for name in "nrp"] != [_SCRYPT_N, _SCRYPT_R, _SCRYPT_P]:
        raise BackupError("it is encrypted with parameters unknown here: upgrade tunnelctl")
    try:
        salt, nonce = bytes.fromhex(str(head["salt"])), bytes.fromhex(str(head["nonce"]))
        return AESGCM(_key(passphrase, salt)).decrypt(nonce, payload, line)
    except (KeyError, ValueError):
        raise BackupError("it is damaged: its first line cannot be read") from None
    except InvalidTag:
        raise BackupError("the passphrase is another, or the file is damaged") from None


def _checked(name: str, entry: Mapping[str, str]) -> bytes:
    if "/" in name or name.startswith(".") or not name:
        raise ValueError(name)
    data = base64.b64decode(entry["data"], validate=True)
    if not compare_digest(hashlib.sha256(data).hexdigest(), entry["sha256"]):
        raise BackupError(f"it is damaged: the checksum of {name} is wrong")
    return data


def _key(passphrase: bytes, salt: bytes) -> bytes:
    return Scrypt(salt=salt, length=32, n=_SCRYPT_N, r=_SCRYPT_R, p=_SCRYPT_P).derive(passphrase)


def _line(head: Mapping[str, object]) -> bytes:
    return json.dumps(head).encode() + b"\n"
