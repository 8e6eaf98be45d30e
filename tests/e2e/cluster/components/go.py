"""A Go that is new enough, and calls of it."""

import functools
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Sequence
from pathlib import Path

from tests.e2e.cluster.emulation import NATIVE

NEEDED = (1, 24)
"""What the Kubernetes that we build wants."""

_TOOLCHAIN = "1.24.13"
"""Which is fetched where there is only an older one, as Debian 12's."""
_PLACES = ("/usr/local/go/bin/go", "/usr/lib/go/bin/go")
# Neither a C compiler nor the checkout's state goes into what is built, nor where: so the cache is of use.
_SETTINGS = {
    "CGO_ENABLED": "0",
    "GOFLAGS": "-buildvcs=false -trimpath",
    "GOTOOLCHAIN": "local",
    "GOWORK": "off",
}


class BuildError(Exception):
    """What was to be built is not; one line, or Go's own words."""


@functools.cache
def go() -> str:
    """The program. Raises BuildError: there is none, or an older one that cannot get another."""
    found = [path for path in (shutil.which("go"), *_PLACES) if path and Path(path).exists()]
    for path in found:
        said = subprocess.run([path, "version"], capture_output=True, text=True, check=False).stdout
        version = re.search(r"go(\d+)\.(\d+)", said)
        if version and tuple(map(int, version.groups())) >= NEEDED:
            return path
    if not found:
        raise BuildError(f"Go {'.'.join(map(str, NEEDED))} or newer is needed: apt-get install golang-go")
    return _newer(found[0])


def _newer(old: str) -> str:
    """Have an old Go fetch a newer one, which is published as a module, and verified as any is."""
    module = f"golang.org/toolchain@v0.0.1-go{_TOOLCHAIN}.linux-{NATIVE}"
    words = [old, "mod", "download", "-json", module]
    # Elsewhere, a go.mod that it cannot read would be in its way.
    done = subprocess.run(words, cwd="/", capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{old} is too old, and could not fetch {module}: {done.stdout}{done.stderr}")
    tools = Path(json.loads(done.stdout)["Dir"])
    for program in (*(tools / "bin").iterdir(), *(tools / "pkg" / "tool").glob("*/*")):
        program.chmod(0o755)  # modules have no executable files
    return str(tools / "bin" / "go")


def run(directory: Path, *words: str) -> str:
    """What `go WORDS` writes to standard output. Raises BuildError with the end of what it said."""
    done = subprocess.run(
        [go(), *words], cwd=directory, env={**os.environ, **_SETTINGS}, stdin=subprocess.DEVNULL,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode != 0:
        raise BuildError(_failure(words, done.stderr.splitlines()))
    return done.stdout


def build(directory: Path, *words: str, compiled: Callable[[str], None]) -> None:
    """`go build -v WORDS`; `compiled` is told each package that was not in Go's cache. Raises BuildError."""
    said = []
    with subprocess.Popen(
        [go(), "build", "-v", *words], cwd=directory, env={**os.environ, **_SETTINGS},
        stdin=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
    ) as child:  # fmt: skip
        assert child.stderr is not None
        try:
            for line in child.stderr:
                said.append(line.rstrip())
                compiled(said[-1])
        except BaseException:
            child.terminate()
            raise
    if child.returncode != 0:
        raise BuildError(_failure(("build", *words), said))


def _failure(words: Sequence[str], said: Sequence[str]) -> str:
    return "\n".join([f"go {words[0]}:", *said[-30:]])
