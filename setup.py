"""What pyproject.toml cannot say: with EDGE_TUNNEL_COMPILE=1, the modules that a byte passes are compiled.

By mypyc, from the same files (docs/architecture.md, "Compiled"): a wheel then holds both, and Python takes
the compiled module where there is one. That needs a C compiler, Python's headers and libc's; without the
variable nothing of the kind is needed, or tried. An editable install stays interpreted: what is edited is
what runs. With the variable, too, it needs no compiler, nor does a source distribution; but setup.py is asked
in the same words what either and a wheel require, so in isolation mypy is fetched for each.
"""

import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

COMPILED = (
    "answerer", "carrier", "connection", "data_received", "deadlines", "flow", "frame_reader", "frame_size",
    "frames", "header_codec", "life", "link", "link_buffers", "link_tls", "link_window", "opener",
    "plain_blocks", "readiness", "receiver", "record_sizes", "records", "sender", "session",
    "splice_result", "splicing", "stream_state", "timers", "tls", "tombstones", "turns",
)  # fmt: skip
"""Of tunnel_wire. What runs once a link or a stream, or only waits, stays as it is."""

VARIABLE = "EDGE_TUNNEL_COMPILE"
_LEAVE_OUT = f"or leave {VARIABLE} out: everything works without being compiled"


class BuildCompiled(build_ext):
    """Builds what mypyc makes of COMPILED.

    Only when it runs: a build asks setup.py for its requirements and its metadata first, without mypy.
    """

    def run(self) -> None:
        """Compile; exits with one line where what that takes is missing."""
        from mypyc.build import mypycify

        self.distribution.ext_modules = mypycify(
            ["--strict", *(f"tunnel_wire/{name}.py" for name in COMPILED)],
            group_name="tunnel_wire",
            target_dir=self.build_temp,
            opt_level="3",
            debug_level="0",
        )
        for each in self.distribution.ext_modules:
            # mypyc has -Werror: what a compiler newer than ours remarks is no reason not to install.
            each.extra_compile_args.append("-Wno-error")
            each.extra_link_args.append("-Wl,--strip-all")
        self.distribution.reinitialize_command(self)
        self.ensure_finalized()
        super().run()

    def build_extensions(self) -> None:
        """Leave out where the building machine has its libraries: nothing of them is linked."""
        linker = self.compiler.linker_so
        self.compiler.linker_so = [word for word in linker if not word.startswith("-Wl,-rpath")]
        super().build_extensions()


def main() -> None:
    """Hand over to setuptools; exits with one line where what was asked for cannot be had."""
    wanted = os.environ.get(VARIABLE, "")
    if wanted not in {"", "0", "1"}:
        sys.exit(f"edge-tunnel: {VARIABLE}={wanted}: 1 compiles; 0, or none, does not")
    compiles = wanted == "1" and "editable_wheel" not in sys.argv
    with tempfile.TemporaryDirectory(prefix="edge-tunnel-") as folder:
        # Not build/ in the source tree: what was deleted from the sources stays there, and is installed.
        options = {"build": {"build_base": folder}}
        if not compiles:
            setup(options=options)
            return
        if "bdist_wheel" in sys.argv:
            _check_compiler()
            _check_packages()
        setup(
            options=options,
            setup_requires=_requirements(),
            cmdclass={"build_ext": BuildCompiled},
            # That there are some: the wheel is one of this platform.
            ext_modules=[Extension("tunnel_wire__mypyc", [])],
        )


def _requirements() -> list[str]:
    """What a build beside setuptools needs: mypy, and what it reads types of, for `records` cryptography."""
    project = tomllib.loads(Path("pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    mypy = [each for each in extras["dev"] if each.startswith("mypy==")]
    return [*mypy, *project["dependencies"], *extras["agent"]]


def _check_packages() -> None:
    """With build isolation they are there."""
    for requirement in (_requirements()[0], _requirements()[-1]):
        name, _, least = re.split("([>=]=)", requirement.partition(",")[0])
        try:
            found = version(name)
        except PackageNotFoundError:
            found = "none"
        if found.split(".")[: least.count(".") + 1] != least.split("."):
            problem = f"{requirement}, here it is {found}"
            sys.exit(f"edge-tunnel: {VARIABLE}=1 needs {problem}: build with isolation, {_LEAVE_OUT}")


def _check_compiler() -> None:
    """Ask for Python.h, which includes libc's headers: before the minutes that mypy and the compiler take."""
    compiler = shlex.split(os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc")
    folders = {f"-I{sysconfig.get_path(name)}" for name in ("include", "platinclude")}
    flags = shlex.split(os.environ.get("CFLAGS", "") + " " + os.environ.get("CPPFLAGS", ""))
    if shutil.which(compiler[0]) is None:
        problem = f"{compiler[0]} is not there"
    else:
        asked = [*compiler, *flags, *sorted(folders), "-fsyntax-only", "-x", "c", "-"]
        english = os.environ | {"LC_ALL": "C"}
        include = b"#include <Python.h>\n"
        done = subprocess.run(asked, input=include, env=english, capture_output=True, check=False)
        if done.returncode == 0:
            return
        lines = [line.strip() for line in done.stderr.decode(errors="replace").splitlines() if line.strip()]
        # Behind it come the line of source and that compilation has ended.
        errors = [line for line in lines if "error:" in line]
        problem = (errors or lines or [f"{compiler[0]} ended with {done.returncode}"])[-1]
    needs = f"a C compiler, Python's headers and libc's ({problem})"
    sys.exit(f"edge-tunnel: {VARIABLE}=1 needs {needs}: apt-get install gcc python3-dev, {_LEAVE_OUT}")


if __name__ == "__main__":  # so it is for setuptools, too
    main()
