"""Charts of a run, drawn by the real matplotlib."""

import struct
from pathlib import Path

import pytest

from bench.builds import OURS, OURS_INTERPRETED
from bench.charts import CHARTS, COLORS, OTHERS, draw
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


def test_each_of_our_builds_has_a_colour_of_its_own(tmp_path: Path) -> None:
    names = (OURS, OURS_INTERPRETED, "other")
    peers = [PeerEntry(name, encrypted=True, one_line="") for name in names]
    samples = [Sample(name, "bulk down", 0, {"rate": 100.0}) for name in names]
    results = Results({}, quick=False, rounds=1, peers=peers, loads=["bulk down"], samples=samples)
    draw(results, loads(), tmp_path)
    svg = (tmp_path / "throughput.svg").read_text()
    for color in (*COLORS.values(), OTHERS):
        assert svg.count(f"fill: {color}") == 1


def test_many_panels_stand_in_rows_of_three_so_that_they_can_be_read(tmp_path: Path) -> None:
    peers = [PeerEntry(name, encrypted=True, one_line="") for name in ("edge-tunnel", "other")]
    wanted = CHARTS["throughput"]
    samples = [Sample(peer.name, load, 0, {key: 100.0}) for peer in peers for load, key in wanted]
    sizes = []
    for count in (2, 3, 4, len(wanted)):
        names = [load for load, _ in wanted[:count]]
        some = [sample for sample in samples if (sample.load, *sample.figures) in wanted[:count]]
        results = Results({}, quick=False, rounds=1, peers=peers, loads=names, samples=some)
        draw(results, loads(), tmp_path)
        sizes.append(struct.unpack(">II", (tmp_path / "throughput.png").read_bytes()[16:24]))
    (two, low), (three, same), (four, high), (six, as_high) = sizes
    assert two < three == four == six
    assert low == same < high == as_high
