"""The watches of one part of the server, as its status and metrics name them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterator

    import trio

    from tunnel_server.kube.watching import Watcher
    from tunnel_server.metrics import Metrics

T = TypeVar("T")


class WatchSet:
    """Watchers by name: run together, reported together."""

    def __init__(self) -> None:
        self._watchers: dict[str, Watcher[Any]] = {}
        self._counted: dict[str, int] = {}

    def __getitem__(self, name: str) -> Watcher[Any]:
        return self._watchers[name]

    def __iter__(self) -> Iterator[Watcher[Any]]:
        return iter(self._watchers.values())

    def __bool__(self) -> bool:
        return bool(self._watchers)

    @property
    def live(self) -> bool:
        """Whether there are any, and what each knows is what the cluster has now."""
        return bool(self) and all(each.listed.is_set() and not each.problem for each in self)

    def add(self, name: str, watcher: Watcher[T]) -> Watcher[T]:
        """Have one more, and return it. Before `start`."""
        self._watchers[name] = watcher
        return watcher

    def start(self, nursery: trio.Nursery) -> None:
        """Follow, until the nursery is cancelled."""
        for watcher in self._watchers.values():
            nursery.start_soon(watcher.run)

    def notes(self) -> dict[str, str]:
        """What may not be as the cluster has it now, and why."""
        found = {}
        for name, watcher in self._watchers.items():
            if watcher.problem:
                since = datetime.fromtimestamp(watcher.since, UTC).isoformat(timespec="seconds")
                state = "what was known stays in force" if watcher.listed.is_set() else "not known yet"
                found[f"kubernetes {name}"] = f"since {since}, {state}: {watcher.problem}"
        return found

    def count(self, metrics: Metrics) -> None:
        """Set the metrics."""
        for name, watcher in self._watchers.items():
            up = watcher.listed.is_set() and not watcher.problem
            failures = watcher.failures - self._counted.get(name, 0)
            metrics.watch_seen(name, up=up, failures=failures)
            self._counted[name] = watcher.failures
