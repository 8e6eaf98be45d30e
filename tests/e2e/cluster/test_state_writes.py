"""Whoever changes the state in a cluster may die after any object that it writes.

For every change that writes more than one: which, in which order, as docs/kubernetes/state.md says; what is
so after each; and that doing the same again, or the next server that looks, makes it whole.
"""

from __future__ import annotations

import itertools
import re
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from functools import partial
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from certs.authority import Authority
from certs.backup import Backup, make_backup, read_backup, restore_backup
from certs.enrolment import Enrolment
from certs.files import StateDirectory, StateError
from certs.nodes import NodeStore
from certs.requests import make_request, new_key
from certs.revocations import Kind, RevocationStore
from certs.roll import Phase, Roll
from certs.server_state import initialise
from certs.subjects import is_issued_by, read_subject
from certs.tokens import TokenState, TokenStore
from tunnel_server.kube.access import from_kubeconfig
from tunnel_server.kube.client import Cluster
from tunnel_server.kube.state import ClusterState
from tunnel_server.kube.state_layout import PARTS, Entries

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.cluster.control_plane import ControlPlane

PAGE = Path(__file__).parents[3] / "docs" / "kubernetes" / "state.md"
ADDRESS = ip_address("203.0.113.10")
HOUR = timedelta(hours=1)
_count = itertools.count(1)


class Dead(BaseException):
    """What nobody handles, as nobody handles SIGKILL."""


class Mortal(ClusterState):
    """Writes so many objects, and dies."""

    left = 1_000_000

    def __init__(self, *given: object) -> None:
        super().__init__(*given)  # type: ignore[arg-type]
        self.written: list[str] = []

    def put(self, wanted, stored):
        super().put(wanted, stored)
        if stored is None and not wanted.data:
            return  # it is not there, as it should be
        self.written.append(f"{wanted.part.resource.kind} {wanted.part.name}")
        self.left -= 1
        if not self.left:
            raise Dead


@dataclass
class Scene:
    """A namespace with what a change begins with."""

    state: ClusterState
    given: dict[str, object] = field(default_factory=dict)


def make(state: ClusterState) -> None:
    initialise(state, addresses=(ADDRESS,), dns_names=())


def desk(state: ClusterState) -> Enrolment:
    return Enrolment(state, Authority.load(state), is_own=lambda _address: False)


def token(state: ClusterState, node: str) -> str:
    return TokenStore(state).create(node, [], HOUR)[0]


# --- the first start ------------------------------------------------------------------------------


def nothing(scene: Scene) -> None:
    assert not scene.state.names()


def begun(scene: Scene, _written: int) -> None:
    """There is one authority, and it stays."""
    found = Authority.load(scene.state).hash
    assert scene.given.setdefault("hash", found) == found


# --- a join ---------------------------------------------------------------------------------------


def a_token(scene: Scene) -> None:
    make(scene.state)
    scene.given |= {"token": token(scene.state, "edge-1"), "csr": make_request(new_key())}


def join(state: ClusterState, scene: Scene) -> None:
    enrolled = desk(state).join(str(scene.given["token"]), None, scene.given["csr"])  # type: ignore[arg-type]
    scene.given["certificate"] = enrolled.certificate


def token_used(scene: Scene, _written: int) -> None:
    (record,) = TokenStore(scene.state).list()
    assert record.state(datetime.now(UTC)) is TokenState.USED
    nodes = NodeStore(scene.state).load()
    serial = f"{read_subject(record.certificate.encode()).certificate.serial_number:x}"
    assert {each.serial for each in nodes.values()} <= {serial}
    assert scene.given.get("certificate") in {None, record.certificate}


# --- a revocation ---------------------------------------------------------------------------------


def three_tokens(scene: Scene) -> None:
    make(scene.state)
    for _ in range(3):
        token(scene.state, "edge-1")


def revoke(state: ClusterState, _scene: Scene) -> None:
    others = TokenStore(state).without_node("edge-1")
    state.change(lambda change: RevocationStore(state).add(change, Kind.NODE, "edge-1", "", others))


def tokens_follow(scene: Scene, written: int) -> None:
    assert RevocationStore(scene.state).load().of(Kind.NODE, "edge-1")
    states = [each.state(datetime.now(UTC)) for each in TokenStore(scene.state).list()]
    assert states.count(TokenState.REVOKED) == written - 1


# --- a roll ---------------------------------------------------------------------------------------


def rolling(scene: Scene) -> None:
    make(scene.state)
    Roll(scene.state).start()
    scene.given["before"] = Authority.load(scene.state).hash


def switch(state: ClusterState, _scene: Scene) -> None:
    Roll(state).switch(force=True)


def both_trusted(scene: Scene, _written: int) -> None:
    assert Roll(scene.state).status().phase is Phase.REPLACING
    authority = Authority.load(scene.state)
    shown = read_subject(scene.state.read("server.crt")).certificate
    assert any(is_issued_by(shown, root) for root in authority.roots)


# --- a restore ------------------------------------------------------------------------------------


def whole_backup(tmp_path: Path) -> Backup:
    standalone = StateDirectory.create(tmp_path / "standalone")
    make(standalone)  # type: ignore[arg-type]
    for name in ("edge-1", "edge-2"):
        joining = token(standalone, name)  # type: ignore[arg-type]
        desk(standalone).join(joining, None, make_request(new_key()))  # type: ignore[arg-type]
    standalone.change(lambda change: RevocationStore(standalone).add(change, Kind.NODE, "edge-2"))
    return read_backup(make_backup(standalone, None), None)


def restore(state: ClusterState, scene: Scene) -> None:
    restore_backup(scene.given["backup"], state)  # type: ignore[arg-type]


def no_server_starts(scene: Scene, _written: int) -> None:
    """Until it is all there."""
    if not scene.state.exists("ca.key"):
        with pytest.raises(StateError, match="although there"):
            make(scene.state)
        assert not scene.state.exists("ca.key")


# --------------------------------------------------------------------------------------------------

MAP, SECRET = "ConfigMap edge-tunnel-", "Secret edge-tunnel-"
CHANGES: dict[str, tuple] = {
    "init": (nothing, lambda state, _: make(state), begun, [f"{SECRET}ca", f"{SECRET}server"], None),
    "join": (a_token, join, token_used, [f"{SECRET}token-*", f"{SECRET}node-*"], None),
    "revoke": (
        three_tokens, revoke, tokens_follow, [f"{MAP}revocations", *[f"{SECRET}token-*"] * 3], None,
    ),
    "switch": (
        rolling, switch, both_trusted, [f"{SECRET}ca", f"{SECRET}server"], lambda state, _: initialise(state),
    ),
    "restore": (
        nothing, restore, no_server_starts,
        [
            f"{MAP}revocations", f"{SECRET}server", *[f"{SECRET}token-*"] * 2, *[f"{SECRET}node-*"] * 2,
            f"{SECRET}ca",
        ],
        None,
    ),
}  # fmt: skip
"""What there is, what is done, what is so after each write, which these are, and what is done after a death,
if not the same again.
"""


@pytest.fixture
def scenes(apiserver: ControlPlane, namespace: str, tmp_path: Path) -> Callable[[], Scene]:
    cluster = Cluster(partial(from_kubeconfig, apiserver.kubeconfig))
    given = {"backup": whole_backup(tmp_path)}

    def scene() -> Scene:
        name = apiserver.namespace(f"{namespace}-{next(_count)}")
        return Scene(ClusterState(cluster, name), dict(given))

    return scene


def contents(state: ClusterState) -> Iterator[tuple[str, object]]:
    """What can be compared between two runs: neither keys nor times."""
    now = datetime.now(UTC)
    yield "files", state.names()
    yield "tokens", sorted((each.node, each.state(now)) for each in TokenStore(state).list())
    yield "nodes", sorted(NodeStore(state).load())
    yield "revoked", [each.value for each in RevocationStore(state).load()]
    authority = Authority.load(state)
    yield "roots", len(authority.roots)
    shown = read_subject(state.read("server.crt")).certificate
    yield "server", is_issued_by(shown, authority.certificate)


@pytest.mark.parametrize("name", CHANGES)
def test_killed_after_each_write(scenes: Callable[[], Scene], name: str) -> None:
    prepare, change, holds, writes, again = CHANGES[name]
    whole = scenes()
    prepare(whole)
    living = Mortal(whole.state.cluster, whole.state.namespace)
    change(living, whole)
    assert living.written == writes
    for number in range(1, len(writes) + 1):
        scene = scenes()
        prepare(scene)
        dying = Mortal(scene.state.cluster, scene.state.namespace)
        dying.left = number
        with pytest.raises(Dead):
            change(dying, scene)
        assert dying.written == writes[:number]
        holds(scene, number)
        (again or change)(scene.state, scene) if number < len(writes) else None
        assert dict(contents(scene.state)) == dict(contents(whole.state))
        holds(scene, len(writes))


def test_the_page_has_the_order() -> None:
    """Of all parts, as they are written; and each change of several has its line."""
    page = PAGE.read_text()
    rows = re.findall(r"^\| (?:Secret|ConfigMap) `(edge-tunnel-[a-z]+)", page, flags=re.MULTILINE)
    parts = [each.prefix.rstrip("-") if isinstance(each, Entries) else each.name for each in PARTS]
    assert rows == [*parts, "edge-tunnel-ca"]
    for name in CHANGES:
        assert re.search(rf"^\| [^|]*`?\b{name}\b", page, flags=re.MULTILINE), name
