"""Bar charts of a run, PNG and SVG, by matplotlib (the extra `bench`)."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from bench.builds import OURS, OURS_INTERPRETED
from bench.summary import Spread, Summary

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from matplotlib.axes import Axes

    from bench.loads.load import Figure, Load
    from bench.results import PeerEntry, Results

# Load and figure of each panel.
CHARTS = {
    "throughput": (
        ("bulk down", "rate"),
        ("bulk up", "rate"),
        ("16 streams", "rate"),
        ("16 streams", "least"),
        ("long link", "rate"),
        ("echo under bulk", "bulk"),
    ),
    "latency": tuple((load, key) for load in ("echo", "echo under bulk") for key in ("p50", "p99", "p99.9")),
    "connections": (("connections", "rate"), ("connections x32", "rate")),
}
ABREAST = 3  # panels, so that their letters can be read where a page is as wide as the chart
NO_TUNNEL = "direct"
COLORS = {OURS: "#c2410c", OURS_INTERPRETED: "#fdba74"}
OTHERS, REFERENCE = "#64748b", "#cbd5e1"


class ChartsMissing(Exception):
    """matplotlib is not installed; one line with the remedy."""


def check_charts() -> None:
    """Raise ChartsMissing if there can be none."""
    if importlib.util.find_spec("matplotlib") is None:
        raise ChartsMissing("matplotlib is not installed: make bench installs it")


def draw(results: Results, loads: Sequence[Load], folder: Path) -> None:
    """Write FOLDER/NAME.png and .svg for each of CHARTS that has figures. Raises ChartsMissing, OSError."""
    check_charts()
    import matplotlib as mpl

    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "bench"  # the same figures give the same file
    folder.mkdir(parents=True, exist_ok=True)
    for name, wanted in CHARTS.items():
        figures = [
            (load, figure) for load in loads for figure in load.figures if (load.name, figure.key) in wanted
        ]
        _draw(results, figures, folder / name)


def _draw(results: Results, figures: Sequence[tuple[Load, Figure]], path: Path) -> None:
    from matplotlib.figure import Figure as Canvas

    summary = Summary(results)
    panels = []
    for load, figure in figures:
        bars = [
            (peer, spread)
            for peer in results.peers
            if (spread := summary.spread(peer.name, load.name, figure.key))
        ]
        if bars:
            panels.append((figure, bars))
    if not panels:
        return
    across = min(ABREAST, len(panels))
    down = -(-len(panels) // across)
    height = 0.8 + 0.28 * max(len(bars) for _, bars in panels)
    canvas = Canvas(figsize=(3.6 * across, 0.3 + height * down), layout="constrained")
    for at, (figure, bars) in enumerate(panels):
        axes = canvas.add_subplot(down, across, at + 1)
        names = [peer.name if peer.encrypted else f"{peer.name} *" for peer, _ in bars]
        medians = [spread.median for _, spread in bars]
        around = [[s.median - s.least for _, s in bars], [s.most - s.median for _, s in bars]]
        axes.barh(names, medians, xerr=around, color=[_color(peer) for peer, _ in bars])
        axes.invert_yaxis()
        _cut(axes, bars)
        axes.set_title(f"{figure.title}\n{figure.unit}, {figure.better} is better", fontsize=9)
        axes.tick_params(labelsize=8)
    canvas.supxlabel("* not encrypted. Medians; whiskers: least and most of all rounds", fontsize=7)
    canvas.savefig(path.with_suffix(".png"), dpi=120)
    canvas.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def _cut(axes: Axes, bars: Sequence[tuple[PeerEntry, Spread]]) -> None:
    """Let no tunnel be dwarfed by what has none: a longer bar ends at the edge, with its figure."""
    tunnels = [spread.most for peer, spread in bars if peer.name != NO_TUNNEL]
    end = 1.1 * max(tunnels, default=0)
    if not end:
        return
    for at, (_, spread) in enumerate(bars):
        if spread.median > end:
            axes.set_xlim(0, end)
            text = f"{spread.median:,.0f} \N{RIGHTWARDS ARROW} "
            axes.text(end, at, text, ha="right", va="center", fontsize=7, color="black")


def _color(peer: PeerEntry) -> str:
    return COLORS.get(peer.name) or (OTHERS if peer.encrypted else REFERENCE)
