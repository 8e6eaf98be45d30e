"""`--kubeconfig` and `--context`: which cluster a command is about, where it is about one."""

from __future__ import annotations

import os
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tunnelctl.errors import CommandError, NotReachableError, RefusedError, UsageError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Iterator

    from tunnel_server.kube.client import Cluster

PATIENCE = 30.0
"""Seconds for which a request is tried again while the apiserver is away, or too busy."""

NAMESPACE = "edge-tunnel"
"""Where server and agents run; always this one."""


def add_cluster_arguments(parser: argparse.ArgumentParser, *, optional: bool = True) -> None:
    """Add `--kubeconfig` and `--context`; `optional` where the command also works without a cluster."""
    group = parser.add_argument_group(
        "in a Kubernetes cluster",
        "Either of these has the command work on the tunnel in a cluster, from wherever kubectl works."
        if optional
        else "The cluster is the one that kubectl would use, unless these name another.",
    )
    group.add_argument(
        "--kubeconfig",
        type=Path,
        metavar="FILE",
        help="as kubectl's; default: $KUBECONFIG, or ~/.kube/config",
    )
    group.add_argument("--context", metavar="NAME", help="as kubectl's; default: the file's current one")


def asks_cluster(args: argparse.Namespace) -> bool:
    """Whether the user named a cluster."""
    return args.kubeconfig is not None or args.context is not None


@contextmanager
def open_cluster(args: argparse.Namespace) -> Iterator[Cluster]:
    """Give the cluster that the arguments name; what it refuses meanwhile becomes a CommandError."""
    try:
        from tunnel_server.kube.access import from_kubeconfig
        from tunnel_server.kube.client import Cluster
        from tunnel_server.kube.failures import ApiFailure
    except ModuleNotFoundError as error:
        raise CommandError(
            f"{error.name} is not installed: work on a cluster needs edge-tunnel[server]"
        ) from None
    path = args.kubeconfig or Path(os.environ.get("KUBECONFIG") or Path("~/.kube/config").expanduser())
    if os.pathsep not in str(path) and not path.exists():
        raise UsageError(
            f"{path}: there is no such file: name a kubeconfig with --kubeconfig, or in $KUBECONFIG"
        )
    try:
        cluster = Cluster(partial(from_kubeconfig, path, args.context or ""), patience=PATIENCE)
        try:
            yield cluster
        finally:
            cluster.close()
    except ApiFailure as failure:
        raise as_command_error(failure) from None


def as_command_error(failure: Exception) -> CommandError:
    """Return what an ApiFailure is for the command line, exit code included."""
    status = getattr(failure, "status", 0)
    kind = {0: NotReachableError, 401: RefusedError, 403: RefusedError, 409: RefusedError}.get(
        status, CommandError
    )
    return kind(str(failure))
