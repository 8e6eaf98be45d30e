"""The server's state in Secrets and ConfigMaps of the tunnel's own namespace, which all servers share.

What is in which object, and in which order they are written, is in `tunnel_server.kube.state_layout`.

Nobody is kept out while something is changed: each object is written only if it still is of the version that
was read (optimistic concurrency, by resourceVersion), and whoever was slower decides again by what it is now.
"""

from __future__ import annotations

import random
import threading
import time
from typing import TYPE_CHECKING

from certs.files import StateError, StateNotEmptyError, StateUnavailableError
from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.resources import CONFIG_MAPS, SECRETS
from tunnel_server.kube.state_cache import StateCache
from tunnel_server.kube.state_layout import (
    AUTHORITY,
    KIND,
    MAX_DATA,
    PARTS,
    Entries,
    Stored,
    Wanted,
    part_of,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from certs.state import Change, Result
    from tunnel_server.kube.client import Cluster
    from tunnel_server.kube.resources import ApiResource, Object
    from tunnel_server.kube.state_layout import Part

_TRIES = 20
"""How often a change is begun. Of n servers at one object, one is through each time."""
_PAUSE = 0.02
"""Seconds at most before the second try, twice that before the third, and so on, up to a second."""
_WAIT = 10.0
"""Seconds that a thread waits for the others of its process."""


class ClusterState:
    """A `certs.state.State` in one namespace. Threads may share one; everything blocks and raises StateError.

    Without `fill_cache`, each look asks the apiserver: right for a command that looks once. With it, files
    are what was known last, kept in step by `follow`; while it is out of step, tokens are asked for all the
    same, since one may just have been made.
    """

    def __init__(self, cluster: Cluster, namespace: str) -> None:
        self.cluster = cluster
        self.namespace = namespace
        self.cache = StateCache()
        self._lock = threading.Lock()
        self._open = threading.local()
        self._documents: dict[Part, tuple[int, dict[str, bytes]]] = {}

    def __str__(self) -> str:
        return f"namespace {self.namespace} of {self.cluster.host}"

    def __repr__(self) -> str:
        return f"<ClusterState {self}>"

    def place(self, name: str) -> str:
        """Return the object that has the file `name`: `Secret NAMESPACE/NAME`."""
        part = part_of(name)
        return f"{name} in {self}" if part is None else self._named(part.resource, part.name)

    def fill_cache(self) -> None:
        """Know everything that there is; raises StateError."""
        for resource in (SECRETS, CONFIG_MAPS):
            self.cache.fill(resource, self.list(resource))

    def learn(self, resource: ApiResource, item: Object) -> None:
        """Take the answer to a request for one of the objects that are followed."""
        stored = Stored.read(resource, item)
        self.cache.put(resource, stored.name, stored)

    async def follow(self, *, lasting: float) -> None:
        """Keep the cache in step until cancelled, by watches of `lasting` seconds each; never raises."""
        await self.cache.follow(self.cluster, self.namespace, lasting=lasting)

    def names(self) -> list[str]:
        """Return the names of all files, sorted."""
        return sorted(file for part in PARTS for file in self._contents(part))

    def exists(self, name: str) -> bool:
        """Whether there is a file `name`."""
        part = part_of(name)
        return part is not None and name in self._contents(part)

    def read(self, name: str) -> bytes:
        """Return one file."""
        part = part_of(name)
        content = None if part is None else self._contents(part).get(name)
        if content is None:
            raise StateError(f"{self.place(name)} has no {name}")
        return content

    def read_secret(self, name: str) -> bytes:
        """Return a key. Who else may read it is RBAC's to say."""
        return self.read(name)

    def version(self, *names: str) -> object:
        """Return what differs when one of the files was changed; without a cache, something new each time."""
        if not self.cache.filled:
            return object()
        return tuple(map(self._version, names))

    def _version(self, name: str) -> object:
        part = part_of(name)
        if part is None:
            return None
        if isinstance(part, Entries):
            return self.cache.generation if self.trusted(part) else object()
        stored = self.cache.find(part.resource, part.name)
        return stored and stored.version

    def change(self, body: Callable[[Change], Result]) -> Result:
        """Run `body` until nobody else was faster; raises StateError, also if that takes too often."""
        if not self._lock.acquire(timeout=_WAIT):
            raise StateUnavailableError(
                f"{self} is in use by another thread for longer than {_WAIT:g} s: is the apiserver slow?"
            )
        try:
            for number in range(_TRIES):
                view = _View(self)
                self._open.view = view
                try:
                    return body(_ClusterChange(self, view))
                except _Raced as raced:
                    lost = raced.place
                    if self.cache.filled:
                        self.cache.put(raced.resource, raced.name, self.get(raced.resource, raced.name))
                finally:
                    self._open.view = None
                time.sleep(random.uniform(0, min(1.0, _PAUSE * 2**number)))  # noqa: S311 - no secret
            raise StateUnavailableError(
                f"{lost} was changed by others each of the {_TRIES} times that it was to be written here, or "
                f"it is there without the label {KIND} of this tunnel: try again, and see who else writes it "
                "(kubectl get -o yaml --show-managed-fields)"
            )
        finally:
            self._lock.release()

    def _contents(self, part: Part) -> dict[str, bytes]:
        view: _View | None = getattr(self._open, "view", None)
        if view is not None:
            return view.contents(part)
        if not self.trusted(part):
            return part.contents(_sorted(self.ask(part)))
        generation = self.cache.generation
        made = self._documents.get(part)
        if made is None or made[0] != generation:
            made = generation, part.contents(_sorted(self.cache.of_kind(part.resource, part.kind)))
            self._documents[part] = made
        return made[1]

    def trusted(self, part: Part) -> bool:
        """Whether what is known will do for a look."""
        return self.cache.filled and (part.kind != "join-token" or self.cache.live)

    def ask(self, part: Part) -> dict[str, Stored]:
        """Return the objects of a part as the apiserver has them now."""
        if isinstance(part, Entries):
            return {each.name: each for each in self.list(part.resource, f"{KIND}={part.kind}")}
        stored = self.get(part.resource, part.name)
        return {part.name: stored} if stored else {}

    def get(self, resource: ApiResource, name: str) -> Stored | None:
        """Ask for one object."""
        try:
            return Stored.read(resource, self.cluster.get(resource, name, self.namespace))
        except ApiFailure as failure:
            if failure.status == 404:
                return None
            raise unusable(failure) from None

    def list(self, resource: ApiResource, labels: str = KIND) -> list[Stored]:
        """Ask for all objects with a label."""
        try:
            found, _ = self.cluster.list_all(resource, self.namespace, labels=labels)
        except ApiFailure as failure:
            raise unusable(failure) from None
        return [Stored.read(resource, each) for each in found]

    def put(self, wanted: Wanted, stored: Stored | None) -> None:
        """Have an object be as it is wanted, if it is still as `stored`; raises _Raced if it is not."""
        resource, name = wanted.part.resource, wanted.name
        size = sum(map(len, wanted.data.values()))
        if size > MAX_DATA:
            raise StateError(
                f"{self._named(resource, name)} would have {size} bytes, and Kubernetes takes {MAX_DATA}: "
                "nothing was changed in it; remove entries that serve no longer, or roll the authority "
                "(`tunnelctl ca roll`), after which revocations of before can be taken back"
            )
        try:
            if wanted.data:
                body = wanted.body(stored)
                if stored is None:
                    answer = self.cluster.create(resource, body, self.namespace)
                else:
                    answer = self.cluster.replace(resource, name, body, self.namespace)
                known = Stored.read(resource, answer)
            elif stored is not None:
                conditions = {"resourceVersion": stored.version}
                self.cluster.delete(resource, name, self.namespace, preconditions=conditions)
                known = None
            else:
                return
        except ApiFailure as failure:
            if failure.status == 409 or (failure.status == 404 and stored is not None):
                raise _Raced(resource, name, self._named(resource, name)) from None
            raise unusable(failure) from None
        if self.cache.filled:
            self.cache.put(resource, name, known)

    def _named(self, resource: ApiResource, name: str) -> str:
        return f"{resource.kind} {self.namespace}/{name}"


class _Raced(Exception):
    """Somebody else has changed an object since it was read."""

    def __init__(self, resource: ApiResource, name: str, place: str) -> None:
        super().__init__(place)
        self.resource = resource
        self.name = name
        self.place = place


class _View:
    """What one run of a change reads: each part once, so that it decides by one state of each object."""

    def __init__(self, state: ClusterState) -> None:
        self._state = state
        self._parts: dict[Part, dict[str, Stored]] = {}
        self._contents: dict[Part, dict[str, bytes]] = {}

    def contents(self, part: Part) -> dict[str, bytes]:
        """The files of a part."""
        if part not in self._contents:
            self._contents[part] = part.contents(_sorted(self.objects(part)))
        return self._contents[part]

    def objects(self, part: Part) -> dict[str, Stored]:
        """The objects of a part, by name.

        Thousands of entries are taken as they are known: of what is then written, a version that is too old
        is refused. Single objects are asked for, because a decision may hang on one that is not written, as
        on the revocations.
        """
        if part not in self._parts:
            known = isinstance(part, Entries) and self._state.trusted(part)
            cache = self._state.cache
            self._parts[part] = cache.of_kind(part.resource, part.kind) if known else self._state.ask(part)
        return self._parts[part]


class _ClusterChange:
    """A `certs.state.Change` of a cluster's objects."""

    def __init__(self, state: ClusterState, view: _View) -> None:
        self._state = state
        self._view = view

    def write(self, files: Mapping[str, bytes], remove: Iterable[str] = ()) -> None:
        """Write the objects that change, in the order of their parts, unless somebody was faster."""
        contents: dict[str, bytes | None] = {**dict.fromkeys(remove), **files}
        for name in contents:
            if part_of(name) is None:
                raise StateError(
                    f"{name} is not kept in a cluster: ports are mapped in a ConfigMap, which "
                    "`tunnelctl map-port` writes there"
                )
        self._put_all(
            (wanted, stored)
            for part in PARTS
            if not contents.keys().isdisjoint(part.files)
            for wanted, stored in self._pairs(part, contents)
            if stored is None or dict(stored.data) != dict(wanted.data)
        )

    def fill(self, files: Mapping[str, bytes]) -> tuple[str, ...]:
        """Write to a namespace that has no state of ours, or the beginning of just this one.

        Raises StateNotEmptyError. Returns the names of what is not kept in a cluster.
        """
        pairs = [
            pair
            for part in PARTS
            for pair in self._pairs(part, {each: files.get(each) for each in part.files})
        ]
        for wanted, stored in pairs:
            if stored is not None and dict(stored.data) != dict(wanted.data):
                place = self._state.place(wanted.part.files[0])
                raise StateNotEmptyError(
                    f"{self._state} is not empty ({place} has other contents): restore before the first "
                    "server starts there, into another namespace, or stop the servers and remove what is "
                    f"there: kubectl -n {self._state.namespace} delete secrets,configmaps -l {KIND}"
                )
        # The authority last: what is interrupted before has none, and no server starts with it.
        missing = [(wanted, stored) for wanted, stored in pairs if stored is None]
        self._put_all(sorted(missing, key=lambda pair: pair[0].part is AUTHORITY))
        return tuple(sorted(name for name in files if part_of(name) is None))

    def _pairs(
        self, part: Part, contents: Mapping[str, bytes | None]
    ) -> Iterable[tuple[Wanted, Stored | None]]:
        now = self._view.objects(part)
        return [(wanted, now.get(wanted.name)) for wanted in part.wanted(now, contents)]

    def _put_all(self, pairs: Iterable[tuple[Wanted, Stored | None]]) -> None:
        done: list[str] = []
        for wanted, stored in pairs:
            try:
                self._state.put(wanted, stored)
            except StateError as error:
                if not done:
                    raise
                after = f"{', '.join(done[:3])}{' and more' if len(done) > 3 else ''}"
                raise type(error)(f"{error}; {after} was written before: do the same again") from None
            done.append(wanted.name)


def unusable(failure: ApiFailure) -> StateError:
    """What a failed request means for whoever needs the state; the text is the failure's."""
    text = str(failure)
    if failure.status == 404:
        text += ": `tunnelctl install` makes the namespace"
    return StateError(text) if failure.lasting else StateUnavailableError(text)


def _sorted(objects: Mapping[str, Stored]) -> list[Stored]:
    """By name, so that documents made of them are the same each time."""
    return [objects[name] for name in sorted(objects)]
