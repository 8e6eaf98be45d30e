"""Which build is here, as programs say it."""

import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest

import tunnel_wire
from tunnel_wire import session
from tunnel_wire.build import build, version_line


def test_it_is_what_an_import_takes() -> None:
    taken = Path(str(session.__file__)).name
    assert taken.endswith(tuple(EXTENSION_SUFFIXES)) == (build() == "compiled")


@pytest.mark.parametrize("expected", ["interpreted", "compiled"])
def test_a_library_beside_the_source_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, expected: str
) -> None:
    library = f"session{EXTENSION_SUFFIXES[0]}" if expected == "compiled" else "session.cpython-32.so"
    for file in ["session.py", library]:
        (tmp_path / file).touch()
    monkeypatch.setattr(tunnel_wire, "__path__", [str(tmp_path)])
    assert build() == expected


def test_the_line_has_program_version_and_build() -> None:
    assert version_line("tunnelctl") == f"tunnelctl {tunnel_wire.__version__} ({build()})"


def test_no_hot_module_is_loaded_for_it() -> None:
    """`--version` is answered at once."""
    program = "import sys, tunnel_wire.build as it; it.build(); print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert {each for each in done.stdout.split() if each.startswith("tunnel_wire")} == {
        "tunnel_wire", "tunnel_wire.build",
    }  # fmt: skip
