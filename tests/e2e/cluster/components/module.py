"""A Go module that builds Kubernetes out of the published modules, without its repository."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.e2e.cluster.components import go

KUBERNETES = "1.33.13"
"""The last minor release to take control groups v1 without a word. Its libraries are called 0.33.13."""

_PROGRAMS = Path(__file__).with_name("main.go")


def write(directory: Path) -> None:
    """Make the module in `directory`: main.go, go.mod and go.sum. Raises go.BuildError.

    Kubernetes' own go.mod names versions of all that it needs, and of its own libraries ("staging") folders
    of the repository, which the published module does not have: their published modules take the place.
    """
    downloaded = go.run(directory, "mod", "download", "-json", f"k8s.io/kubernetes@v{KUBERNETES}")
    source = Path(json.loads(downloaded)["Dir"])
    stated = json.loads(go.run(directory, "mod", "edit", "-json", str(source / "go.mod")))
    (directory / "go.mod").write_text(_text(stated))
    (directory / "go.sum").write_bytes((source / "go.sum").read_bytes())
    (directory / "main.go").write_bytes(_PROGRAMS.read_bytes())
    # What go.sum lacks are those libraries. `go mod tidy` would want the modules of everybody's tests.
    go.run(directory, "list", "-mod=mod", "-deps", ".")


def _text(stated: Mapping[str, Any]) -> str:
    libraries = f"v0.{KUBERNETES.removeprefix('1.')}"
    lines = ["module cluster-components", f"go {stated['Go']}"]
    lines += [f"godebug {each['Key']}={each['Value']}" for each in stated.get("Godebug", [])]
    lines.append(f"require k8s.io/kubernetes v{KUBERNETES}")
    for each in stated["Require"]:
        # v0.0.0 is what stands for a folder. Left here, it is found to be less than what the libraries
        # require of each other, and go.mod is written anew at each call.
        version = libraries if each["Version"] == "v0.0.0" else each["Version"]
        lines.append(f"require {each['Path']} {version}" + (" // indirect" if each.get("Indirect") else ""))
    for each in stated["Replace"]:
        old, new = each["Old"]["Path"], each["New"]
        if new["Path"].startswith("./staging/"):
            new = {"Path": old, "Version": libraries}
        lines.append(f"replace {old} => {new['Path']} {new['Version']}")
    return "\n".join(lines) + "\n"
