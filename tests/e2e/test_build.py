"""The programs of these tests run the build that is tested, and say which it is."""

import pytest

from tests.e2e.system import BIN, System, build_of
from tunnel_wire.build import build, version_line


@pytest.mark.parametrize("name", ["server", "edge-1"])
def test_the_build_that_is_tested_runs(system: System, name: str) -> None:
    assert build_of(system.processes[name]) == build()


@pytest.mark.parametrize("program", ["tunnel-server", "tunnel-agent", "tunnelctl"])
def test_each_program_says_which_it_is(system: System, program: str) -> None:
    done = system.topology.cloud.run([BIN / program, "--version"])
    assert done.stdout == version_line(program) + "\n"


def test_a_running_server_says_which_it_is(system: System) -> None:
    assert system.status()["build"] == build()
