"""A directory of secrets and state: private, locked, and changed as a whole or not at all.

Several files often belong together (a key and its certificate; tokens and the nodes they made). They are
changed in one transaction: new contents are written beside the old, a small record names them (that is the
moment of the change), then they are renamed. A crash in between is repaired by whoever opens the directory
next. Standard library only, because a running agent needs this and must not load `cryptography`.
"""

import errno
import fcntl
import json
import os
import stat
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

from certs.state import Result

_RECORD = ".pending"
_NEW = ".new"
_MAX_FILE = 32 * 1024 * 1024  # bytes; nothing of ours comes near


class StateError(Exception):
    """Something about the directory or a file in it; the message is one line with the remedy."""


class StateUnavailableError(StateError):
    """Where the state is cannot be reached now, while nothing is wrong with it; later it may be."""


class StateNotEmptyError(StateError):
    """There are files already where there must be none."""


class StateDirectory:
    """One such directory, a `certs.state.State`. Safe for several threads and several processes."""

    def __init__(self, path: Path) -> None:
        """Take an existing directory; raises StateError if it is missing or others could change it."""
        self.path = path
        try:
            found = path.stat()
        except FileNotFoundError:
            raise StateError(f"{path} does not exist") from None
        except OSError as error:
            raise StateError(f"{path} cannot be used: {error.strerror}") from None
        if not stat.S_ISDIR(found.st_mode):
            raise StateError(f"{path} is not a directory")
        if found.st_mode & 0o022:
            raise StateError(
                f"{path} can be changed by others (mode {stat.S_IMODE(found.st_mode):04o}): "
                f"run `chmod go-w {path}`"
            )
        self._owner = (found.st_uid, found.st_gid)
        if self.exists(_RECORD):
            with self.transaction():
                pass  # entering one repairs

    @classmethod
    def create(cls, path: Path) -> "StateDirectory":
        """Make the directory (0700, parents too) unless it is there; raises StateError."""
        try:
            path.mkdir(mode=0o700, parents=True, exist_ok=True)
        except (FileExistsError, NotADirectoryError):
            raise StateError(f"{path} is in the way: it is no directory") from None
        except OSError as error:
            raise StateError(f"{path} cannot be made: {error.strerror}") from None
        return cls(path)

    @classmethod
    @contextmanager
    def prepared(cls, path: Path) -> Iterator["StateDirectory"]:
        """Do as `create`; if the block fails, remove the directories that were made and are empty."""
        missing = [each for each in (path, *path.parents) if not each.exists()]
        try:
            yield cls.create(path)
        except BaseException:
            for each in missing:
                with suppress(OSError):
                    each.rmdir()
            raise

    def __str__(self) -> str:
        return str(self.path)

    def place(self, name: str) -> str:
        """Return the path of the file `name`."""
        return str(self.path / name)

    def names(self) -> list[str]:
        """Return the names of all files, sorted; raises StateError."""
        try:
            return sorted(
                each.name for each in self.path.iterdir() if each.is_file() and not each.name.startswith(".")
            )
        except OSError as error:
            raise StateError(f"{self.path} cannot be read: {error.strerror}") from None

    def version(self, *names: str) -> object:
        """Return what differs when one of the files was replaced: a few stat calls. Raises nothing."""
        return tuple(map(self._version, names))

    def _version(self, name: str) -> tuple[int, int, int] | None:
        try:
            found = (self.path / name).stat()
        except OSError:
            return None
        return found.st_ino, found.st_mtime_ns, found.st_size

    def change(self, body: Callable[["Transaction"], Result]) -> Result:
        """Run `body` in a transaction; raises StateError."""
        with self.transaction() as transaction:
            return body(transaction)

    def exists(self, name: str) -> bool:
        """Whether there is a file `name`; raises StateError if that cannot be told."""
        try:
            (self.path / name).stat()
        except FileNotFoundError:
            return False
        except OSError as error:
            raise StateError(f"{self.path / name} cannot be looked at: {error.strerror}") from None
        return True

    def read(self, name: str) -> bytes:
        """Read one file, always a whole version of it; raises StateError, also if it is missing."""
        return self._read(name, secret=False)

    def read_secret(self, name: str) -> bytes:
        """Read a key; raises StateError also if users other than its owner may read it."""
        return self._read(name, secret=True)

    def _read(self, name: str, *, secret: bool) -> bytes:
        path = self.path / name
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                if secret and found.st_mode & 0o077:
                    raise StateError(
                        f"{path} can be read by others (mode {stat.S_IMODE(found.st_mode):04o}): "
                        f"run `chmod 600 {path}`, and replace the key if somebody may have read it"
                    )
                data = file.read(_MAX_FILE + 1)
        except FileNotFoundError:
            raise StateError(f"{path} does not exist") from None
        except OSError as error:
            raise StateError(f"{path} cannot be read: {_why(error)}") from None
        if len(data) > _MAX_FILE:
            raise StateError(f"{path} is larger than {_MAX_FILE} bytes")
        return data

    @contextmanager
    def transaction(self, wait: float = 10.0) -> Iterator["Transaction"]:
        """Hold the directory against every other process and thread that asks the same.

        `wait` is in seconds; raises StateError when somebody else still holds it then. Blocks: from trio,
        call in a thread. Not re-entrant.
        """
        # The directory itself is locked: a lock file would be one more thing to leave behind.
        try:
            lock = os.open(self.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        except OSError as error:
            raise StateError(f"{self.path} cannot be opened: {_why(error)}") from None
        try:
            deadline = time.monotonic() + wait
            while True:
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    break
                except BlockingIOError:
                    if time.monotonic() >= deadline:
                        raise StateError(
                            f"{self.path} is in use by another process: try again when it is done"
                        ) from None
                    time.sleep(0.01)
            transaction = Transaction(self.path, lock, self._owner)
            try:
                transaction.repair()
            except OSError as error:
                raise StateError(f"{self.path} cannot be repaired: {error.strerror}") from None
            yield transaction
        finally:
            os.close(lock)


def is_whole(path: Path) -> bool:
    """Whether nothing is left to be finished in a directory of ours: taking it then changes nothing."""
    return not (path / _RECORD).exists()


class Transaction:
    """A held StateDirectory; made by `StateDirectory.transaction` and valid inside it."""

    def __init__(self, path: Path, descriptor: int, owner: tuple[int, int]) -> None:
        self._path = path
        self._descriptor = descriptor
        self._owner = owner

    def write(self, files: Mapping[str, bytes], remove: Iterable[str] = ()) -> None:
        """Replace all of `files` (name to contents, mode 0600) and remove others, or nothing of it.

        On disk when it returns. Raises StateError, as with a full disk, and then nothing has changed.
        """
        gone = sorted(set(remove) - set(files))
        several = len(files) + len(gone) > 1
        try:
            for name, data in files.items():
                self._put(name + _NEW, data)
            if several:
                record = {"write": sorted(files), "remove": gone}
                self._put(_RECORD + _NEW, json.dumps(record).encode())
                self._rename(_RECORD)
        except OSError as error:
            self._discard()
            raise StateError(
                f"{self._path} cannot be written: {error.strerror}; nothing was changed"
            ) from None
        try:
            for name in files:
                self._rename(name)
            for name in gone:
                self._remove(name)
            os.fsync(self._descriptor)
            if several:
                self._unlink(_RECORD)
                os.fsync(self._descriptor)
        except OSError as error:
            raise StateError(f"{self._path} cannot be written: {error.strerror}") from None

    def fill(self, files: Mapping[str, bytes]) -> tuple[str, ...]:
        """Write `files` to a directory that is empty; raises StateNotEmptyError if it is not."""
        if present := sorted(os.listdir(self._descriptor)):  # noqa: PTH208 - as below
            raise StateNotEmptyError(
                f"{self._path} is not empty ({present[0]}): restore into another --state-dir, or move it away"
            )
        self.write(files)
        return ()

    def check_room(self, size: int) -> None:
        """Raise StateError unless `size` bytes can be written: to ask before doing what is done only once."""
        try:
            self._put("room" + _NEW, bytes(size))
        except OSError as error:
            raise StateError(
                f"{self._path} cannot be written: {error.strerror}; nothing was changed"
            ) from None
        finally:
            self._discard()

    def repair(self) -> None:
        """Finish a change that was decided, and drop one that was not; raises OSError."""
        try:
            record = json.loads((self._path / _RECORD).read_bytes())
        except FileNotFoundError:
            self._discard()
            return
        except ValueError:
            record = []  # cannot happen with a rename after fsync; what it named is left as it is
        if isinstance(record, list):  # as versions wrote it that removed nothing
            record = {"write": record, "remove": []}
        for name in record["write"]:
            with suppress(FileNotFoundError):
                self._rename(str(name))
        for name in record["remove"]:
            self._remove(str(name))
        os.fsync(self._descriptor)
        self._unlink(_RECORD)

    def _put(self, name: str, data: bytes) -> None:
        self._unlink(name)
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
        descriptor = os.open(_hidden(name), flags, 0o600, dir_fd=self._descriptor)
        with os.fdopen(descriptor, "wb") as file:
            if os.geteuid() == 0 and self._owner != (0, 0):
                # tunnelctl runs as root, the server perhaps does not: it must be able to read its files.
                os.fchown(descriptor, *self._owner)
            os.fchmod(descriptor, 0o600)
            file.write(data)
            file.flush()
            os.fsync(descriptor)

    def _rename(self, name: str) -> None:
        os.rename(_hidden(name + _NEW), name, src_dir_fd=self._descriptor, dst_dir_fd=self._descriptor)
        if name == _RECORD:
            os.fsync(self._descriptor)

    def _remove(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(name, dir_fd=self._descriptor)

    def _unlink(self, name: str) -> None:
        with suppress(FileNotFoundError):
            os.unlink(_hidden(name), dir_fd=self._descriptor)

    def _discard(self) -> None:
        for name in os.listdir(self._descriptor):  # noqa: PTH208 - a directory that is held, not a path
            if name.startswith(".") and name.endswith(_NEW):
                with suppress(OSError):
                    os.unlink(name, dir_fd=self._descriptor)


def _why(error: OSError) -> str:
    text = error.strerror or str(error)
    limit = " (LimitNOFILE= in its unit, elsewhere `ulimit -n`)"
    return text + limit if error.errno == errno.EMFILE else text


def _hidden(name: str) -> str:
    return name if name.startswith(".") else f".{name}"
