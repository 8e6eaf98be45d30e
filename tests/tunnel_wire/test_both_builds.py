"""Compiled or not, it is the same: each byte that goes out, each event, each number of a ledger.

Interpreted, the run compares itself: what makes two processes differ would make two builds seem to.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.tunnel_wire.transcripts import MACHINES, play, scripts

if TYPE_CHECKING:
    from collections.abc import Iterator

_ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def interpreted() -> Iterator[subprocess.Popen[bytes]]:
    """Another process, on the sources."""
    command = [sys.executable, "-m", "tests.tunnel_wire.transcripts"]
    variables = {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONSAFEPATH": "1"}
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=variables) as process:
        assert process.stdout is not None
        assert pickle.load(process.stdout) == "interpreted"
        yield process
        assert process.stdin is not None
        process.stdin.close()


@pytest.mark.timeout(600)  # where there is a difference to be made small
@pytest.mark.parametrize("name", MACHINES)
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.large_base_example],
)
@given(data=st.data())
def test_both_builds_do_the_same(
    interpreted: subprocess.Popen[bytes], name: str, data: st.DataObject
) -> None:
    script = data.draw(scripts(MACHINES[name]))
    assert interpreted.stdin is not None
    assert interpreted.stdout is not None
    pickle.dump((name, script), interpreted.stdin)
    interpreted.stdin.flush()
    theirs = pickle.load(interpreted.stdout)
    ours = play(name, script)
    different = [pair for pair in zip(ours, theirs, strict=False) if pair[0] != pair[1]]
    assert different[:1] == []
    assert len(ours) == len(theirs)
