"""Bar charts of a run, PNG and SVG, by matplotlib (the extra `bench`)."""

from collections.abc import Sequence
from pathlib import Path

from bench.loads.load import Load
from bench.results import Results
from bench.summary import Summary

CHARTS = {
    "throughput": ("bulk down", "bulk up", "16 streams", "long link"),
    "latency": ("echo", "echo under bulk"),
    "connections": ("connections", "connections x32"),
}
OURS, OTHERS, REFERENCE = "#c2410c", "#64748b", "#cbd5e1"


class ChartsMissing(Exception):
    """matplotlib is not installed; one line with the remedy."""


def draw(results: Results, loads: Sequence[Load], folder: Path) -> None:
    """Write FOLDER/NAME.png and .svg for each of CHARTS that has figures. Raises ChartsMissing, OSError."""
    try:
        import matplotlib as mpl
    except ImportError:
        raise ChartsMissing("matplotlib is not installed: make bench installs it") from None
    mpl.use("agg")
    mpl.rcParams["svg.hashsalt"] = "bench"  # the same figures give the same file
    folder.mkdir(parents=True, exist_ok=True)
    for name, wanted in CHARTS.items():
        _draw(results, [load for load in loads if load.name in wanted], folder / name)


def _draw(results: Results, loads: Sequence[Load], path: Path) -> None:
    from matplotlib.figure import Figure as Canvas

    summary = Summary(results)
    panels = []
    for load in loads:
        for figure in load.figures:
            bars = [
                (peer, spread)
                for peer in results.peers
                if (spread := summary.spread(peer.name, load.name, figure.key))
            ]
            if figure.headline and bars:
                panels.append((figure, bars))
    if not panels:
        return
    canvas = Canvas(figsize=(4.2 * len(panels), 0.4 + 0.34 * max(len(bars) for _, bars in panels)))
    for at, (figure, bars) in enumerate(panels):
        axes = canvas.add_subplot(1, len(panels), at + 1)
        names = [peer.name if peer.encrypted else f"{peer.name} *" for peer, _ in bars]
        medians = [spread.median for _, spread in bars]
        around = [[s.median - s.least for _, s in bars], [s.most - s.median for _, s in bars]]
        axes.barh(names, medians, xerr=around, color=[_color(peer.name, peer.encrypted) for peer, _ in bars])
        axes.invert_yaxis()
        axes.set_title(f"{figure.title} ({figure.unit}, {figure.better} is better)", fontsize=9)
        axes.tick_params(labelsize=8)
    canvas.text(0.01, 0.0, "* not encrypted. Medians; whiskers: least and most of all rounds", fontsize=7)
    canvas.tight_layout()
    canvas.savefig(path.with_suffix(".png"), dpi=120)
    canvas.savefig(path.with_suffix(".svg"), metadata={"Date": None})


def _color(name: str, encrypted: bool) -> str:
    return OURS if name == "edge-tunnel" else OTHERS if encrypted else REFERENCE
