"""The join API: what it answers, what it never spends, and whom it makes wait."""

import json
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from certs.authority import Authority
from certs.enrolment import Enrolment
from certs.files import StateDirectory, StateUnavailableError
from certs.requests import make_request, new_key
from certs.revocations import Kind, RevocationStore
from certs.subjects import read_subject
from tunnel_daemon.http1 import Request
from tunnel_server.attestor import (
    AttestationRefusedError,
    AttestationUnavailableError,
    Attested,
)
from tunnel_server.join_api import FailureLimiter, JoinApi, JoinLimits, source_of

ADDRESS = ip_address("192.168.2.143")
UNKNOWN = f"00000000.{'A' * 43}"
PEER = ("198.51.100.7", 40000)


class Clock:
    now = datetime.now(UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state(tmp_path):
    return StateDirectory.create(tmp_path / "state")


@pytest.fixture
def enrolment(state, clock):
    return Enrolment(state, Authority.create(state, "d"), is_own=lambda _: False, clock=clock)


@pytest.fixture
def issued():
    return []


@pytest.fixture
def api(enrolment, issued):
    return JoinApi(
        enrolment,
        servers=lambda: ["203.0.113.5:10262"],
        on_issued=lambda *given: issued.append(given),
        limits=JoinLimits(failures=3, seconds_per_failure=10),
    )


def token_for(enrolment, node="edge-1"):
    return enrolment.tokens.create(node, [ADDRESS], timedelta(hours=1))


async def post(api, peer=PEER, **fields):
    body = fields.pop("body", None) or json.dumps(fields).encode()
    response = await api.handle(Request("POST", "/v1/join", {}, {}, body, peer))
    return response.status, json.loads(response.body)


def csr(key=None):
    return make_request(key or new_key()).decode()


async def test_the_authority_for_anybody(api, enrolment):
    response = await api.handle(Request("GET", "/v1/ca", {}, {}, b"", PEER))
    assert (response.status, response.body.decode()) == (200, enrolment.authority.pem)
    for method, path, status in [("GET", "/v1/join", 405), ("POST", "/v1/ca", 405), ("GET", "/", 404)]:
        assert (await api.handle(Request(method, path, {}, {}, b"", PEER))).status == status


async def test_a_join(api, enrolment, issued):
    token, _ = token_for(enrolment)
    key = new_key()
    status, answer = await post(api, token=token, node="edge-1", csr=csr(key))
    assert status == 200
    assert set(answer) == {"node", "addresses", "certificate", "ca", "servers"}
    assert (answer["node"], answer["addresses"]) == ("edge-1", ["192.168.2.143"])
    assert answer["servers"] == ["203.0.113.5:10262"]
    subject = read_subject(answer["certificate"].encode(), enrolment.authority.certificate)
    assert subject.certificate.public_key() == key.public_key()
    assert issued == [("edge-1", (ADDRESS,))]
    assert (await post(api, token=token, csr=csr(key)))[1] == answer
    assert (await post(api, token=token, csr=csr()))[0] == 409


def code(answer):
    assert answer[1]["error"]["message"]
    return answer[0], answer[1]["error"]["code"]


async def test_each_refusal_has_its_own_code(state, enrolment, clock, issued):
    api = JoinApi(enrolment, servers=list, on_issued=lambda *given: issued.append(given))
    token, _ = token_for(enrolment)
    revoked, record = token_for(enrolment)
    enrolment.tokens.revoke(record.id)
    stored = (state.path / "tokens.json").read_bytes()
    assert code(await post(api, token="abc", csr=csr())) == (400, "token-malformed")
    assert code(await post(api, token=UNKNOWN, csr=csr())) == (403, "token-unknown")
    assert code(await post(api, token=revoked, csr=csr())) == (403, "token-revoked")
    assert code(await post(api, token=token, node="edge-2", csr=csr())) == (403, "token-wrong-node")
    assert code(await post(api, token=token, csr="x")) == (400, "bad-certificate-request")
    assert code(await post(api, token=token, csr="x" * 20_000)) == (400, "bad-certificate-request")
    api_elsewhere = JoinApi(Enrolment(state, enrolment.authority, edge_networks=()), servers=list)
    assert code(await post(api_elsewhere, token=token, csr=csr())) == (403, "address-not-allowed")
    clock.now += timedelta(hours=2)
    assert code(await post(api, token=token, csr=csr())) == (403, "token-expired")
    assert (state.path / "tokens.json").read_bytes() == stored
    assert not state.exists("nodes.json")
    assert issued == []


@pytest.mark.parametrize(
    "body",
    [b"x", b"\xff", b"[]", b"1", b"{}", b'{"token": 1, "csr": "x"}', b'{"token": "x"}', b"[" * 60_000,
     b'{"token": "x", "csr": "x", "node": 1}', b'{"token": "\\ud800", "csr": "\\ud800"}'],
)  # fmt: skip
async def test_nonsense(api, body):
    status, answer = await post(api, body=body)
    assert (status, answer["error"]["code"]) in {(400, "bad-request"), (400, "token-malformed")}


async def test_a_csr_that_is_no_ascii(api, enrolment):
    token, _ = token_for(enrolment)
    assert code(await post(api, token=token, csr="\ud800")) == (400, "bad-certificate-request")


async def test_failures_are_limited_and_a_right_token_never_is(api, enrolment, autojump_clock):
    import trio

    for _ in range(3):
        assert code(await post(api, token=UNKNOWN, csr=csr()))[0] == 403
    for _ in range(3):
        assert code(await post(api, token=UNKNOWN, csr=csr())) == (429, "too-many-failures")
    assert code(await post(api, ("198.51.100.8", 1), token=UNKNOWN, csr=csr()))[0] == 403
    for node in range(5):
        token, _ = token_for(enrolment, f"edge-{node}")
        assert (await post(api, token=token, csr=csr()))[0] == 200
    await trio.sleep(10.1)
    assert code(await post(api, token=UNKNOWN, csr=csr()))[0] == 403
    assert code(await post(api, token=UNKNOWN, csr=csr()))[0] == 429


async def test_a_damaged_state_is_told_to_the_log_only(api, state, enrolment, caplog):
    token, _ = token_for(enrolment)
    good = (state.path / "tokens.json").read_bytes()
    with state.transaction() as transaction:
        transaction.write({"tokens.json": b"x"})
    status, answer = await post(api, token=token, csr=csr())
    assert (status, answer["error"]["code"]) == (503, "server-state")
    assert str(state.path) not in answer["error"]["message"]
    assert "is damaged" in caplog.text
    with state.transaction() as transaction:
        transaction.write({"tokens.json": good})
    assert (await post(api, token=token, csr=csr()))[0] == 200


async def test_a_state_that_is_out_of_reach_for_now(api, state, enrolment, caplog, monkeypatch):
    token, _ = token_for(enrolment)

    def away(_body):
        raise StateUnavailableError("apiserver https://10.0.0.1:6443: no answer in time")

    with monkeypatch.context() as away_now:
        away_now.setattr(state, "change", away)
        status, answer = await post(api, token=token, csr=csr())
    assert (status, answer["error"]["code"]) == (503, "server-state")
    assert "does not answer" in answer["error"]["message"]
    assert "10.0.0.1" not in answer["error"]["message"]
    assert "10.0.0.1" in caplog.text
    assert "Traceback" not in caplog.text
    assert (await post(api, token=token, csr=csr()))[0] == 200


async def test_no_secret_is_logged(api, enrolment, caplog):
    caplog.set_level("DEBUG")
    token, _ = token_for(enrolment)
    for _ in range(5):
        await post(api, token=token, csr=csr())
        await post(api, token=UNKNOWN, csr=csr())
    assert "edge-1 joined from 198.51.100.7" in caplog.text
    assert "token-used" in caplog.text
    for secret in (token, UNKNOWN):
        assert secret.partition(".")[2] not in caplog.text


@pytest.mark.parametrize(
    ("peer", "source"),
    [
        (("198.51.100.7", 1), "198.51.100.7"),
        ("198.51.100.7", "198.51.100.7"),
        (("2001:db8:1:2:3::4", 1, 0, 0), "2001:db8:1:2::/64"),
        (("fe80::1%eth0", 1, 0, 2), "fe80::/64"),
        (("::ffff:198.51.100.7", 1, 0, 0), "198.51.100.7"),
        (None, "None"),
        ((), "()"),
    ],
)
def test_sources(peer, source):
    assert source_of(peer) == source


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.floats(0, 100)), max_size=200))
def test_a_source_has_its_failures_and_no_more(steps):
    limits = JoinLimits(failures=3, seconds_per_failure=10, sources=4)
    limiter, now, in_full = FailureLimiter(limits), 0.0, []
    for source, pause in steps:
        now += pause
        wait = limiter.failed(source, now)
        assert 0 <= wait <= 10
        if source == "a" and wait == 0:
            in_full.append(now)
    if len({source for source, _ in steps}) <= limits.sources:
        for first, then in zip(in_full, in_full[3:], strict=False):
            assert then - first >= 10 - 1e-6


def test_the_sources_remembered_are_bounded():
    limiter = FailureLimiter(JoinLimits(failures=1, sources=2))
    assert [limiter.failed(source, 0) > 0 for source in "aabcbca"] == [
        False,
        True,
        False,
        False,
        True,
        True,
        False,
    ]


class Vouching:
    """Attests whatever the test says; remembers what it was asked."""

    def __init__(self):
        self.asked = []
        self.answer = Attested("edge-1", "pod edge-tunnel/tunnel-agent-x7k2p, a-pod")

    async def attest(self, token, *, suspect=False):
        self.asked.append((token, suspect))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


@pytest.fixture
def vouching():
    return Vouching()


@pytest.fixture
def attesting(enrolment, issued, vouching):
    return JoinApi(
        enrolment,
        servers=lambda: ["203.0.113.5:10262"],
        on_issued=lambda *given: issued.append(given),
        limits=JoinLimits(failures=3, seconds_per_failure=10),
        attestor=vouching,
    )


async def test_an_attested_agent(attesting, enrolment, issued, vouching):
    key = new_key()
    status, answer = await post(attesting, service_account_token="jwt", node="edge-1", csr=csr(key))
    assert status == 200
    assert (answer["node"], answer["addresses"]) == ("edge-1", [])
    assert answer["servers"] == ["203.0.113.5:10262"]
    subject = read_subject(answer["certificate"].encode(), enrolment.authority.certificate)
    assert (subject.identity.name, subject.addresses) == ("edge-1", ())
    assert subject.certificate.public_key() == key.public_key()
    assert vouching.asked == [("jwt", False)]
    # Where it is, its Node object says: what came from there must not be forgotten here.
    assert issued == []
    assert (await post(attesting, service_account_token="jwt", csr=csr()))[0] == 200


async def test_join_tokens_serve_beside(attesting, enrolment, vouching):
    token, _ = token_for(enrolment)
    assert (await post(attesting, token=token, csr=csr()))[0] == 200
    assert vouching.asked == []


async def test_another_node_than_the_pods(attesting, enrolment):
    status, answer = await post(attesting, service_account_token="jwt", node="edge-2", csr=csr())
    assert (status, answer["error"]["code"]) == (403, "other-node")
    assert "runs on edge-1, and asks for a certificate of edge-2" in answer["error"]["message"]
    assert enrolment.nodes.load() == {}


async def test_a_standalone_server_attests_nobody(api):
    status, answer = await post(api, service_account_token="jwt", csr=csr())
    assert (status, answer["error"]["code"]) == (403, "not-attesting")


async def test_who_is_not_attested(attesting, vouching, enrolment):
    vouching.answer = AttestationRefusedError("pod-gone", "pod edge-tunnel/x is gone")
    status, answer = await post(attesting, service_account_token="jwt", csr=csr())
    assert (status, answer["error"]) == (403, {"code": "pod-gone", "message": "pod edge-tunnel/x is gone"})
    assert enrolment.nodes.load() == {}


async def test_nobody_can_vouch_now(attesting, vouching):
    vouching.answer = AttestationUnavailableError("ask again later")
    for _ in range(5):  # more often than failures are allowed: this is none
        body = json.dumps({"service_account_token": "jwt", "csr": csr()}).encode()
        response = await attesting.handle(Request("POST", "/v1/join", {}, {}, body, PEER))
        assert (response.status, response.headers["Retry-After"]) == (503, "5")
        assert json.loads(response.body)["error"]["code"] == "unavailable"


async def test_a_right_one_is_never_refused_for_others_failures(autojump_clock, attesting, vouching):
    right, vouching.answer = vouching.answer, AttestationRefusedError("token-refused", "no")
    said = [(await post(attesting, service_account_token="x", csr=csr()))[0] for _ in range(5)]
    assert said == [403, 403, 403, 429, 429]
    assert [suspect for _, suspect in vouching.asked] == [False, False, False, True, True]
    vouching.answer = right
    assert (await post(attesting, service_account_token="jwt", csr=csr()))[0] == 200
    other = ("198.51.100.8", 40000)
    assert (await post(attesting, peer=other, service_account_token="jwt", csr=csr()))[0] == 200
    assert [suspect for _, suspect in vouching.asked[5:]] == [True, False]
    await trio.sleep(11)
    assert (await post(attesting, service_account_token="jwt", csr=csr()))[0] == 200
    assert vouching.asked[-1] == ("jwt", False)


@pytest.mark.parametrize(
    "fields", [{"service_account_token": 7}, {"service_account_token": "a", "token": "b"}, {}]
)
async def test_a_body_with_not_one_token(attesting, vouching, fields):
    status, answer = await post(attesting, csr=csr(), **fields)
    assert (status, answer["error"]["code"]) == (400, "bad-request")
    assert vouching.asked == []


async def test_a_revoked_node_is_not_attested(attesting, enrolment, state, clock):
    assert (await post(attesting, service_account_token="jwt", csr=csr()))[0] == 200
    revocations = RevocationStore(state, clock)
    state.change(lambda change: revocations.add(change, Kind.NODE, "edge-1", "stolen"))
    clock.now += timedelta(hours=1)
    status, answer = await post(attesting, service_account_token="jwt", csr=csr())
    assert (status, answer["error"]["code"]) == (403, "revoked")
    assert answer["error"]["message"].endswith("a new certificate: tunnelctl revoke --readmit edge-1")
