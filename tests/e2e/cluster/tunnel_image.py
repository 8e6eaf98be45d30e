"""The tunnel's image, as deploy/image makes it, without a registry and without a container.

`python -m tests.e2e.cluster.tunnel_image` makes it and says how large it is, with `--architecture` that of
another computer. What takes long, Debian and the dependencies, is kept beside the cluster's programs and made
again when the lock or the recipe changes. The compiler is this computer's own, for another architecture too:
emulated, it would take many times as long.
"""

import argparse
import hashlib
import io
import os
import shutil
import stat
import subprocess
import sys
import tarfile
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path

import pip

import tunnel_wire
from tests.e2e.cluster import emulation, images
from tests.e2e.cluster.components import cache

NAME = f"edge-tunnel:{tunnel_wire.__version__}"
CONFIG = {
    "User": "65532:65532",
    "Env": [
        "PATH=/opt/edge-tunnel/bin:/usr/bin:/bin",
        "HOME=/",
        "LANG=C.UTF-8",
        "PYTHONDONTWRITEBYTECODE=1",
    ],
    "Cmd": ["tunnelctl", "--help"],
}
"""As in deploy/image/Containerfile."""

_SOURCE = Path(__file__).parents[3]
_INSTALL, _LOCK = Path("deploy/image/install.py"), Path("requirements/runtime.txt")
_COMPILE_LOCK = Path("requirements/compile.txt")
_SUITE, _PACKAGES, _PYTHON = "bookworm", "python3", "3.11"
_COMPILER = "python3,gcc,python3-dev"
_CROSS_COMPILER = "python3,gcc-{machine}-linux-gnu,libpython3-dev:{architecture}"
_UNUSED = (
    "usr/share", "usr/games", "var/cache", "var/lib/apt", "var/lib/dpkg", "var/log", "etc/apt",
)  # fmt: skip
_ONLY_TO_COMPILE = ("usr/include", "usr/lib/python3")
_OURS = ("certs", "tunnel_agent", "tunnel_daemon", "tunnel_server", "tunnel_wire", "tunnelctl")
_USERS = "root:x:0:0:root:/:/usr/sbin/nologin\nedge-tunnel:x:65532:65532::/:/usr/sbin/nologin\n"
_GROUPS = "root:x:0:\nedge-tunnel:x:65532:\n"


_KEPT = 8
"""Each change of the sources makes two more, of 120 MiB; somebody may be at work with those of before."""


class ImageError(Exception):
    """It cannot be made; one line."""


def archive(architecture: str = emulation.NATIVE) -> Path:
    """Return an archive in OCI's layout; containerd imports it as `docker.io/library/NAME`.

    Raises ImageError; NotEmulatedError where it has to be made and this computer cannot run what is in it.
    """
    base = cache.make(_base_name(architecture), lambda folder: _make_base(folder, architecture))
    compiler = cache.make(_compiler_name(architecture), lambda folder: _make_compiler(folder, architecture))
    digest = hashlib.sha256(f"{base.name} {compiler.name}".encode())
    for file in _sources():
        digest.update(f"{file.relative_to(_SOURCE)}\n".encode() + file.read_bytes())
    name = f"image-{digest.hexdigest()[:16]}"
    made = cache.make(name, lambda folder: _make(base, compiler, folder, architecture))
    made.touch()  # the newest by its use
    cache.forget("image-" + "[0-9a-f]" * 16, _KEPT)
    return made / "edge-tunnel.tar"


def _base_name(architecture: str) -> str:
    unused = (*_UNUSED, *_ONLY_TO_COMPILE)
    digest = hashlib.sha256(repr((_SUITE, _PACKAGES, unused, _USERS, architecture)).encode())
    for file in (_INSTALL, _LOCK):
        digest.update((_SOURCE / file).read_bytes())
    return f"image-base-{digest.hexdigest()[:16]}"


def _compiler_name(architecture: str) -> str:
    digest = hashlib.sha256(repr((_SUITE, _compiler_packages(architecture), _UNUSED)).encode())
    digest.update((_SOURCE / _COMPILE_LOCK).read_bytes())
    return f"image-compiler-{digest.hexdigest()[:16]}"


def _sources() -> Iterator[Path]:
    yield from (_SOURCE / "pyproject.toml", _SOURCE / "setup.py", _SOURCE / "README.md")
    for package in _OURS:
        for file in sorted((_SOURCE / package).rglob("*")):
            if file.is_file() and "__pycache__" not in file.parts:
                yield file


def _make_base(folder: Path, architecture: str) -> None:
    """Debian's Python and the locked dependencies, as a folder `root` and as a layer."""
    root, wheels = folder / "root", folder / "wheels"
    _unpack(root, architecture, _PACKAGES, unused=(*_UNUSED, *_ONLY_TO_COMPILE))
    (root / "etc/passwd").write_text(_USERS)
    (root / "etc/group").write_text(_GROUPS)
    _run(
        sys.executable, "-m", "pip", "download", "--quiet", "--require-hashes", "--only-binary=:all:",
        f"--python-version={_PYTHON}", *_platforms(architecture), f"--dest={wheels}", "-r", _SOURCE / _LOCK,
    )  # fmt: skip
    words = ("--wheels=/source/wheels", "--requirements=/source/runtime.txt")
    _install(root, architecture, *words, files=[_SOURCE / _LOCK], wheels=wheels)
    shutil.rmtree(wheels)
    (folder / "layer.tar").write_bytes(_layer(root, root.rglob("*")))


def _compiler_packages(architecture: str) -> str:
    if architecture == emulation.NATIVE:
        return _COMPILER
    machine = emulation.MACHINES[architecture].replace("_", "-")
    return _CROSS_COMPILER.format(machine=machine, architecture=architecture)


def _make_compiler(folder: Path, architecture: str) -> None:
    """Debian's compiler and Python, and in /build what else compiles: the recipe's stage `wheel`."""
    root = folder / "root"
    both = ",".join(dict.fromkeys((emulation.NATIVE, architecture)))
    _unpack(root, both, _compiler_packages(architecture), unused=_UNUSED)
    _run("chroot", root, "/usr/bin/python3", "-B", "-m", "venv", "--without-pip", "/build")
    packages = root / "build/lib" / f"python{_PYTHON}" / "site-packages"
    _run(
        sys.executable, "-m", "pip", "install", "--quiet", "--require-hashes", "--only-binary=:all:",
        "--no-compile", f"--python-version={_PYTHON}", *_platforms(emulation.NATIVE),
        f"--target={packages}", "-r", _SOURCE / _COMPILE_LOCK,
    )  # fmt: skip
    shutil.copytree(Path(pip.__file__).parent, packages / "pip")


def _unpack(root: Path, architectures: str, packages: str, *, unused: Iterable[str]) -> None:
    what = (f"--architectures={architectures}", "--variant=extract", f"--include={packages}")
    _run("mmdebstrap", *what, "--quiet", _SUITE, root)
    for each in unused:
        shutil.rmtree(root / each, ignore_errors=True)


def _make(base: Path, compiler: Path, folder: Path, architecture: str) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as temporary:  # links stay within a file system
        root = Path(temporary, "root")
        wheel = _compile(compiler, Path(temporary, "compiler"), architecture)
        shutil.copytree(base / "root", root, symlinks=True)
        before = {path: _identity(path) for path in root.rglob("*")}
        _install(root, architecture, f"--wheel=/source/{wheel.name}", files=[wheel])
        changed = [path for path in root.rglob("*") if _identity(path) != before.get(path)]
        layers = [(base / "layer.tar").read_bytes(), _layer(root, changed)]
    named = {f"docker.io/library/{NAME}": CONFIG}
    images.write_images(folder / "edge-tunnel.tar", layers, named, architecture=architecture)


def _compile(compiler: Path, root: Path, architecture: str) -> Path:
    """By Debian's own: another Python's or a newer libc's would not be found there."""
    shutil.copytree(compiler / "root", root, symlinks=True, copy_function=os.link)
    _add_folders(root)
    for file in _sources():
        (root / "source" / file.relative_to(_SOURCE)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(file, root / "source" / file.relative_to(_SOURCE))
    variables = {"EDGE_TUNNEL_COMPILE": "1", "HOME": "/tmp", "TMPDIR": "/tmp"}
    if architecture != emulation.NATIVE:
        machine = emulation.MACHINES[architecture]
        variables["_PYTHON_HOST_PLATFORM"] = f"linux-{machine}"
        variables["_PYTHON_SYSCONFIGDATA_NAME"] = f"_sysconfigdata__{machine}-linux-gnu"
    words = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--wheel-dir=/made", "/source")
    _run("chroot", root, "/build/bin/python", "-B", "-m", "pip", "wheel", *words, **variables)
    (made,) = (root / "made").glob("*.whl")
    return made


def _install(
    root: Path, architecture: str, *words: str, files: Iterable[Path] = (), wheels: Path | None = None
) -> None:
    """Run deploy/image/install.py in `root`, with these files in /source; nothing of that stays."""
    source = root / "source"
    _add_folders(root)
    try:
        shutil.copytree(Path(pip.__file__).parent, source / "pip" / "pip")
        for file in (_SOURCE / _INSTALL, *files):
            shutil.copy(file, source)
        if wheels:
            shutil.copytree(wheels, source / "wheels")
        python = ("chroot", root, "/usr/bin/python3", "-B")
        with emulation.runner(architecture) as runner:
            _run(*runner, *python, "/source/install.py", "--pip=/source/pip", *words)
    finally:
        shutil.rmtree(source)
        shutil.rmtree(root / "dev")


def _add_folders(root: Path) -> None:
    for folder in ("source", "tmp", "dev"):
        (root / folder).mkdir(exist_ok=True)
    if not (root / "dev/null").exists():
        os.mknod(root / "dev/null", 0o666 | stat.S_IFCHR, os.makedev(1, 3))


def _platforms(architecture: str) -> Iterator[str]:
    machine = emulation.MACHINES[architecture]
    for release in ("2_28", "2_17", "2_12", "2_5"):
        yield f"--platform=manylinux_{release}_{machine}"
    yield f"--platform=manylinux2014_{machine}"


def _identity(path: Path) -> object:
    found = path.lstat()
    return None if path.is_dir() and not path.is_symlink() else (found.st_size, found.st_mtime_ns)


def _layer(root: Path, paths: Iterable[Path]) -> bytes:
    """The same bytes whenever the same is installed: no times, no owners, always in this order."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as layer:
        for path in sorted(paths):
            entry = layer.gettarinfo(path, str(path.relative_to(root)))
            entry.mtime = entry.uid = entry.gid = 0
            entry.uname = entry.gname = ""
            with path.open("rb") if entry.isreg() else io.BytesIO() as file:
                layer.addfile(entry, file if entry.isreg() else None)
    return content.getvalue()


def _run(*words: object, **variables: str) -> None:
    path = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    environment = {**os.environ, "PATH": path, "LC_ALL": "C.UTF-8", **variables}
    done = subprocess.run(list(map(str, words)), env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        said = " ".join(done.stderr.split()[-60:])
        raise ImageError(f"{words[0]} ended with {done.returncode}: {said}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Make the tunnel's image, once; say where it is.")
    parser.add_argument("--architecture", choices=emulation.MACHINES, default=emulation.NATIVE)
    options = parser.parse_args()
    try:
        made = archive(options.architecture)
    except (ImageError, emulation.NotEmulatedError) as error:
        sys.exit(str(error))
    size = made.stat().st_size / 2**20
    print(f"{NAME} for {options.architecture} is {made}, {size:.0f} MiB")
