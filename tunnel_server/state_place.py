"""Where the server's state is: a directory of this host, or a namespace of a cluster."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from certs.files import StateDirectory, StateError
from certs.server_state import ServerNames
from tunnel_server.own_certificate import OwnCertificate

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    import trio

    from certs.state import State
    from tunnel_server.config import ServerConfig
    from tunnel_server.kube.client import Cluster
    from tunnel_server.metrics import Metrics


class StatePlace:
    """The state, and what keeps it while the server runs."""

    def __init__(self, config: ServerConfig) -> None:
        """Open it, which in a cluster waits for the apiserver; raises StateError."""
        self._names: Callable[[ServerConfig], ServerNames] = lambda _config: ServerNames()
        self._start: Callable[[trio.Nursery], None] = lambda _nursery: None
        self.notes: Callable[[], Mapping[str, str]] = dict
        """What is known of before only, and why."""
        self.count: Callable[[Metrics], None] = lambda _metrics: None
        """Set the metrics."""
        self.state: State
        self.cluster: Cluster | None = None
        """Where it is, if it is in one."""
        if config.kubernetes.enabled:
            self._open_cluster(config)
        elif config.state_dir.exists():
            self.state = StateDirectory(config.state_dir)
        else:
            raise StateError(f"{config.state_dir} does not exist: run `tunnelctl init` first")
        self._config = config
        self._certificate = OwnCertificate(self.state, lambda: self._names(self._config))

    def _open_cluster(self, config: ServerConfig) -> None:
        # `kubernetes` costs memory: it is loaded only where it is used.
        from tunnel_server.kube.own_state import (
            keep_own_state,
            open_own_state,
            server_certificate_names,
        )

        state = open_own_state(config)
        lasting = config.kubernetes.watch_timeout
        self.state = state
        self.cluster = state.cluster
        self.notes = state.cache.notes
        self.count = state.cache.count
        self._names = lambda config: server_certificate_names(
            config.server_addresses, config.kubernetes.namespace
        )
        self._start = lambda nursery: nursery.start_soon(partial(keep_own_state, state, lasting=lasting))

    def keep(self, nursery: trio.Nursery) -> None:
        """Start what keeps the state, until cancelled."""
        self._start(nursery)
        nursery.start_soon(self._certificate.keep)

    def configure(self, config: ServerConfig) -> None:
        """Go by another configuration: the certificate may have to say other names, at once."""
        self._config = config
        self._certificate.changed()

    def certifies(self, hosts: Iterable[str]) -> bool:
        """Whether a certificate for `hosts` is the one that the configuration asks for, as far as it does."""
        return set(self._names(self._config).hosts) <= set(hosts)
