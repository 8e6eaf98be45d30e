"""`python -m deploy.render [--check]`: the plain YAML of deploy/, out of the chart.

The chart is the one source. Rendered from it are deploy/kubernetes/edge-tunnel.yaml, for `kubectl apply`; the
same file as data of the package `tunnelctl`, for `tunnelctl install`, and there too the chart with callers by
name; and the static pod of an edge.
"""

import argparse
import re
import subprocess
import sys
from pathlib import Path

from tests.e2e.cluster.components import go
from tests.e2e.cluster.components.released import HELM

ROOT = Path(__file__).parents[1]
CHART = ROOT / "deploy" / "chart"
MANIFESTS = Path("deploy/kubernetes/edge-tunnel.yaml")
PACKAGED = Path("tunnelctl/manifests/edge-tunnel.yaml")
PACKAGED_BY_NAME = Path("tunnelctl/manifests/edge-tunnel-by-name.yaml")
STATIC_POD = Path("deploy/kubernetes/static-pod/tunnel-agent.yaml")
REQUIRED = ("--set=serverAddresses={tunnel.example.org:10262}", "--set=edgeNetworks={192.168.0.0/16}")
"""Values that have no default, as the plain YAML has them."""
KUBERNETES = "1.33.0"
"""Of the cluster that Helm is to think of; nothing in the chart depends on it, but its `kubeVersion`."""

_HEAD = """\
# Rendered from deploy/chart by `make manifests`: change the chart.
"""
_EDIT = """\
# Before `kubectl apply -f`, put the address at which agents reach your server where tunnel.example.org
# stands, twice; the networks that your edges are in where edge-networks stands; and an image that your nodes
# can have: docs/kubernetes/install.md.
"""


def template(program: Path, *options: str) -> str:
    """Return what `helm template` makes of the chart. Raises CalledProcessError."""
    release = ["edge-tunnel", CHART, "--namespace=edge-tunnel", f"--kube-version={KUBERNETES}"]
    words = [program, "template", *release, *options]
    return subprocess.run(words, capture_output=True, text=True, check=True).stdout


def rendered(program: Path) -> dict[Path, str]:
    """Return the files, by their places in the repository."""
    whole = (program, *REQUIRED, "--set=createNamespace=true")
    everything = _HEAD + _EDIT + _plain(template(*whole))
    by_name = _HEAD + _plain(template(*whole, "--set=server.byName.enabled=true"))
    pod = template(
        program, *REQUIRED, "--set=agent.staticPod=true", "--show-only=templates/agent-static-pod.yaml"
    )
    return {
        MANIFESTS: everything,
        PACKAGED: everything,
        PACKAGED_BY_NAME: by_name,
        STATIC_POD: _HEAD + _plain(pod),
    }


def _plain(text: str) -> str:
    """Leave out what says that Helm keeps these objects."""
    text = re.sub(r"^# Source: .*\n", "", text, flags=re.MULTILINE)
    return re.sub(r"^ *app\.kubernetes\.io/managed-by: .*\n", "", text, flags=re.MULTILINE)


def main() -> int:
    """Write the files, or compare them; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make manifests", description="Render deploy/chart as plain YAML.")
    parser.add_argument(
        "--check", action="store_true", help="only say which files are not as the chart has them"
    )
    check: bool = parser.parse_args().check
    try:
        files = rendered(HELM.make(print))
    except (go.BuildError, subprocess.CalledProcessError) as error:
        print(f"make manifests: {getattr(error, 'stderr', None) or error}", file=sys.stderr)
        return 1
    old = [path for path, text in files.items() if not _is(ROOT / path, text)]
    for path in old:
        print(f"{path}: {'is not what the chart renders: run `make manifests`' if check else 'written'}")
        if not check:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(files[path])
    return 1 if check and old else 0


def _is(path: Path, text: str) -> bool:
    return path.exists() and path.read_text() == text


if __name__ == "__main__":
    sys.exit(main())
