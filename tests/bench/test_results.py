"""A run's JSON: written whole, read again, refused with a reason."""

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from bench.builds import product
from bench.machine import machine
from bench.results import PeerEntry, Results, ResultsError, Sample, now


def a_run() -> Results:
    return Results(
        machine(),
        quick=True,
        rounds=1,
        peers=[PeerEntry("direct", encrypted=False, one_line="no tunnel", version="-")],
        loads=["echo"],
        skipped={"long link": "needs root"},
        samples=[
            Sample(
                "direct", "echo", 0, {"p50": 20.5}, measured="2026-11-22T09:49:15+00:00", commit="0a44fc3"
            ),
            Sample("direct", "echo", 1, failed="cut"),
        ],
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
    assert facts["build"] == product().name
    assert json.loads(json.dumps(facts)) == facts


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"format": 1}', '{"format": 1, "peers": [{}], "samples": []}']
)
def test_what_is_no_run_is_refused_by_name(tmp_path: Path, text: str) -> None:
    path = tmp_path / "run.json"
    path.write_text(text)
    with pytest.raises(ResultsError, match=r"run\.json"):
        Results.read(path)


def test_a_time_that_is_none_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    a_run().write(path)
    path.write_text(path.read_text().replace("2026-11-22T09:49:15+00:00", "noon"))
    with pytest.raises(ResultsError, match="noon"):
        Results.read(path)


def test_results_of_another_version_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    a_run().write(path)
    path.write_text(path.read_text().replace('"format": 2', '"format": 3'))
    with pytest.raises(ResultsError, match="another version"):
        Results.read(path)


def test_results_of_before_samples_said_when_are_read(tmp_path: Path) -> None:
    path = tmp_path / "run.json"
    a_run().write(path)
    document = json.loads(path.read_text()) | {"format": 1}
    for sample in document["samples"]:
        del sample["measured"], sample["commit"]
    path.write_text(json.dumps(document))
    assert [(each.figures, each.measured, each.commit) for each in Results.read(path).samples] == [
        ({"p50": 20.5}, "", ""),
        ({}, "", ""),
    ]


def test_the_time_is_utc_to_the_second() -> None:
    before = datetime.now(UTC).replace(microsecond=0)
    assert before <= datetime.fromisoformat(now()) <= datetime.now(UTC)
    assert now().endswith("+00:00")
    assert "." not in now()
