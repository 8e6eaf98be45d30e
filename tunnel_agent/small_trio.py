"""Imports trio without what it loads for uses that an idle agent does not have: 1.4 MiB, and a process.

trio 0.35 imports ctypes and ctypes.util so that `top` can show names for its threads, and has ldconfig run
at each start to find libpthread; with Python 3.11, ctypes.util loads shutil, tempfile and all compression. It
imports idna for names that are not ASCII, and subprocess for `trio.run_process`: 0.2 MiB that come back once
`apart` has run something.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from types import ModuleType
from typing import Any, NoReturn


class _Later(ModuleType):
    """In place of a module that is loaded once something of it is asked for."""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - as a module's
        if name.startswith("__"):  # the import system asks, and anybody who looks at all modules
            raise AttributeError(name)
        if sys.modules.get(self.__name__) is self:
            del sys.modules[self.__name__]
        return getattr(import_module(self.__name__), name)


def import_trio() -> None:
    """Import trio so that its threads stay without names, and idna and subprocess wait for their first use.

    Where trio or one of those modules is imported already, it stays as it is. Whoever imports one of them
    afterwards gets the real one; meanwhile nobody may, so it is for a process that has one thread yet. Raises
    ImportError as `import trio` does.
    """
    stand_ins = {name: _Later(name) for name in ("idna", "subprocess") if name not in sys.modules}
    # Where Python was built without pidfd_open, trio takes libc's by ctypes.
    if "ctypes" not in sys.modules and hasattr(os, "pidfd_open"):
        stand_ins |= _no_ctypes()
    sys.modules.update(stand_ins)
    try:
        import trio  # noqa: F401
    finally:
        for name, stand_in in stand_ins.items():
            if sys.modules.get(name) is stand_in:
                del sys.modules[name]


def _no_ctypes() -> dict[str, _Later]:
    """As where no libpthread is found and no library can be loaded: trio then goes on without names."""
    ctypes, util = _Later("ctypes"), _Later("ctypes.util")
    vars(util)["find_library"] = _find_none
    vars(ctypes).update(util=util, CDLL=_load_none)
    return {"ctypes": ctypes, "ctypes.util": util}


def _find_none(_name: str) -> None:
    pass


def _load_none(name: str) -> NoReturn:
    raise OSError(f"{name}: not looked for")
