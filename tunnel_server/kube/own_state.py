"""A server's state in its cluster: made by the first server that starts, and kept in step by each."""

from __future__ import annotations

import logging
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import trio

from certs.authority import CA_CERTIFICATE, CA_KEY
from certs.files import StateError
from certs.server_state import SERVER_CERTIFICATE, ServerNames, initialise
from tunnel_daemon.backoff import full_jitter
from tunnel_server.kube.client import Cluster
from tunnel_server.kube.failures import ApiFailure
from tunnel_server.kube.resources import CONFIG_MAPS
from tunnel_server.kube.revocation_polling import poll_revocations
from tunnel_server.kube.state import ClusterState
from tunnel_server.kube.state_layout import AUTHORITY, KIND, LABELS

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from certs.state import Change
    from tunnel_server.config import ServerConfig
    from tunnel_server.endpoints import ServerAddress

log = logging.getLogger(__name__)

SERVICE = "tunnel-server"
"""By which pods in the cluster reach it."""
PUT_BACK_AFTER = 30.0
"""Seconds for which the authority has to be missing, and nothing else."""
BUNDLE = "edge-tunnel-ca"
"""The ConfigMap that agents in the cluster mount: the roots by which they know the server."""
_BUNDLE_KIND = "ca-bundle"
_LOOK_EVERY = 1.0
_BACKOFF = (1.0, 60.0)


def open_own_state(config: ServerConfig) -> ClusterState:
    """Return the state in the cluster that `config` names, known as a whole; made, if there is none.

    Asks the apiserver, and waits for it. Several servers may do so at once: one makes the authority. The
    server's certificate is issued anew when server-addresses are others than it has. Raises StateError.
    """
    settings = config.kubernetes
    try:
        cluster = Cluster.configured(settings)
    except ApiFailure as failure:
        raise StateError(str(failure)) from None
    state = ClusterState(cluster, settings.namespace)
    state.fill_cache()
    names = server_certificate_names(config.server_addresses, settings.namespace)
    _refuse_another_authority(state)
    if not names and not state.exists(SERVER_CERTIFICATE):
        raise StateError(
            f"{state} has no server's certificate yet: set server-addresses, where agents reach this server"
        )
    try:
        done = initialise(
            state, addresses=names.addresses if names else None, dns_names=names.dns_names if names else None
        )
    except ValueError as error:
        raise StateError(f"server-addresses: {error}") from None
    if done.made_authority:
        log.info("made the authority of %s in %s, %s", done.authority.domain, state, done.authority.hash)
    if done.issued:
        log.info("issued the server's certificate for %s: %s", done.names, done.issued)
    return state


def server_certificate_names(addresses: Iterable[ServerAddress], namespace: str) -> ServerNames:
    """What a server's certificate must say for agents that dial `addresses`; nothing where there are none.

    And for callers in pods, which reach it by its Service: kube-apiserver's own serving certificate has the
    same two forms of its name, the latter in the domain that nearly every cluster has.
    """
    found: list[str] = list(dict.fromkeys(each.host for each in addresses))
    if not found:
        return ServerNames()
    numbers = []
    for host in list(found):
        try:
            numbers.append(ip_address(host))
        except ValueError:
            continue
        found.remove(host)
    service = f"{SERVICE}.{namespace}.svc"
    return ServerNames(tuple(numbers), tuple(dict.fromkeys([*found, service, f"{service}.cluster.local"])))


def _refuse_another_authority(state: ClusterState) -> None:
    """Raise StateError where only the agents' bundle is left of an authority."""
    if state.exists(CA_CERTIFICATE) or state.cache.find(CONFIG_MAPS, BUNDLE) is None:
        return
    if state.ask(AUTHORITY):
        return  # another server has made both just now
    raise StateError(
        f"{state} has lost its authority, whose certificate is still in ConfigMap {BUNDLE}: restore a backup "
        "(`tunnelctl restore`); without one, remove that ConfigMap and begin anew (every edge must then join "
        "again)"
    )


async def keep_own_state(state: ClusterState, *, lasting: float) -> None:
    """Follow what other servers and `tunnelctl` change, and have agents' bundle say the same; never raises.

    A watch is asked for `lasting` seconds.
    """
    async with trio.open_nursery() as nursery:
        nursery.start_soon(partial(state.follow, lasting=lasting))
        nursery.start_soon(poll_revocations, state)
        nursery.start_soon(_keep_bundle, state)
        nursery.start_soon(_keep_authority, state)


async def _keep_authority(state: ClusterState) -> None:
    """Put the authority back that somebody has removed and nothing else with it, as long as one knows it.

    Who clears a namespace, or restores into it, removes the rest too; who is about to, has this long.
    """
    known: Mapping[str, bytes] = {}
    missing = 0.0
    while True:
        await trio.sleep(_LOOK_EVERY)
        if not state.cache.live:
            continue
        if (stored := state.cache.find(AUTHORITY.resource, AUTHORITY.name)) is not None:
            known, missing = stored.data, 0.0
        elif known and state.exists(SERVER_CERTIFICATE):
            missing += _LOOK_EVERY
            if missing >= PUT_BACK_AFTER:
                missing = 0.0
                await trio.to_thread.run_sync(_put_back, state, known)


def _put_back(state: ClusterState, known: Mapping[str, bytes]) -> None:
    def write(change: Change) -> bool:
        if state.exists(CA_CERTIFICATE) or state.exists(CA_KEY) or not state.exists(SERVER_CERTIFICATE):
            return False
        change.write(known)
        return True

    try:
        done = state.change(write)
    except StateError as error:
        log.error("the authority is gone, and cannot be put back: %s", error)  # noqa: TRY400
    else:
        if done:
            log.warning(
                "%s was removed, and is put back: to replace an authority, roll it (`tunnelctl ca roll`)",
                state.place(CA_CERTIFICATE),
            )


async def _keep_bundle(state: ClusterState) -> None:
    """Whoever removes or changes the bundle has it back within seconds; so has a roll of the authority."""
    delays = full_jitter(*_BACKOFF)
    while True:
        await trio.sleep(_LOOK_EVERY)
        try:
            wanted = state.read(CA_CERTIFICATE)
        except StateError as error:
            log.error("the ConfigMap %s stays as it is: %s", BUNDLE, error)  # noqa: TRY400 - no traceback
            await trio.sleep(next(delays))
            continue
        stored = state.cache.find(CONFIG_MAPS, BUNDLE)
        if stored is not None and stored.data.get(CA_CERTIFICATE) == wanted:
            continue
        if not state.cache.live:
            continue  # another server may know better what the roots are now
        fields = {
            "metadata": {"labels": {**LABELS, KIND: _BUNDLE_KIND}},
            "data": {CA_CERTIFICATE: wanted.decode()},
        }
        apply = partial(state.cluster.apply, CONFIG_MAPS, BUNDLE, fields, state.namespace, force=True)
        try:
            state.learn(CONFIG_MAPS, await state.cluster.call(apply))
        except ApiFailure as failure:
            log.warning("agents in the cluster may not know the authority yet: %s", failure)
            await trio.sleep(next(delays))
            continue
        log.info("the ConfigMap %s/%s has the authority's roots", state.namespace, BUNDLE)
        delays = full_jitter(*_BACKOFF)
