"""How an apiserver is reached, and as whom: a pod's ServiceAccount, or a kubeconfig."""

from __future__ import annotations

from typing import TYPE_CHECKING

from kubernetes.client import ApiClient, Configuration
from kubernetes.config import ConfigException, load_incluster_config, load_kube_config

from tunnel_server.kube.failures import ApiFailure
from tunnel_wire import __version__

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path


def from_pod() -> ApiClient:
    """Return a client with the ServiceAccount of the pod that this runs in. Raises ApiFailure."""

    def load(configuration: Configuration) -> None:
        load_incluster_config(configuration)  # type: ignore[no-untyped-call]

    return _client(load, "the ServiceAccount of this pod")


def from_kubeconfig(path: Path | None = None, context: str = "") -> ApiClient:
    """Return a client with what a kubeconfig says; as kubectl finds one, and its context, if not told.

    Raises ApiFailure.
    """

    def load(configuration: Configuration) -> None:
        load_kube_config(  # type: ignore[no-untyped-call]
            str(path) if path else None,
            context or None,
            client_configuration=configuration,
            persist_config=False,
        )

    named = str(path) if path else "the kubeconfig"
    return _client(load, f"context {context} of {named}" if context else named)


def _client(load: Callable[[Configuration], None], source: str) -> ApiClient:
    configuration = Configuration()
    try:
        load(configuration)
        # urllib3's own retries would multiply every timeout, and follow redirects with our token.
        configuration.retries = False
        client = ApiClient(configuration)
    except Exception as error:  # noqa: BLE001 - of a YAML parser, of base64, of a plugin that it runs
        kind = "" if isinstance(error, ConfigException) else f"{type(error).__name__}: "
        words = " ".join(str(error).split())
        raise ApiFailure(f"{source} is not usable: {kind}{words}") from None
    client.user_agent = f"edge-tunnel/{__version__}"
    return client
