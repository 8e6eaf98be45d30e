"""`--kubeconfig` and `--context`: which cluster a command is about, where it is about one."""

from __future__ import annotations

import argparse
import os
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tunnelctl.admin_client import DEFAULT_SOCKET
from tunnelctl.errors import CommandError, NotReachableError, RefusedError, UsageError
from tunnelctl.standard_streams import tell

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tunnel_server.kube.client import Cluster

PATIENCE = 30.0
"""Seconds for which a request is tried again while the apiserver is away, or too busy."""

NAMESPACE = "edge-tunnel"
"""Where server and agents run, unless the user says otherwise."""


def add_cluster_arguments(
    parser: argparse.ArgumentParser, *, optional: bool = True, inherited: bool = False
) -> None:
    """Add `--kubeconfig`, `--context`, `--namespace`; `optional` where it also works without a cluster.

    Below a command that has them itself, `inherited`: what was said there holds unless it is said again.
    """
    default = argparse.SUPPRESS if inherited else None
    group = parser.add_argument_group(
        "in a Kubernetes cluster",
        "Each of these has the command work on the tunnel in a cluster, from wherever kubectl works. Without "
        "any, it is about the server on this machine; where there is none, about the cluster of kubectl."
        if optional
        else "The cluster is the one that kubectl would use, unless these name another.",
    )
    group.add_argument(
        "--kubeconfig",
        type=Path,
        default=default,
        metavar="FILE",
        help="as kubectl's; default: $KUBECONFIG, or ~/.kube/config",
    )
    group.add_argument(
        "--context", default=default, metavar="NAME", help="as kubectl's; default: the file's current one"
    )
    group.add_argument(
        "--namespace", default=default, metavar="NAME", help=f"of the tunnel there; default: {NAMESPACE}"
    )


def asks_cluster(args: argparse.Namespace) -> bool:
    """Whether the user named a cluster."""
    return args.kubeconfig is not None or args.context is not None or args.namespace is not None


def asks_in_cluster(args: argparse.Namespace) -> bool:
    """Whether a command that asks a server is to ask one in a cluster: see `add_cluster_arguments`."""
    if asks_cluster(args):
        return True
    if args.admin_socket != DEFAULT_SOCKET or DEFAULT_SOCKET.exists() or not has_kubeconfig():
        return False
    tell("tunnelctl: no server is here, so this is about the cluster that kubectl would use", error=True)
    return True


def has_kubeconfig() -> bool:
    """Whether kubectl would find a kubeconfig."""
    paths = (os.environ.get("KUBECONFIG") or str(Path("~/.kube/config").expanduser())).split(os.pathsep)
    return any(Path(path).exists() for path in paths if path)


def namespace_of(args: argparse.Namespace) -> str:
    """Return the tunnel's namespace that the arguments name."""
    return args.namespace or NAMESPACE


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
