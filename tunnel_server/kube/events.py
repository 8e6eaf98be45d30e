"""Events on objects of the cluster: what its operators see in `kubectl describe`.

They are told beside what happens, and never stand in its way: told once, bounded in number and in pace, for
each object and for all, and dropped, and counted, where the apiserver does not take them.
"""

from __future__ import annotations

import logging
import secrets
from collections import OrderedDict
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import trio

from tunnel_daemon.backoff import full_jitter
from tunnel_daemon.failure_log import FailureLog
from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.resources import EVENTS
from tunnel_wire.rates import Allowance

if TYPE_CHECKING:
    from collections.abc import Callable

    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import ApiResource, Object

log = logging.getLogger(__name__)

COMPONENT = "tunnel-server"

_WAITING = 256
"""Events that are yet to be told."""
_KNOWN = 1024
"""Events that are remembered, so that they are told once."""
_PACE = 0.2
"""Seconds between two, lest a thousand edges at once keep the apiserver from its work."""
_BURST, _REFILL = 25, 1 / 300
"""Events on one object at once, and a second in the long run, as Kubernetes' own components have it: what is
told of a Node is its kubelet's to change, and one that does so all the time must not keep the others' back.
"""
_OBJECTS = 4096
"""Objects of which is remembered how much was told."""
_AGAIN = 600.0
"""Seconds after which one that happens again is told again, with the number of times."""
_MESSAGE = 1024
"""Characters that an Event's message may have."""
_BACKOFF = (1.0, 60.0)


@dataclass(frozen=True, slots=True)
class About:
    """The object that an Event is about."""

    resource: ApiResource
    name: str
    namespace: str = ""
    uid: str = ""


@dataclass(eq=False, slots=True)
class _Told:
    about: About
    reason: str
    message: str
    first: datetime
    last: datetime
    count: int = 1
    name: str = ""
    """Of the Event; empty until it is made."""
    waiting: bool = True
    again_at: float = 0.0


class Events:
    """Tells what it is given, in its own time."""

    def __init__(self, cluster: Cluster, count: Callable[[str], None] = lambda _outcome: None) -> None:
        """Take `count`, which is called with "told", "failed" or "dropped" for each."""
        self._cluster = cluster
        self._count = count
        self._told: OrderedDict[tuple[About, str, str], _Told] = OrderedDict()
        self._waiting: OrderedDict[_Told, None] = OrderedDict()
        self._allowances: OrderedDict[About, Allowance] = OrderedDict()
        self._arrived = trio.Event()
        self._log = FailureLog(log)
        self._floods = FailureLog(log)

    def warn(self, about: About, reason: str, message: str) -> None:
        """Tell of something wrong; `reason` is one word in capitals and small letters. Does not wait.

        What was told before is only counted, and told again at most every ten minutes. Of one object no more
        is told than 25 different things at once, and one every five minutes after these.
        """
        key = (about, reason, message)
        now = datetime.now(UTC)
        told = self._told.get(key)
        if told is None:
            if not self._allowed(about):
                self._count("dropped")
                kind = f"{about.resource.kind} {about.name}"
                self._floods.failed(kind, f"{kind} changes too often for all of it to be told: {message}")
                return
            told = self._told[key] = _Told(about, reason, message[:_MESSAGE], now, now)
            if len(self._told) > _KNOWN:
                self._told.popitem(last=False)
        else:
            told.last, told.count = now, told.count + 1
            if told.waiting or trio.current_time() < told.again_at:
                return
            told.waiting = True
        if len(self._waiting) >= _WAITING:
            oldest, _ = self._waiting.popitem(last=False)
            oldest.waiting = False
            self._count("dropped")
        self._waiting[told] = None
        self._arrived.set()

    def _allowed(self, about: About) -> bool:
        now = trio.current_time()
        allowance = self._allowances.setdefault(about, Allowance(_REFILL, _BURST, now))
        self._allowances.move_to_end(about)
        if len(self._allowances) > _OBJECTS:
            self._allowances.popitem(last=False)
        return allowance.spend(now)

    async def run(self) -> None:
        """Tell until cancelled. Never raises."""
        delays = full_jitter(*_BACKOFF)
        while True:
            while not self._waiting:
                self._arrived = trio.Event()
                await self._arrived.wait()
            told, _ = self._waiting.popitem(last=False)
            told.again_at = trio.current_time() + _AGAIN
            try:
                await self._tell(told)
            except ApiFailure as failure:
                self._log.failed(str(failure), f"an Event is not told: {failure}")
                if not failure.lasting and len(self._waiting) < _WAITING:
                    self._waiting[told] = None
                    self._waiting.move_to_end(told, last=False)
                    await trio.sleep(next(delays))
                    continue
                self._count("failed")
            else:
                self._count("told")
                self._log.over()
                delays = full_jitter(*_BACKOFF)
            told.waiting = False
            await trio.sleep(_PACE)

    async def _tell(self, told: _Told) -> None:
        namespace = told.about.namespace or "default"  # where those of what has no namespace are
        if told.name:
            change: Object = {"count": told.count, "lastTimestamp": _written(told.last)}
            try:
                await self._cluster.call(lambda: self._cluster.merge(EVENTS, told.name, change, namespace))
            except ApiFailure as failure:
                if failure.status != 404:
                    raise
            else:
                return
        # Events live for an hour: the one that was made may be gone.
        name = f"{told.about.name[:200]}.{secrets.token_hex(8)}"
        event = _event(told, name, namespace)
        await self._cluster.call(lambda: self._cluster.create(EVENTS, event, namespace))
        told.name = name


def _event(told: _Told, name: str, namespace: str) -> Object:
    about = told.about
    involved = {
        "apiVersion": about.resource.api_version,
        "kind": about.resource.kind,
        "name": about.name,
        "namespace": about.namespace,
        "uid": about.uid,
    }
    return {
        "metadata": {"name": name, "namespace": namespace},
        "involvedObject": {key: value for key, value in involved.items() if value},
        "type": "Warning",
        "reason": told.reason,
        "message": told.message,
        "source": {"component": COMPONENT},
        "firstTimestamp": _written(told.first),
        "lastTimestamp": _written(told.last),
        "count": told.count,
    }


def _written(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")
