"""The public API over real state: it follows the networks that are configured and the authority on disk."""

import json
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest

from certs.authority import Authority
from certs.files import StateDirectory
from certs.requests import make_request, new_key
from certs.server_state import initialise
from certs.subjects import read_subject
from tests.tunnel_server.test_identity_api import peer_of
from tunnel_daemon.http1 import Request, Response
from tunnel_server.identity import ServerIdentity
from tunnel_server.peers import Peer
from tunnel_server.public_api import PublicApi

ADDRESS = "192.168.2.143"
LIFE = timedelta(days=9)


class Desk:
    """The API, and somebody who asks."""

    def __init__(self, path: Path) -> None:
        state = StateDirectory.create(path)
        initialise(state, addresses=(ip_address("192.0.2.1"),))
        self.identity = ServerIdentity(state)
        self.issued: list[tuple[str, object]] = []
        self.outcomes: list[str] = []
        self.api = PublicApi(
            state,
            self.identity,
            edge_networks=(ip_network("192.168.0.0/16"),),
            node_life=LIFE,
            servers=lambda: ["192.0.2.1:10262"],
            on_issued=lambda node, addresses: self.issued.append((node, addresses)),
            on_join_ended=self.outcomes.append,
        )

    async def ask(self, method: str, path: str, **document: str) -> Response:
        body = json.dumps(document).encode()
        return await self.api.handle(Request(method, path, {}, {}, body, Peer(("192.0.2.7", 1234))))

    async def join(self, node: str) -> Response:
        token = self.api.enrolment.tokens.create(node, [ip_address(ADDRESS)], timedelta(hours=1))[0]
        return await self.ask(
            "POST", "/v1/join", token=token, node=node, csr=make_request(new_key()).decode()
        )

    async def renew(self, shown: bytes) -> bytes:
        body = json.dumps({"csr": make_request(new_key()).decode()}).encode()
        answer = await self.api.handle(Request("POST", "/v1/renew", {}, {}, body, peer_of(shown.decode())))
        pem: str = json.loads(answer.body)["certificate"]
        return pem.encode()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path / "state")


async def test_joining_and_what_needs_a_certificate(desk: Desk) -> None:
    assert (await desk.ask("GET", "/v1/ca")).body.decode() == desk.identity.authority.pem
    assert (await desk.join("edge-1")).status == 200
    assert desk.issued == [("edge-1", (ip_address(ADDRESS),))]
    for path in ("/v1/identity", "/v1/renew"):
        assert (await desk.ask("POST", path)).status == 401
    assert (await desk.ask("GET", "/v1/else")).status == 404


async def test_other_networks_count_from_the_next_join_on(desk: Desk) -> None:
    desk.api.configure((ip_network("10.0.0.0/8"),), LIFE)
    refused = await desk.join("edge-1")
    assert refused.status == 403
    assert b"address-not-allowed" in refused.body
    desk.api.configure((ip_network("192.168.2.0/24"),), LIFE)
    assert (await desk.join("edge-2")).status == 200
    assert desk.outcomes == ["address-not-allowed", "ok"]


async def test_other_networks_forgive_no_failures(desk: Desk) -> None:
    answers = []
    for _ in range(20):
        desk.api.configure((ip_network("192.168.2.0/24"),), LIFE)
        answers.append((await desk.ask("POST", "/v1/join", token="nonsense", csr="x")).status)
    assert answers[0] == 400
    assert answers[-1] == 429


async def test_another_authority_counts_at_once(desk: Desk) -> None:
    other, _ = Authority.make(desk.identity.authority.domain)
    desk.identity.authority = other
    for told in desk.identity.on_change:
        told()
    assert (await desk.ask("GET", "/v1/ca")).body.decode() == other.pem
    desk.api.configure((ip_network("192.168.0.0/16"),), LIFE)
    assert (await desk.ask("GET", "/v1/ca")).body.decode() == other.pem


async def test_another_life_counts_from_the_next_certificate_on(desk: Desk) -> None:
    for node, life in (("edge-1", LIFE), ("edge-2", timedelta(hours=5))):
        desk.api.configure((ip_network("192.168.0.0/16"),), life)
        pem = json.loads((await desk.join(node)).body)["certificate"].encode()
        for issued in (pem, await desk.renew(pem)):
            subject = read_subject(issued)
            assert subject.certificate.not_valid_after_utc - subject.issued == life
