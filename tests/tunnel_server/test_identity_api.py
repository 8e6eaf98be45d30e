"""The API for who has a certificate: who is answered, with what, and who is not."""

import json
from datetime import UTC, datetime, timedelta

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from certs.authority import Authority
from certs.callers import CallerStore
from certs.enrolment import Enrolment
from certs.nodes import NODES_FILE, NodeStore
from certs.renewal import Renewals, create_caller
from certs.requests import make_request, new_key
from certs.revocations import Kind, RevocationStore
from certs.roll import Roll
from certs.subjects import read_subject
from tests.tunnel_server.identified import prepare
from tunnel_daemon.http1 import Request
from tunnel_daemon.router import Router
from tunnel_server.identity_api import RENEWALS, IdentityApi
from tunnel_server.peers import Peer
from tunnel_server.revocation import Revocations

DAY = timedelta(days=1)
SERVERS = ["tunnel.example.org:10262"]


class Desk:
    outlived = None

    def __init__(self, path):
        self.state = prepare(path)
        self.load()

    def load(self):
        self.authority = Authority.load(self.state)
        self.renewals = Renewals(self.state, self.authority, node_life=9 * DAY)
        self.revocations = Revocations(self.state)
        api = IdentityApi(
            self.renewals, self.revocations, servers=lambda: SERVERS, outlived=lambda _: self.outlived
        )
        self.handle = Router(api.routes)

    def join(self, name="edge-1", key=None):
        desk = Enrolment(self.state, self.authority, is_own=lambda _: False)
        token, _ = desk.tokens.create(name, [], DAY)
        return desk.join(token, None, make_request(key or new_key())).certificate

    async def ask(self, path, body, pem=None):
        peer = Peer(("192.0.2.1", 1000)) if pem is None else peer_of(pem)
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        response = await self.handle(Request("POST", path, {}, {}, raw, peer))
        return response.status, json.loads(response.body)


def peer_of(pem):
    subject = read_subject(pem.encode())
    certificate = subject.certificate
    unit = ((("organizationalUnitName", "attested"),),) if subject.attested else ()
    form = "%b %d %H:%M:%S %Y GMT"
    seen = {
        "subject": unit,
        "subjectAltName": (("URI", subject.identity.uri),),
        "serialNumber": f"{certificate.serial_number:X}",
        "notBefore": certificate.not_valid_before_utc.strftime(form),
        "notAfter": certificate.not_valid_after_utc.strftime(form),
    }
    return Peer(("192.0.2.1", 1000), seen, certificate.public_bytes(Encoding.DER))


def csr(key=None):
    return {"csr": make_request(key or new_key()).decode()}


def code(answer):
    status, document = answer
    return status, document["error"]["code"]


@pytest.fixture
def desk(tmp_path):
    return Desk(tmp_path / "state")


async def test_a_node_hears_what_is_current_and_is_remembered(desk):
    pem = desk.join()
    status, answer = await desk.ask("/v1/identity", {"roots": ["a" * 64]}, pem)
    assert status == 200
    assert answer == {"ca": desk.authority.pem, "servers": SERVERS, "renew": ""}
    assert NodeStore(desk.state).load()["edge-1"].roots == ("a" * 64,)
    before = (desk.state.path / NODES_FILE).stat().st_mtime_ns
    await desk.ask("/v1/identity", {"roots": ["a" * 64]}, pem)
    assert (desk.state.path / NODES_FILE).stat().st_mtime_ns == before


async def test_a_node_gets_a_new_certificate(desk):
    pem, key = desk.join(), new_key()
    status, answer = await desk.ask("/v1/renew", csr(key), pem)
    assert status == 200
    subject = read_subject(answer["certificate"].encode(), issuer=desk.authority.certificate)
    assert subject.identity.uri == "spiffe://edge-tunnel/node/edge-1"
    assert subject.certificate.public_key() == key.public_key()
    assert answer["servers"] == SERVERS
    assert answer["ca"] == desk.authority.pem
    assert timedelta(days=8) < subject.certificate.not_valid_after_utc - datetime.now(UTC) <= 9 * DAY
    record = NodeStore(desk.state).load()["edge-1"]
    assert record.serial == f"{subject.certificate.serial_number:x}"


async def test_a_node_that_the_record_has_lost(desk):
    pem = desk.join()
    (desk.state.path / NODES_FILE).unlink()
    assert (await desk.ask("/v1/renew", csr(), pem))[0] == 200
    assert list(NodeStore(desk.state).load()) == ["edge-1"]


async def test_a_caller_gets_a_new_certificate_for_as_long_again(desk):
    made = create_caller(desk.state, desk.authority, "ci", new_key().public_key(), life=3 * DAY)
    status, answer = await desk.ask("/v1/renew", csr(), made.certificate)
    assert status == 200
    certificate = x509.load_pem_x509_certificate(answer["certificate"].encode())
    assert timedelta(days=2) < certificate.not_valid_after_utc - datetime.now(UTC) <= 3 * DAY
    assert CallerStore(desk.state).load()["ci"].serial == f"{certificate.serial_number:x}"


async def test_after_a_switch_of_roots_it_is_told_to_renew(desk):
    pem = desk.join()
    Roll(desk.state).start()
    Roll(desk.state).switch(force=True)
    desk.load()
    _, answer = await desk.ask("/v1/identity", {"roots": []}, pem)
    assert "root that is being replaced" in answer["renew"]
    _, answer = await desk.ask("/v1/renew", csr(), pem)
    _, answer = await desk.ask("/v1/identity", {"roots": []}, answer["certificate"])
    assert answer["renew"] == ""
    Roll(desk.state).finish(force=True)
    desk.load()
    answer = await desk.ask("/v1/renew", csr(), pem)  # on a connection from before
    assert code(answer) == (403, "revoked")
    assert "of a root that is trusted no longer" in answer[1]["error"]["message"]


@pytest.mark.parametrize("path", ["/v1/identity", "/v1/renew"])
async def test_who_is_not_answered(desk, path):
    assert code(await desk.ask(path, csr())) == (401, "no-certificate")
    old = desk.authority.issue_node(
        new_key().public_key(), "edge-1", [], life=DAY, now=datetime.now(UTC) - 2 * DAY
    )
    answer = await desk.ask(path, csr(), old)
    assert code(answer) == (403, "certificate-time")
    assert "and the server's clock says" in answer[1]["error"]["message"]
    server = desk.authority.issue_server(new_key().public_key(), "s", [], ["x"])
    assert code(await desk.ask(path, csr(), server)) == (403, "wrong-role")
    elsewhere, _ = Authority.make("elsewhere.test")
    foreign = elsewhere.issue_node(new_key().public_key(), "edge-1", [])
    assert code(await desk.ask(path, csr(), foreign)) == (403, "wrong-role")
    pem = desk.join()
    with desk.state.transaction() as transaction:
        RevocationStore(desk.state).add(transaction, Kind.NODE, "edge-1")
    if path == "/v1/renew":  # before the server has looked at its files, too
        assert code(await desk.ask(path, csr(), pem)) == (403, "revoked")
    desk.revocations.reload()
    assert code(await desk.ask(path, csr(), pem)) == (403, "revoked")


@pytest.mark.parametrize(
    "body", [b"", b"nonsense", {"csr": 5}, {"csr": "x" * 20_000}, {"csr": "nonsense"}, [], {"csr": None}]
)
async def test_malformed_requests(desk, body):
    status, answer = await desk.ask("/v1/renew", body, desk.join())
    assert status == 400
    assert answer["error"]["message"]


@pytest.mark.parametrize("roots", ["x", [1], ["a" * 64] * 9, ["A" * 64], ["a" * 63]])
async def test_malformed_roots(desk, roots):
    assert code(await desk.ask("/v1/identity", {"roots": roots}, desk.join())) == (400, "bad-request")


async def test_the_old_key_is_no_new_one(desk):
    key = new_key()
    pem = desk.join(key=key)
    status, answer = await desk.ask("/v1/renew", csr(key), pem)
    assert (status, answer["error"]["code"]) == (400, "bad-certificate-request")
    assert "new key" in answer["error"]["message"]


async def test_renewals_are_paced_for_each_identity(desk, autojump_clock):
    pem, other = desk.join(), desk.join("edge-2")
    for _ in range(RENEWALS):
        assert (await desk.ask("/v1/renew", csr(), pem))[0] == 200
    assert code(await desk.ask("/v1/renew", csr(), pem)) == (429, "too-many-renewals")
    assert (await desk.ask("/v1/renew", csr(), other))[0] == 200
    await trio.sleep(61)
    assert (await desk.ask("/v1/renew", csr(), pem))[0] == 200


async def test_a_state_that_cannot_be_used(desk, caplog):
    pem = desk.join()
    (desk.state.path / NODES_FILE).write_text("{")
    assert code(await desk.ask("/v1/renew", csr(), pem)) == (503, "server-state")
    assert "a renewal failed" in caplog.text


async def test_one_whose_node_is_gone_is_not_renewed(desk):
    pem = Enrolment(desk.state, desk.authority).enrol("edge-1", make_request(new_key())).certificate
    status, answer = await desk.ask("/v1/renew", csr(), pem)
    assert status == 200
    assert read_subject(answer["certificate"].encode()).attested
    assert NodeStore(desk.state).load()["edge-1"].attested
    desk.outlived = "the cluster has no Node edge-1 any more"
    for path in ("/v1/renew", "/v1/identity"):
        status, answer = await desk.ask(path, csr(), pem)
        assert (status, answer["error"]["code"]) == (403, "revoked")
        assert "no Node edge-1" in answer["error"]["message"]
