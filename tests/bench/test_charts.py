"""Charts of a run, drawn by the real matplotlib."""

from pathlib import Path

import pytest

from bench.charts import draw
from bench.loads.registry import loads
from bench.results import PeerEntry, Results, Sample

pytest.importorskip("matplotlib", reason="matplotlib is not installed: make bench installs it")


def test_each_chart_that_has_figures_as_png_and_svg(tmp_path: Path) -> None:
    peers = [PeerEntry(name, encrypted=True, one_line="") for name in ("edge-tunnel", "other")]
    samples = [
        Sample(name, "bulk down", number, {"rate": 100.0 + number})
        for name in ("edge-tunnel", "other")
        for number in (0, 1)
    ]
    results = Results({}, quick=False, rounds=2, peers=peers, loads=["bulk down"], samples=samples)
    draw(results, loads(), tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["throughput.png", "throughput.svg"]
    assert (tmp_path / "throughput.png").read_bytes().startswith(b"\x89PNG")
    svg = (tmp_path / "throughput.svg").read_text()
    draw(results, loads(), tmp_path)
    assert (tmp_path / "throughput.svg").read_text() == svg
