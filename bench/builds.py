"""Which build of this project is measured: the compiled one where `make compiled` made it, or the other.

Both are here at once: the tree itself, and `build/compiled`, which holds the same files and their libraries.
Programs are told by PYTHONPATH which of them to take. What the suite runs of ours in its own processes
(`bench.light_agents`, `bench.flooder`) is the tree's, whichever build they are put beside.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from itertools import chain
from pathlib import Path
from typing import Literal

from bench.checkout import ROOT

OURS = "edge-tunnel"
"""The name of what this project recommends to run: its compiled build where there is one."""
OURS_INTERPRETED = f"{OURS} (interpreted)"
OURS_COMPILED = f"{OURS} (compiled)"
"""The name under which it is listed where it is not there, and `OURS` is the interpreted one."""
MAKE = "make compiled"
NOT_BUILT = f"not built ({MAKE})"
LIBRARY = "tunnel_wire__mypyc"  # setup.py: the one that all compiled modules are in
_SOURCES = ("tunnel_*/**/*.py", "tunnelctl/**/*.py", "certs/**/*.py")
_RECIPE = ("setup.py", "pyproject.toml")  # which modules are compiled, and with what


@dataclass(frozen=True)
class Build:
    """One of the two, and where its packages are."""

    name: Literal["compiled", "interpreted"]
    folder: Path

    @property
    def environment(self) -> Mapping[str, str]:
        """What a program needs so that it is this one, wherever it is started.

        With bytecode, as whatever is installed: to compile it at the start is in an agent's peak of memory.
        """
        return {"PYTHONPATH": str(self.folder), "PYTHONDONTWRITEBYTECODE": ""}

    def unusable(self, root: Path = ROOT) -> str:
        """Why it can't be measured, with the remedy: not built, or not of what is at `root`; empty if it can.

        Raises OSError for sources that can't be read.
        """
        if self.name == "interpreted":
            return ""
        made = self.folder / ".made"
        if not made.exists():
            return NOT_BUILT
        if not any((self.folder / f"{LIBRARY}{suffix}").exists() for suffix in EXTENSION_SUFFIXES):
            return self._stale(root, "is for another Python")
        recipe = [name for name in _RECIPE if (root / name).stat().st_mtime > made.stat().st_mtime]
        for name in chain(recipe, _differing(root, self.folder)):
            return self._stale(root, f"is older than {name}")
        return ""

    def wrong(self, pid: int) -> str:
        """Why a process is not of this build, by the libraries that it has loaded; empty if it is.

        To be asked once it serves: before, nothing is loaded. Raises OSError if there is no such process.
        """
        lines = Path(f"/proc/{pid}/maps").read_text().splitlines()
        loaded = {line.split(maxsplit=5)[-1] for line in lines if LIBRARY in line}
        if self.name == "compiled":
            if not loaded:
                return "it runs interpreted, and was to run compiled"
            loaded = {path for path in loaded if not Path(path).is_relative_to(self.folder.resolve())}
        return f"it has loaded {min(loaded)}, and was to run {self._said}" if loaded else ""

    @property
    def _said(self) -> str:
        return f"what is in {self.folder}" if self.name == "compiled" else self.name

    def _stale(self, root: Path, why: str) -> str:
        folder = os.path.relpath(self.folder, root)
        return f"{folder} {why}: rm -r {folder}, then {MAKE}"


def _differing(root: Path, folder: Path) -> list[str]:
    """The first source whose text is not what was built, if any. By content: an edit may have come while it
    was being built, or with the time of long ago.
    """
    ours, theirs = (
        {path.relative_to(top) for glob in _SOURCES for path in top.glob(glob)} for top in (root, folder)
    )
    for name in sorted(ours | theirs):
        if name in ours ^ theirs or (root / name).read_bytes() != (folder / name).read_bytes():
            return [str(name)]
    return []


INTERPRETED = Build("interpreted", ROOT)
COMPILED = Build("compiled", ROOT / "build" / "compiled")
BUILDS = {build.name: build for build in (INTERPRETED, COMPILED)}


def product() -> Build:
    """What `OURS` stands for now."""
    return INTERPRETED if COMPILED.unusable() else COMPILED
