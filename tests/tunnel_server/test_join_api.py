"""The join API: what it answers, what it never spends, and whom it makes wait."""

import json
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs.authority import Authority
from certs.enrolment import Enrolment
from certs.files import StateDirectory
from certs.requests import make_request, new_key
from certs.subjects import read_subject
from tunnel_daemon.http1 import Request
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
