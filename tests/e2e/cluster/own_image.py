"""Our image, of this checkout: Python and libraries are this computer's, in the versions of its environment.

What it lacks beside the image that the project's recipe makes is Debian: no shell, no other program.
"""

import importlib.metadata
import io
import re
import subprocess
import sys
import sysconfig
import tarfile
from collections.abc import Iterator
from pathlib import Path

from packaging.requirements import Requirement

import tunnel_wire
from tests.e2e.cluster import images

NAME = f"edge-tunnel:{tunnel_wire.__version__}"
_SOURCE = Path(__file__).parents[3]
_PACKAGES = ("certs", "tunnel_agent", "tunnel_daemon", "tunnel_server", "tunnel_wire", "tunnelctl")
_PROGRAMS = {"tunnel-agent": "tunnel_agent", "tunnel-server": "tunnel_server", "tunnelctl": "tunnelctl"}
_EXTRAS = ("", "agent", "server")
_LIBRARY = f"usr/lib/python{sys.version_info.major}.{sys.version_info.minor}"
_LEFT_OUT = {
    "ensurepip",
    "idlelib",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "test",
    "tkinter",
    "turtledemo",
}


def write(path: Path) -> None:
    """Write it as an archive that containerd imports."""
    config = {"Env": ["PATH=/usr/bin:/bin"], "Entrypoint": ["/usr/bin/tunnel-server"]}
    images.write_images(path, [_python(), _packages()], {f"docker.io/library/{NAME}": config})


def _python() -> bytes:
    """The interpreter, its standard library, and the shared objects that all of it needs."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        interpreter = Path(sys.executable).resolve()
        archive.add(interpreter, "usr/bin/python3")
        archive.add(sysconfig.get_path("stdlib"), _LIBRARY, filter=_standard)
        for folder, mode in (
            ("etc", 0o755),
            ("proc", 0o755),
            ("run", 0o755),
            ("tmp", 0o1777),
            ("var", 0o755),
        ):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, mode
            archive.addfile(entry)
        modules = Path(sysconfig.get_path("stdlib"), "lib-dynload").glob("*.so")
        for library in _shared([interpreter, *modules, *_distributed(".so")]):
            # The loader is where the programs say, the others are where it looks.
            loader = library.name.startswith("ld-linux")
            archive.add(library.resolve(), str(library).lstrip("/") if loader else f"usr/lib/{library.name}")
    return content.getvalue()


def _packages() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for file in _distributed(""):
            archive.add(file, f"{_LIBRARY}/site-packages/{_place(file)}", filter=_readable)
        for package in _PACKAGES:
            archive.add(_SOURCE / package, f"{_LIBRARY}/site-packages/{package}", filter=_readable)
        for name, package in _PROGRAMS.items():
            script = (
                f"#!/usr/bin/python3\nimport sys\nfrom {package}.cli import main\nsys.exit(main())\n".encode()
            )
            entry = tarfile.TarInfo(f"usr/bin/{name}")
            entry.size, entry.mode = len(script), 0o755
            archive.addfile(entry, io.BytesIO(script))
    return content.getvalue()


def _distributed(suffix: str) -> Iterator[Path]:
    """The files of what we need at run time, that end so."""
    for name in _needed("edge-tunnel", _EXTRAS, set()):
        for file in importlib.metadata.distribution(name).files or ():
            if ".." not in file.parts and str(file).endswith(suffix):
                yield Path(str(file.locate()))


def _needed(name: str, extras: tuple[str, ...], found: set[str]) -> set[str]:
    for text in importlib.metadata.distribution(name).requires or ():
        wanted = Requirement(text)
        applies = wanted.marker is None or any(wanted.marker.evaluate({"extra": extra}) for extra in extras)
        if applies and wanted.name not in found:
            found.add(wanted.name)
            _needed(wanted.name, ("", *wanted.extras), found)
    return found


def _place(file: Path) -> str:
    packages = str(Path(sysconfig.get_path("purelib")))
    return str(file).removeprefix(packages).lstrip("/")


def _shared(files: list[Path]) -> set[Path]:
    said = subprocess.run(["ldd", *files], capture_output=True, text=True, check=True).stdout
    return {Path(found) for found in re.findall(r"(/\S*\.so[.\d]*) \(0x", said)}


def _standard(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    inner = Path(entry.name).relative_to(_LIBRARY).parts
    left_out = inner and (inner[0] in _LEFT_OUT or inner[0].startswith("config-"))
    return None if left_out else _readable(entry)


def _readable(entry: tarfile.TarInfo) -> tarfile.TarInfo:
    """Nobody's in particular, and everybody may read it: the agent is not root."""
    entry.uid = entry.gid = 0
    entry.mode |= 0o755 if entry.isdir() or entry.mode & 0o100 else 0o644
    return entry
