"""The wheel, interpreted and compiled: what is in it, that it runs where it is installed, what fails how."""

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from types import ModuleType

import pytest

import tunnel_wire
from bench.builds import COMPILED

TREE = Path(__file__).parents[2]
PACKAGES = ("certs", "tunnel_agent", "tunnel_daemon", "tunnel_server", "tunnel_wire", "tunnelctl")
VARIABLE = "EDGE_TUNNEL_COMPILE"


def run(*words: object, where: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    environment = {
        key: value for key, value in os.environ.items() if key not in {VARIABLE, "PYTHONPATH", "CC"}
    }
    environment |= {key: str(value) for key, value in variables.items()}
    return subprocess.run(
        list(map(str, words)),
        cwd=where,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )


def build(source: Path, folder: Path, **variables: object) -> subprocess.CompletedProcess[str]:
    offline = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    return run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        *offline,
        f"--wheel-dir={folder}",
        ".",
        where=source,
        **variables,
    )


def modules(folder: Path) -> set[str]:
    return {
        str(file.relative_to(folder)) for package in PACKAGES for file in (folder / package).rglob("*.py")
    }


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What is in the tree, and what a build of older sources left behind."""
    copy = tmp_path_factory.mktemp("source")
    for file in ("pyproject.toml", "setup.py", "README.md"):
        shutil.copy(TREE / file, copy)
    for package in PACKAGES:
        shutil.copytree(TREE / package, copy / package, ignore=shutil.ignore_patterns("__pycache__"))
    (copy / "build/lib/tunnel_wire").mkdir(parents=True)
    (copy / "build/lib/tunnel_wire/gone.py").touch()
    return copy


@pytest.fixture(scope="module")
def wheel(source: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Made where there is no compiler."""
    folder = tmp_path_factory.mktemp("wheel")
    done = build(source, folder, CC="/nonexistent/cc")
    assert done.returncode == 0, done.stderr
    (made,) = folder.iterdir()
    return made


@pytest.fixture(scope="module")
def compiled() -> Path:
    """What `make compiled` made, of these sources."""
    if why := COMPILED.unusable():
        pytest.skip(f"build/compiled: {why}")
    return COMPILED.folder


@pytest.fixture(scope="module")
def setup() -> ModuleType:
    spec = importlib.util.spec_from_file_location("setup_of_the_tree", TREE / "setup.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_without_the_variable_nothing_is_compiled(wheel: Path) -> None:
    assert wheel.name == f"edge_tunnel-{tunnel_wire.__version__}-py3-none-any.whl"
    assert not [name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".so")]


def test_it_has_the_modules_of_the_tree_and_none_from_before(source: Path, wheel: Path) -> None:
    names = {name for name in zipfile.ZipFile(wheel).namelist() if name.endswith(".py")}
    assert names == modules(TREE)
    assert [str(each.relative_to(source / "build")) for each in (source / "build").rglob("*.*")] == [
        "lib/tunnel_wire/gone.py"
    ], "the build has left something in the sources"


def test_two_builds_are_alike(source: Path, tmp_path: Path) -> None:
    made = []
    for name in ("one", "two"):
        assert build(source, tmp_path / name, SOURCE_DATE_EPOCH=1_700_000_000).returncode == 0
        (file,) = (tmp_path / name).iterdir()
        made.append(file.read_bytes())
    assert made[0] == made[1]


@pytest.mark.timeout(120)
def test_installed_it_runs(wheel: Path, tmp_path: Path) -> None:
    """In a venv of its own, away from the tree; its dependencies are those of the tests, without the tree."""
    done = run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", where=tmp_path)
    assert done.returncode == 0, done.stderr
    python = tmp_path / "venv/bin/python"
    words = ("--no-deps", "--no-index", "--quiet")
    done = run(sys.executable, "-m", "pip", f"--python={python}", "install", *words, wheel, where=tmp_path)
    assert done.returncode == 0, done.stderr
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    (packages / "dependencies.pth").write_text(str(Path(pytest.__file__).parents[1]))
    asked = "import tunnel_wire, trio; print(tunnel_wire.__file__)"
    assert run(python, "-c", asked, where=tmp_path).stdout.strip() == f"{packages}/tunnel_wire/__init__.py"
    for program in ("tunnel-agent", "tunnel-server", "tunnelctl"):
        done = run(tmp_path / "venv/bin" / program, "--version", where=tmp_path)
        assert done.stdout == f"{program} {tunnel_wire.__version__} (interpreted)\n"
    done = run(tmp_path / "venv/bin/tunnelctl", "demo", "--once", where=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


NO_LIBC = """\
In file included from <stdin>:1:
/usr/include/python3.11/Python.h:23:12: fatal error: stdlib.h: No such file or directory
   23 | #  include <stdlib.h>
      |            ^~~~~~~~~~
compilation terminated.
"""
"""Of gcc, where there is no libc6-dev."""


def compiler(folder: Path, code: int, said: str = "") -> Path:
    """One that ends so, whatever it is given: these tests run where there is none, too.

    What it says is English, so it says it only where that was asked for.
    """
    program = folder / f"cc-{code}"
    text = folder / f"cc-{code}.txt"
    text.write_text(said)
    program.write_text(f'#!/bin/sh\ncat >/dev/null; [ "$LC_ALL" = C ] && cat "{text}" >&2; exit {code}\n')
    program.chmod(0o755)
    return program


def another(name: str, folder: Path) -> Path:
    metadata = folder / name / f"{name}-0.1.dist-info/METADATA"
    metadata.parent.mkdir(parents=True)
    metadata.write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 0.1\n")
    return folder / name


@pytest.mark.parametrize("problem", ["value", "compiler", "headers", "silent", "mypy", "cryptography"])
def test_what_is_missing_is_said_in_one_line(source: Path, tmp_path: Path, problem: str) -> None:
    variables: dict[str, object]
    variables, said = {
        "value": ({VARIABLE: "yes"}, f"{VARIABLE}=yes: 1 compiles; 0, or none, does not"),
        "compiler": (
            {VARIABLE: 1, "CC": "/nonexistent/cc"},
            "needs a C compiler, Python's headers and libc's (/nonexistent/cc is not there): ",
        ),
        "headers": (
            {VARIABLE: 1, "CC": compiler(tmp_path, 1, NO_LIBC), "LC_ALL": "de_DE.UTF-8"},
            "libc's (/usr/include/python3.11/Python.h:23:12: fatal error: stdlib.h: No such file or ",
        ),
        "silent": ({VARIABLE: 1, "CC": compiler(tmp_path, 3)}, "cc-3 ended with 3): "),
        "mypy": (
            {VARIABLE: 1, "CC": compiler(tmp_path, 0), "PYTHONPATH": another("mypy", tmp_path)},
            "needs mypy==2.4.1, here it is 0.1: ",
        ),
        "cryptography": (
            {VARIABLE: 1, "CC": compiler(tmp_path, 0), "PYTHONPATH": another("cryptography", tmp_path)},
            "needs cryptography>=50,<51, here it is 0.1: ",
        ),
    }[problem]
    done = build(source, tmp_path / "wheels", **variables)
    assert done.returncode == 1
    (line,) = [line for line in done.stderr.splitlines() if "edge-tunnel: " in line]
    assert said in line
    assert "Traceback" not in done.stderr
    if problem in {"compiler", "headers", "silent"}:
        assert "apt-get install gcc python3-dev" in line
    if problem != "value":
        assert f"or leave {VARIABLE} out" in line
    assert not (tmp_path / "wheels").exists() or not list((tmp_path / "wheels").iterdir())


@pytest.mark.parametrize("value", ["", "0"])
def test_these_do_not_ask_for_it(source: Path, tmp_path: Path, value: str) -> None:
    done = build(source, tmp_path / "wheels", **{VARIABLE: value})
    assert done.returncode == 0, done.stderr
    assert [each.name.endswith("-none-any.whl") for each in (tmp_path / "wheels").iterdir()] == [True]


@pytest.mark.timeout(120)
def test_an_editable_install_stays_interpreted_and_needs_no_compiler(source: Path, tmp_path: Path) -> None:
    """What is edited would not be what runs. With what a lock without mypy holds to build with."""
    done = run(sys.executable, "-m", "venv", "--without-pip", tmp_path / "venv", where=tmp_path)
    assert done.returncode == 0, done.stderr
    python = tmp_path / "venv/bin/python"
    (packages,) = (tmp_path / "venv/lib").glob("python*/site-packages")
    ours = Path(pytest.__file__).parents[1]
    for part in (*ours.glob("setuptools*"), ours / "_distutils_hack"):
        (packages / part.name).symlink_to(part)
    words = ("--no-deps", "--no-build-isolation", "--no-index", "--quiet")
    asked: dict[str, object] = {VARIABLE: 1, "CC": "/nonexistent/cc"}
    done = run(
        sys.executable, "-m", "pip", f"--python={python}", "install", *words, "-e", source,
        where=tmp_path, **asked,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    done = run(tmp_path / "venv/bin/tunnelctl", "--version", where=tmp_path, PYTHONPATH=ours)
    assert done.stdout == f"tunnelctl {tunnel_wire.__version__} (interpreted)\n"
    done = run(python, "-c", "import tunnel_wire; print(tunnel_wire.__file__)", where=tmp_path)
    assert done.stdout.strip() == str(source / "tunnel_wire/__init__.py")
    assert not list(tmp_path.rglob("venv/**/*__mypyc*"))
    assert not list(source.rglob("*.so"))


def test_a_source_distribution_needs_no_compiler(source: Path, tmp_path: Path) -> None:
    hooks = f"build_meta.get_requires_for_build_sdist(); build_meta.build_sdist({str(tmp_path)!r})"
    asked: dict[str, object] = {VARIABLE: 1, "CC": "/nonexistent/cc"}
    done = run(sys.executable, "-c", f"from setuptools import build_meta; {hooks}", where=source, **asked)
    assert done.returncode == 0, done.stderr
    assert [each.name for each in tmp_path.iterdir()] == [f"edge_tunnel-{tunnel_wire.__version__}.tar.gz"]


def test_an_isolated_build_gets_what_mypy_reads(source: Path) -> None:
    """Without a compiler, too: `make lock` asks so."""
    asked = "from setuptools import build_meta; print(*build_meta.get_requires_for_build_wheel(), sep='\\n')"
    plain = run(sys.executable, "-c", asked, where=source).stdout.split("\n")
    compiles: dict[str, object] = {VARIABLE: 1, "CC": "/nonexistent/cc"}
    told = run(sys.executable, "-c", asked, where=source, **compiles).stdout.split("\n")
    project = tomllib.loads((TREE / "pyproject.toml").read_text())["project"]
    dependencies = [*project["dependencies"], *project["optional-dependencies"]["agent"]]
    assert not [each for each in plain if each.startswith(("mypy", "trio"))]
    assert [each for each in told if each.startswith("mypy==")]
    assert set(dependencies) <= set(told)


def test_the_lock_of_a_build_is_of_the_others() -> None:
    """`make lock` has written all of them."""
    compiles, develops = (
        {line.split(" ")[0] for line in lock.read_text().splitlines() if re.match(r"[\w.-]+==", line)}
        for lock in (TREE / "requirements/compile.txt", TREE / "requirements/dev.txt")
    )
    (pinned,) = [each for each in compiles if each.startswith("mypy==")]
    assert (
        pinned
        in tomllib.loads((TREE / "pyproject.toml").read_text())["project"]["optional-dependencies"]["dev"]
    )
    assert compiles <= develops


def test_compiled_it_has_a_library_beside_each_of_these_modules(compiled: Path, setup: ModuleType) -> None:
    libraries = {str(file.relative_to(compiled)).partition(".")[0] for file in compiled.rglob("*.so")}
    assert libraries == {"tunnel_wire__mypyc", *(f"tunnel_wire/{name}" for name in setup.COMPILED)}
    assert modules(compiled) == modules(TREE)
    (told,) = compiled.glob("*.dist-info/WHEEL")
    tag = f"Tag: cp{sys.version_info.major}{sys.version_info.minor}-cp"
    assert tag in told.read_text()
    assert "none-any" not in told.read_text()


def test_a_library_names_no_place_of_the_machine_that_made_it(compiled: Path) -> None:
    for library in compiled.rglob(f"*{EXTENSION_SUFFIXES[0]}"):
        content = library.read_bytes()
        for place in (str(TREE), sys.base_prefix + "/", sys.prefix, "edge-tunnel-", str(Path.home()) + "/"):
            assert place.encode() not in content, f"{library.name} names {place}"


@pytest.mark.timeout(120)
def test_compiled_it_runs(compiled: Path, tmp_path: Path) -> None:
    for program in ("tunnel-agent", "tunnel-server", "tunnelctl"):
        done = run(compiled / "bin" / program, "--version", where=tmp_path, PYTHONPATH=compiled)
        assert done.stdout == f"{program} {tunnel_wire.__version__} (compiled)\n"
    done = run(compiled / "bin/tunnelctl", "demo", "--once", where=tmp_path, PYTHONPATH=compiled)
    assert done.returncode == 0, done.stdout + done.stderr
