"""When an agent believes the file that says whom to trust."""

from datetime import UTC, datetime

import pytest

from certs.authority import Authority
from certs.files import StateDirectory
from tunnel_agent.ca_file import SEEN, CaFileError, follow, seen


@pytest.fixture
def state(pki):
    return StateDirectory(pki.state())


@pytest.fixture
def file(tmp_path, pki):
    path = tmp_path / "mounted.crt"
    path.write_text(pki.authority.pem)
    return path


@pytest.fixture
def other():
    return Authority.make("tunnel.test", datetime.now(UTC))[0]


def trusted(state):
    return state.read("ca.crt").decode()


def test_the_same_as_before(state, file):
    before = trusted(state)
    assert follow(file, state) == ""
    assert (trusted(state), state.exists(SEEN)) == (before, True)


def test_a_root_is_added_and_another_goes(state, file, pki, other, caplog):
    caplog.set_level("INFO")
    follow(file, state)
    both = pki.authority.pem + other.pem
    for content in (both, pki.authority.pem):
        file.write_text(content)
        assert follow(file, state) == ""
        assert trusted(state) == content
    assert [each.getMessage() for each in caplog.records] == [f"{file} has changed, and is trusted"] * 2


def test_what_has_not_changed_does_not_count(state, file, pki, other):
    """The server is ahead of a ConfigMap: what it took away must not come back."""
    both = pki.authority.pem + other.pem
    file.write_text(both)
    follow(file, state)
    with state.transaction() as transaction:
        transaction.write({"ca.crt": pki.authority.pem.encode()})
    assert follow(file, state) == ""
    assert trusted(state) == pki.authority.pem


def test_another_authority_takes_another_certificate(state, file, other):
    before = {each.name: each.read_bytes() for each in state.path.iterdir()}
    file.write_text(other.pem)
    for _ in range(2):
        assert follow(file, state) == f"its certificate is of no authority in {file}"
    assert {each.name: each.read_bytes() for each in state.path.iterdir()} == before
    # Until that is had, and says so:
    with state.transaction() as transaction:
        transaction.write(seen(file.read_bytes()))
    assert follow(file, state) == ""


@pytest.mark.parametrize("content", [None, b"", b"\xff", b"-----BEGIN CERTIFICATE-----\n", b"x" * 300_000])
def test_what_is_no_such_file(state, file, content):
    before = trusted(state)
    file.unlink()
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(CaFileError, match=str(file)):
        follow(file, state)
    assert trusted(state) == before
