"""The objects of the server's state as far as this process knows them: listed, watched, and its own writes.

So that neither a handshake nor a guess at a token costs the apiserver a request, and so that what is known
goes on while it is away.
"""

from __future__ import annotations

import threading
import time
from functools import partial
from typing import TYPE_CHECKING

import trio

from tunnel_server.kube.resources import CONFIG_MAPS, SECRETS
from tunnel_server.kube.state_layout import KIND, Stored
from tunnel_server.kube.watch_set import WatchSet
from tunnel_server.kube.watching import Watcher

_OURS = 5.0
"""Seconds for which our own word counts against a watch's: far more than one is behind. What then is older
than it should be is found out when it is written, by its version.
"""

if TYPE_CHECKING:
    from collections.abc import Iterable

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import ApiResource
    from tunnel_server.metrics import Metrics


class StateCache:
    """What is known of both kinds of object; reading it never waits for a request."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._known: dict[ApiResource, dict[str, Stored]] = {}
        self._written: dict[tuple[ApiResource, str], tuple[Stored | None, float]] = {}
        """Our own writes, until the watch has caught up with them, or until then."""
        self._watches = WatchSet()
        self.generation = 0
        """Another after each change."""

    @property
    def filled(self) -> bool:
        """Whether everything was listed once."""
        return len(self._known) == 2

    @property
    def live(self) -> bool:
        """Whether both kinds are followed now."""
        return self._watches.live

    def notes(self) -> dict[str, str]:
        """Why what is known may be of before."""
        return self._watches.notes()

    def count(self, metrics: Metrics) -> None:
        """Set the metrics."""
        self._watches.count(metrics)

    def of_kind(self, resource: ApiResource, kind: str) -> dict[str, Stored]:
        """The objects with this label, by name."""
        with self._lock:
            return {name: each for name, each in self._known.get(resource, {}).items() if each.kind == kind}

    def find(self, resource: ApiResource, name: str) -> Stored | None:
        """One object, if it is there."""
        with self._lock:
            return self._known.get(resource, {}).get(name)

    def fill(self, resource: ApiResource, objects: Iterable[Stored]) -> None:
        """Take what a list or a watch says now; of what we wrote, our own word if it is later."""
        with self._lock:
            known = {each.name: each for each in objects}
            for (of, name), (ours, until) in list(self._written.items()):
                if of != resource:
                    continue
                theirs = known.get(name)
                if _caught_up(theirs, ours) or time.monotonic() > until:
                    del self._written[of, name]
                elif ours is None:
                    known.pop(name, None)
                else:
                    known[name] = ours
            self._known[resource] = known
            self.generation += 1

    def put(self, resource: ApiResource, name: str, stored: Stored | None) -> None:
        """Take what an object is after a request for it; None: gone."""
        with self._lock:
            before = self._known.get(resource, {}).get(name)
            if stored is not None and before is not None and _number(stored) <= _number(before):
                if (resource, name) in self._written and stored.version == before.version:
                    self._written[resource, name] = stored, time.monotonic() + _OURS
                return  # it was known
            self._written[resource, name] = stored, time.monotonic() + _OURS
            known = dict(self._known.get(resource, {}))
            if stored is None:
                known.pop(name, None)
            else:
                known[name] = stored
            self._known[resource] = known
            self.generation += 1

    def is_behind(self, resource: ApiResource, stored: Stored) -> bool:
        """Whether the watch has not told of this version of an object yet."""
        if not self._watches:
            return False
        told = self._watches[_watch_of(resource)].objects.get(
            f"{stored.metadata.get('namespace')}/{stored.name}"
        )
        return told is None or _number(told) < _number(stored)

    def renew(self) -> None:
        """Begin both watches anew, which may have fallen silent."""
        for watcher in self._watches:
            watcher.renew()

    async def follow(self, cluster: Cluster, namespace: str, *, lasting: float) -> None:
        """Keep in step with the cluster until cancelled; never raises."""
        async with trio.open_nursery() as nursery:
            for resource in (SECRETS, CONFIG_MAPS):
                watcher = Watcher(
                    cluster,
                    resource,
                    partial(Stored.read, resource),
                    partial(self._changed, resource),
                    namespace=namespace,
                    labels=KIND,
                    lasting=lasting,
                )
                self._watches.add(_watch_of(resource), watcher)
            self._watches.start(nursery)
            while True:
                await trio.sleep(_OURS)
                for resource in {of for of, _ in list(self._written)}:
                    self._changed(resource)  # what is still ours by then

    def _changed(self, resource: ApiResource) -> None:
        self.fill(resource, self._watches[_watch_of(resource)].objects.values())


def _watch_of(resource: ApiResource) -> str:
    """As the status and the metrics name it."""
    return f"state-{resource}"


def _caught_up(theirs: Stored | None, ours: Stored | None) -> bool:
    if ours is None:
        return theirs is None
    return theirs is not None and _number(theirs) >= _number(ours)


def _number(stored: Stored) -> int:
    """A resourceVersion as a number, which Kubernetes has promised since 1.35 and has always been so."""
    return int(stored.version) if stored.version.isdigit() else 0
