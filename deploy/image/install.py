"""Installs the tunnel into the image that this runs in: /opt/edge-tunnel, with its dependencies, compiled.

Run by the image's own Python, so that the bytecode is right, as root. `Containerfile` beside this and the
tests' builder (tests/e2e/cluster/tunnel_image.py) do it with the same words. It needs nothing but pip, which
does not stay in the image.
"""

import argparse
import compileall
import os
import py_compile
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

TARGET = Path("/opt/edge-tunnel")

# What only other users of the Kubernetes client need: objects are JSON here, and are asked for in threads.
# 74 MiB of source, and 50 more compiled.
UNUSED_FOLDERS = ("kubernetes/aio", "kubernetes/client/api")
UNUSED_MODELS = "kubernetes/client/models"
UNUSED_PACKAGES = (
    "aiohttp", "aiohttp-retry", "aiohappyeyeballs", "aiosignal", "frozenlist", "multidict", "propcache",
    "setuptools", "yarl",
)  # fmt: skip
OURS = ("certs", "tunnel_agent", "tunnel_daemon", "tunnel_server", "tunnel_wire", "tunnelctl")
CHECK = f"""
import importlib, pkgutil
for package in {OURS}:
    for module in pkgutil.walk_packages(importlib.import_module(package).__path__, package + "."):
        if not module.name.endswith("__main__"):
            importlib.import_module(module.name)
"""


def main() -> None:
    """Install what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pip", type=Path, required=True, metavar="DIR", help="where Python finds pip")
    parser.add_argument("--wheels", type=Path, metavar="DIR", help="take dependencies from here only")
    parser.add_argument("--requirements", type=Path, metavar="FILE", help="the lock: install what it names")
    parser.add_argument("--wheel", type=Path, metavar="FILE", help="the tunnel's own: install it")
    options = parser.parse_args()
    packages = TARGET / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    if options.requirements:
        venv.create(TARGET, clear=True, symlinks=True, with_pip=False)
        source = ["--no-index", f"--find-links={options.wheels}"] if options.wheels else []
        words = ["--require-hashes", "--only-binary=:all:", *source, "-r", options.requirements]
        _pip(options.pip, "install", *words)
        _slim(options.pip, packages)
        # Where packages are unpacked only, nobody has compiled the standard library either.
        _compile(Path(sysconfig.get_path("stdlib")))
        _compile(packages)
    if options.wheel:
        _pip(options.pip, "install", "--no-deps", "--no-index", options.wheel)
        # Not what is compiled already: it would all be in the image once more, in this layer too.
        for package in OURS:
            _compile(packages / package)
        if subprocess.run([TARGET / "bin" / "python", "-c", CHECK], check=False).returncode:
            sys.exit("not every module of the tunnel can be imported")


def _pip(where: Path, *words: object) -> None:
    quiet = ["--no-compile", "--no-cache-dir", "--no-warn-script-location", "--quiet"]
    command = [TARGET / "bin" / "python", "-m", "pip", "--disable-pip-version-check", *words]
    environment = {**os.environ, "PYTHONPATH": str(where), "PYTHONDONTWRITEBYTECODE": "1"}
    if "install" in words:
        command += quiet
    subprocess.run(list(map(str, command)), env=environment, check=True, stdout=subprocess.DEVNULL)


def _slim(pip: Path, packages: Path) -> None:
    for folder in UNUSED_FOLDERS:
        shutil.rmtree(packages / folder)
    for model in (packages / UNUSED_MODELS).glob("*.py"):
        if model.name != "__init__.py":
            model.unlink()
    _pip(pip, "uninstall", "--yes", *UNUSED_PACKAGES)
    for pattern in ("**/tests", "**/*.pyi", "**/*.pyx", "**/*.pxd"):
        for found in list(packages.glob(pattern)):
            shutil.rmtree(found) if found.is_dir() else found.unlink()
    for script in (TARGET / "bin").iterdir():
        if not script.name.startswith("python"):
            script.unlink()


def _compile(folder: Path) -> None:
    # Times of files mean nothing in an image: the source is never looked at again.
    mode = py_compile.PycInvalidationMode.UNCHECKED_HASH
    if not compileall.compile_dir(folder, quiet=1, invalidation_mode=mode):
        sys.exit(f"{folder} cannot be compiled")


if __name__ == "__main__":
    main()
