"""Following the objects of one kind: listed, then watched, whatever happens to the apiserver.

What is known stays known while the apiserver is away, and is caught up with when it is back: from the last
version seen, or by a new list where that is too old, so that what was removed meanwhile is removed.
"""

from __future__ import annotations

import json
import logging
import threading
import time
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import trio
import urllib3

from tunnel_daemon.backoff import full_jitter
from tunnel_daemon.failure_log import FailureLog
from tunnel_server.kube.failures import ApiFailure, ApiRequest, no_answer

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import ApiResource, Object

log = logging.getLogger(__name__)

T = TypeVar("T")

_BACKOFF = (0.5, 10.0)
"""Seconds: the ceiling of the first delay after a failure, and of every later one."""
_USEFUL = 5.0
"""Seconds that a watch must have lived for the next failure to be a new one."""
_LONGEST_LINE = 16 * 1024 * 1024
"""Bytes of one event. etcd takes objects of 1.5 MiB."""
_READ = 65536


class Watcher(Generic[T]):
    """Keeps `objects` as the cluster has them."""

    def __init__(
        self,
        cluster: Cluster,
        resource: ApiResource,
        read: Callable[[Object], T],
        on_change: Callable[[], None],
        *,
        namespace: str = "",
        name: str = "",
        labels: str = "",
        lasting: float = 60.0,
    ) -> None:
        """Follow a resource: in one namespace or in all, and only the object called `name` if that is given.

        `read` makes of an object what is kept of it; it never raises, and what it returns is compared.
        `on_change` is called in trio's thread, and does not wait. A watch is asked for `lasting` seconds.
        """
        self.objects: Mapping[str, T] = {}
        """By `NAMESPACE/NAME`, or by name. Replaced when something in it changes."""
        self.listed = trio.Event()
        """Set once `objects` is what the cluster has had at some time."""
        self.problem = ""
        """Why it may not be what the cluster has now; empty if it is."""
        self.since = time.time()
        """Seconds since the epoch, of the last change of `problem` from or to nothing."""
        self.failures = 0
        self.lists = 0
        self._cluster = cluster
        self._resource = resource
        self._read = read
        self._on_change = on_change
        self._namespace = namespace
        self._fields = f"metadata.name={name}" if name else ""
        self._labels = labels
        self._lasting = lasting
        self._version = ""
        self._scope = trio.CancelScope()
        self._limiter = trio.CapacityLimiter(2)
        """One that works, and one that was left and has not noticed yet."""
        self._log = FailureLog(log)

    async def run(self) -> None:
        """Follow until cancelled. Never raises; what a thread is at then is cut off, not waited for."""
        delays = full_jitter(*_BACKOFF)
        while True:
            began = trio.current_time()
            try:
                with trio.CancelScope() as self._scope:
                    if not self._version:
                        await self._list()
                    await self._watch()
            except ApiFailure as failure:
                # Whoever answers with an error may know our version no more, or not yet (a restored etcd).
                if failure.status:
                    self._version = ""
                if failure.status != 410:
                    self._failed(failure)
            except Exception:
                log.exception("watching %s goes on after a defect", self._resource)
                self._version = ""
            if trio.current_time() - began >= _USEFUL:
                delays = full_jitter(*_BACKOFF)
            await trio.sleep(next(delays))

    def renew(self) -> None:
        """Ask anew, soon, from the last version on: for whoever knows that something was missed."""
        self._scope.cancel()

    def _failed(self, failure: ApiFailure) -> None:
        self.failures += 1
        if not self.problem:
            self.since = time.time()
        self.problem = str(failure)
        self._log.failed(str(failure), f"{failure}; what is known of {self._resource} stays in force")

    def _works(self) -> None:
        if self.problem:
            self.since = time.time()
            log.info("%s are watched again", self._resource)
        self.problem = ""
        self._log.over()

    async def _list(self) -> None:
        items, version = await trio.to_thread.run_sync(
            lambda: self._cluster.list_all(
                self._resource, self._namespace, labels=self._labels, fields=self._fields
            ),
            abandon_on_cancel=True,
            limiter=self._limiter,
        )
        self.lists += 1
        self._version = version
        found = {_key(item): self._read(item) for item in items}
        changed = found != self.objects
        self.objects = found
        first = not self.listed.is_set()
        self.listed.set()
        if changed or first:
            self._on_change()

    async def _watch(self) -> None:
        """Take what happens from the last version on, until the watch ends. Raises ApiFailure."""
        reading = _Reading(self._open, self._take, self._works)
        try:
            await trio.to_thread.run_sync(
                reading.run, trio.lowlevel.current_trio_token(), abandon_on_cancel=True, limiter=self._limiter
            )
        except (urllib3.exceptions.HTTPError, OSError, ValueError) as error:
            raise no_answer(self._cluster.host, self._request, error) from None
        finally:
            reading.stop()

    def _open(self) -> urllib3.HTTPResponse:
        return self._cluster.open_watch(
            self._resource,
            self._namespace,
            labels=self._labels,
            fields=self._fields,
            since=self._version,
            seconds=self._lasting,
        )

    @property
    def _request(self) -> ApiRequest:
        return ApiRequest("watch", self._resource, self._namespace)

    def _take(self, events: list[dict[str, Any]]) -> None:
        """Take a batch of events. Raises ApiFailure for one that is an error."""
        objects = dict(self.objects)
        try:
            for event in events:
                kind, item = event.get("type"), event.get("object") or {}
                if kind == "ERROR":
                    said = f"{item.get('reason', '')}: {item.get('message', '')}"
                    text = f"apiserver {self._cluster.host}: {self._request}: {' '.join(said.split())}"
                    raise ApiFailure(text, status=int(item.get("code") or 500), reason=item.get("reason", ""))
                if kind == "DELETED":
                    objects.pop(_key(item), None)
                elif kind in {"ADDED", "MODIFIED"}:
                    objects[_key(item)] = self._read(item)
                self._version = str(item["metadata"]["resourceVersion"])
        finally:
            if objects != self.objects:
                self.objects = objects
                self._on_change()


class _Reading:
    """One watch, read in a thread: that can be stopped from another, which a blocked read does not feel."""

    def __init__(
        self,
        open_watch: Callable[[], urllib3.HTTPResponse],
        take: Callable[[list[dict[str, Any]]], None],
        opened: Callable[[], None],
    ) -> None:
        self._open = open_watch
        self._take = take
        self._opened = opened
        self._response: urllib3.HTTPResponse | None = None
        self._stopped = threading.Event()

    def run(self, token: trio.lowlevel.TrioToken) -> None:
        """Read until the watch ends or is stopped. Raises what its reads and `take` raise."""
        response = self._open()
        try:
            self._response = response
            self._in_trio(token, self._opened)
            if self._stopped.is_set():  # while it was opened
                return
            for events in _batches(response):
                if self._stopped.is_set():
                    return
                self._in_trio(token, self._take, events)
        finally:
            response.close()

    def stop(self) -> None:
        """Have the thread end, which may take a moment; call it in trio's thread."""
        self._stopped.set()
        if self._response is not None:
            try:
                self._response.shutdown()
            except (OSError, ValueError, RuntimeError):
                pass  # it has ended

    def _in_trio(self, token: trio.lowlevel.TrioToken, work: Callable[..., None], *arguments: object) -> None:
        def unless_stopped() -> None:
            if not self._stopped.is_set():
                work(*arguments)

        try:
            trio.from_thread.run_sync(unless_stopped, trio_token=token)
        except trio.RunFinishedError:
            self._stopped.set()


def _batches(response: urllib3.HTTPResponse) -> Iterator[list[dict[str, Any]]]:
    """The events of a watch, as many at once as came at once."""
    rest = b""
    for chunk in response.stream(_READ):
        *lines, rest = (rest + chunk).split(b"\n")
        if len(rest) > _LONGEST_LINE:
            raise ValueError(f"an event of more than {_LONGEST_LINE} bytes")
        if events := [json.loads(line) for line in lines if line]:
            yield events


def _key(item: Object) -> str:
    about = item.get("metadata") or {}
    namespace, name = about.get("namespace", ""), about.get("name", "")
    return f"{namespace}/{name}" if namespace else str(name)
