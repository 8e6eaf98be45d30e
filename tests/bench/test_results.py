"""A run's JSON: written whole, read again, refused with a reason."""

import json
from pathlib import Path

import pytest

from bench.machine import machine
from bench.results import PeerEntry, Results, ResultsError, Sample


def a_run() -> Results:
    return Results(
        machine(),
        quick=True,
        rounds=1,
        peers=[PeerEntry("direct", encrypted=False, one_line="no tunnel", version="-")],
        loads=["echo"],
        skipped={"long link": "needs root"},
        samples=[Sample("direct", "echo", 0, {"p50": 20.5}), Sample("direct", "echo", 1, failed="cut")],
    )


def test_what_is_written_is_read(tmp_path: Path) -> None:
    written = a_run()
    written.write(tmp_path / "run.json")
    assert Results.read(tmp_path / "run.json") == written
    assert [path.name for path in tmp_path.iterdir()] == ["run.json"]


def test_the_machine_is_said() -> None:
    facts = machine()
    assert facts["cpu"]
    assert facts["cores"]
    assert facts["kernel"]
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "peers": [{}], "samples": []}']
)
def test_what_is_no_run_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=r"run\.json"):
        Results.read(path)


def test_results_of_another_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    a_run().write(path)
    path.write_text(path.read_text().replace('"format": 1', '"format": 2'))
    with pytest.raises(ResultsError, match="another version"):
        Results.read(path)
