"""Token and request in, certificate out; or nothing at all has happened."""

import errno
import logging
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address, ip_network

import pytest

from certs.authority import Authority
from certs.enrolment import AddressRefusedError, Enrolment
from certs.files import StateDirectory, StateError
from certs.renewal import RevokedError
from certs.requests import RequestError, make_request, new_key
from certs.revocations import Kind, RevocationStore
from certs.subjects import read_subject
from certs.tokens import TokenRefusedError

ADDRESS = ip_address("192.168.2.143")
HOUR = timedelta(hours=1)


@pytest.fixture
def state(tmp_path):
    return StateDirectory.create(tmp_path / "state")


@pytest.fixture
def enrolment(state):
    return Enrolment(state, Authority.create(state, "d"), node_life=timedelta(days=7), is_own=lambda _: False)


def contents(state):
    return {path.name: path.read_bytes() for path in state.path.iterdir()}


def test_names_and_addresses_come_from_the_token(enrolment):
    token, _ = enrolment.tokens.create("edge-1", [ADDRESS], HOUR)
    key = new_key()
    enrolled = enrolment.join(token, None, make_request(key))
    subject = read_subject(enrolled.certificate.encode(), enrolment.authority.certificate)
    assert subject.identity.uri == "spiffe://d/node/edge-1"
    assert subject.addresses == enrolled.addresses == (ADDRESS,)
    assert subject.certificate.public_key() == key.public_key()
    life = subject.certificate.not_valid_after_utc - subject.certificate.not_valid_before_utc
    assert life == timedelta(days=7, hours=1)
    node = enrolment.nodes.load()["edge-1"]
    assert (node.addresses, int(node.serial, 16)) == ((ADDRESS,), subject.certificate.serial_number)
    assert enrolled.ca == enrolment.authority.pem


def test_a_lost_answer_is_given_again_to_the_same_key_only(enrolment):
    token, _ = enrolment.tokens.create("edge-1", [ADDRESS], HOUR)
    key = new_key()
    first = enrolment.join(token, None, make_request(key))
    assert enrolment.join(token, None, make_request(key)) == first
    with pytest.raises(TokenRefusedError, match="used"):
        enrolment.join(token, None, make_request(new_key()))


def test_a_record_that_was_lost_is_made_again_with_the_answer(state, enrolment):
    """As after a server was killed between two objects of a cluster."""
    token, _ = enrolment.tokens.create("edge-1", [ADDRESS], HOUR)
    request = make_request(new_key())
    enrolment.join(token, None, request)
    before = enrolment.nodes.load()
    (state.path / "nodes.json").unlink()
    enrolment.join(token, None, request)
    assert enrolment.nodes.load() == before
    later = before["edge-1"].issued + timedelta(seconds=1)
    newer = {"edge-1": replace(before["edge-1"], issued=later, serial="1f")}
    state.change(lambda change: change.write({"nodes.json": enrolment.nodes.encode(newer)}))
    enrolment.join(token, None, request)
    assert enrolment.nodes.load() == newer  # it has renewed since


def test_a_bad_request_uses_nothing_up(state, enrolment):
    token, _ = enrolment.tokens.create("edge-1", [ADDRESS], HOUR)
    before = contents(state)
    with pytest.raises(RequestError):
        enrolment.join(token, None, b"nonsense")
    with pytest.raises(TokenRefusedError):
        enrolment.join(token, "edge-2", make_request(new_key()))
    assert contents(state) == before
    assert enrolment.join(token, "edge-1", make_request(new_key())).node == "edge-1"


def test_strangers_get_no_cryptography(enrolment, monkeypatch):
    monkeypatch.setattr("certs.enrolment.read_request", lambda _: pytest.fail("the request was read"))
    with pytest.raises(TokenRefusedError):
        enrolment.join(f"00000000.{'A' * 43}", None, make_request(new_key()))


def test_addresses_are_judged_again_when_the_token_is_used(state, enrolment):
    token, _ = enrolment.tokens.create("edge-1", [ADDRESS], HOUR)
    before = contents(state)
    elsewhere = Enrolment(state, enrolment.authority, edge_networks=[ip_network("10.0.0.0/8")])
    with pytest.raises(AddressRefusedError, match="outside the edge networks"):
        elsewhere.join(token, None, make_request(new_key()))
    own = Enrolment(state, enrolment.authority, is_own=lambda address: address == ADDRESS)
    with pytest.raises(AddressRefusedError, match="address of this host itself"):
        own.join(token, None, make_request(new_key()))
    assert contents(state) == before


def test_a_shortage_in_which_that_cannot_be_told_leaves_the_token_good(enrolment):
    def none_left(_address):
        raise OSError(errno.EMFILE, "Too many open files")

    token, _ = enrolment.tokens.create("edge-1", [ADDRESS], HOUR)
    asked = make_request(new_key())
    enrolment._is_own = none_left
    with pytest.raises(StateError, match="own cannot be told: Too many open files"):
        enrolment.join(token, None, asked)
    enrolment._is_own = lambda _address: False
    assert enrolment.join(token, None, asked).node == "edge-1"


def test_this_hosts_own_address_is_asked_of_the_kernel(state, enrolment):
    real = Enrolment(state, enrolment.authority, edge_networks=[ip_network("0.0.0.0/0")])
    with pytest.raises(AddressRefusedError, match="loopback"):
        real.check_address(ip_address("127.0.0.1"))
    real.check_address(ip_address("192.0.2.77"))


def test_a_second_holder_of_an_address_is_loud(enrolment, caplog):
    for node in ("edge-1", "edge-2", "edge-2"):
        token, _ = enrolment.tokens.create(node, [ADDRESS], HOUR)
        with caplog.at_level(logging.WARNING):
            caplog.clear()
            enrolment.join(token, None, make_request(new_key()))
        assert ("edge-2 and by edge-1" in caplog.text) == (node == "edge-2")
    assert enrolment.holders(ADDRESS) == ["edge-1", "edge-2"]
    assert enrolment.holders(ip_address("10.0.0.1")) == []


def test_a_revoked_node_holds_no_address(state, enrolment, caplog):
    for node in ("edge-1", "edge-2"):
        token, _ = enrolment.tokens.create(node, [ADDRESS], HOUR)
        enrolment.join(token, None, make_request(new_key()))
        if node == "edge-1":
            with state.transaction() as transaction:
                RevocationStore(state).add(transaction, Kind.NODE, "edge-1")
    assert enrolment.holders(ADDRESS) == ["edge-2"]
    assert "is now held by" not in caplog.text


def test_one_that_is_vouched_for(enrolment):
    """Its certificate proves the name; where it is, its Node object says, whatever an earlier token did."""
    token, _ = enrolment.tokens.create("edge-1", [ADDRESS], HOUR)
    enrolment.join(token, None, make_request(new_key()))
    key = new_key()
    enrolled = enrolment.enrol("edge-1", make_request(key))
    subject = read_subject(enrolled.certificate.encode(), enrolment.authority.certificate)
    assert (subject.identity.uri, subject.addresses, subject.attested) == ("spiffe://d/node/edge-1", (), True)
    assert subject.certificate.public_key() == key.public_key()
    assert (enrolled.addresses, enrolled.ca) == ((), enrolment.authority.pem)
    node = enrolment.nodes.load()["edge-1"]
    assert (node.addresses, int(node.serial, 16)) == ((), subject.certificate.serial_number)


def test_it_is_dated_after_what_vouches_for_it(enrolment):
    """By the apiserver's clock, which may be ahead of this host's."""
    after = datetime.now(UTC).replace(microsecond=0) + timedelta(minutes=5)
    enrolled = enrolment.enrol("edge-1", make_request(new_key()), after=after)
    assert read_subject(enrolled.certificate.encode()).issued > after


@pytest.mark.parametrize("name", ["edge 1", "", "x" * 254])
def test_only_a_name_can_be_vouched_for(state, enrolment, name):
    before = contents(state)
    with pytest.raises(ValueError, match="name"):
        enrolment.enrol(name, make_request(new_key()))
    with pytest.raises(RequestError):
        enrolment.enrol("edge-1", b"nonsense")
    assert contents(state) == before


def test_a_revoked_one_is_not_let_in_because_it_is_vouched_for(state, enrolment):
    enrolment.enrol("edge-1", make_request(new_key()))
    revocations = RevocationStore(state)
    state.change(lambda change: revocations.add(change, Kind.NODE, "edge-1", "stolen"))
    before = contents(state)
    with pytest.raises(RevokedError, match=r"stolen; to let it in .*: tunnelctl revoke --readmit edge-1"):
        enrolment.enrol("edge-1", make_request(new_key()))
    assert contents(state) == before
    enrolment.enrol("edge-2", make_request(new_key()))
    revocations.remove(Kind.NODE, "edge-1")
    enrolment.enrol("edge-1", make_request(new_key()))


def test_readmitted_it_gets_another_and_those_of_before_stay_out(state, enrolment):
    stolen = read_subject(enrolment.enrol("edge-1", make_request(new_key())).certificate.encode())
    revocations = RevocationStore(state)
    state.change(lambda change: revocations.add(change, Kind.NODE, "edge-1", readmitted=True))
    enrolled = enrolment.enrol("edge-1", make_request(new_key()))
    for subject, refused in ((stolen, True), (read_subject(enrolled.certificate.encode()), False)):
        serial, issued = f"{subject.certificate.serial_number:x}", subject.issued.timestamp()
        assert (revocations.load().find(subject.identity, serial, issued) is not None) is refused
    enrolment.enrol("edge-1", make_request(new_key()))
    issued = enrolment.nodes.load()["edge-1"].issued
    state.change(lambda change: revocations.add(change, Kind.NODE, "edge-1", issued=issued))
    with pytest.raises(RevokedError):
        enrolment.enrol("edge-1", make_request(new_key()))


def test_a_revoked_one_that_has_joined_since(state, enrolment):
    revocations = RevocationStore(state)
    state.change(lambda change: revocations.add(change, Kind.NODE, "edge-1"))
    with pytest.raises(RevokedError):
        enrolment.enrol("edge-1", make_request(new_key()))
    token, _ = enrolment.tokens.create("edge-1", [], HOUR)
    enrolment.join(token, None, make_request(new_key()))
    enrolment.enrol("edge-1", make_request(new_key()))


def test_a_revoked_serial_is_that_certificate_only(state, enrolment):
    enrolment.enrol("edge-1", make_request(new_key()))
    serial = enrolment.nodes.load()["edge-1"].serial
    state.change(lambda change: RevocationStore(state).add(change, Kind.SERIAL, serial))
    enrolment.enrol("edge-1", make_request(new_key()))
    assert enrolment.nodes.load()["edge-1"].serial != serial
