"""Work in another process: what goes in, what comes out, and how it fails."""

import io
import json
import sys
from dataclasses import dataclass

import pytest
import trio

from tunnel_agent import apart as apart_module
from tunnel_agent.apart import ApartError, run_apart, serve_apart

MODULE = """
import dataclasses, sys, time
from tunnel_agent.apart import ApartError, serve_apart

@dataclasses.dataclass
class Outcome:
    said: str

def work(given):
    if given.get("slow"):
        time.sleep(60)
    if given.get("fails"):
        raise ApartError("no\\nluck", given.get("code", ""))
    return Outcome(given["say"] * 2)

sys.exit(serve_apart(work, (ApartError,)))
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    """A module for `python -m`, found as an installed one is."""
    (tmp_path / "working_apart.py").write_text(MODULE)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    return "working_apart"


async def test_an_outcome(module):
    assert await run_apart(module, {"say": "a word, "}) == {"said": "a word, a word, "}


@pytest.mark.parametrize("code", ["", "revoked"])
async def test_a_failure_is_one_line_and_perhaps_a_code(module, code):
    with pytest.raises(ApartError) as caught:
        await run_apart(module, {"fails": True, "code": code})
    assert (str(caught.value), caught.value.code) == ("no luck", code)


async def test_a_defect_is_a_failure(module):
    with pytest.raises(ApartError, match="KeyError"):
        await run_apart(module, {})


async def test_what_lies_in_the_working_directory_is_not_ours(tmp_path, monkeypatch):
    (tmp_path / "working_apart.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ApartError, match="No module named"):
        await run_apart("working_apart", {"say": ""})


async def test_no_python_no_end_no_words(module, tmp_path, monkeypatch):
    (tmp_path / "silent.py").touch()
    with pytest.raises(ApartError, match="said nothing that can be read"):
        await run_apart("silent", {})
    with monkeypatch.context() as patched:
        patched.setattr(apart_module, "_PATIENCE", 0.5)
        with pytest.raises(ApartError, match=r"no answer within 0\.5 s"):
            await run_apart(module, {"slow": True})
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(ApartError, match="cannot be run"):
        await run_apart(module, {})


async def test_cancelled_it_is_ended(module):
    with trio.move_on_after(0.5) as scope:
        await run_apart(module, {"slow": True})
    assert scope.cancelled_caught  # trio would wait for the process here, were it not ended


@dataclass
class Outcome:
    count: int


def test_the_processs_own_side(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(json.dumps({"count": 1})))
    assert serve_apart(lambda given: Outcome(given["count"] + 1), ()) == 0
    assert json.loads(capsys.readouterr().out) == {"count": 2}
