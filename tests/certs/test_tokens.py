"""Join tokens: one node, once, within its life; each refusal its own."""

import json
import threading
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from certs import tokens
from certs.files import StateDirectory, StateError
from certs.tokens import Issued, Refusal, TokenRefusedError, TokenState, TokenStore, check_token_form

ADDRESS = ip_address("192.168.2.143")
HOUR = timedelta(hours=1)


class Clock:
    now = datetime(2030, 1, 1, 12, tzinfo=UTC)

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def state(tmp_path):
    return StateDirectory.create(tmp_path / "state")


@pytest.fixture
def store(state, clock):
    return TokenStore(state, clock)


def issue(_record):
    return Issued("PEM", {"nodes.json": b"x"})


def refusal(call, *args):
    with pytest.raises(TokenRefusedError) as caught:
        call(*args)
    assert "\n" not in str(caught.value)
    return caught.value.refusal


def test_a_token_carries_256_bits_and_is_stored_hashed(state, store):
    token, record = store.create("edge-1", [ADDRESS], HOUR)
    token_id, _, secret = token.partition(".")
    assert record.id == token_id == check_token_form(token)
    assert len(secret) == 43
    stored = (state.path / "tokens.json").read_text()
    assert secret not in stored
    assert record.digest in stored
    assert (state.path / "tokens.json").stat().st_mode & 0o777 == 0o600
    assert store.create("edge-1", [ADDRESS], HOUR)[0] != token


def test_it_serves_once(state, store):
    token, _ = store.create("edge-1", [ADDRESS], HOUR)
    record = store.redeem(token, "edge-1", "k1", issue)
    assert (record.node, record.addresses, record.certificate) == ("edge-1", (ADDRESS,), "PEM")
    assert (state.path / "nodes.json").read_bytes() == b"x"
    assert refusal(store.redeem, token, "edge-1", "k2", issue) is Refusal.USED
    assert store.list()[0].state(Clock.now) is TokenState.USED


def test_the_same_key_is_given_the_same_answer_within_the_tokens_life(store, clock):
    token, _ = store.create("edge-1", [ADDRESS], HOUR)
    first = store.redeem(token, None, "k1", issue)
    assert store.redeem(token, None, "k1", lambda _: pytest.fail("issued again")) == first
    clock.now += HOUR
    assert refusal(store.redeem, token, None, "k1", issue) is Refusal.USED


def test_an_issue_that_fails_uses_nothing_up(state, store):
    token, _ = store.create("edge-1", [ADDRESS], HOUR)
    before = (state.path / "tokens.json").read_bytes()

    def fail(_record):
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        store.redeem(token, None, "k1", fail)
    assert [path.name for path in state.path.iterdir()] == ["tokens.json"]
    assert (state.path / "tokens.json").read_bytes() == before
    assert store.redeem(token, None, "k1", issue).certificate == "PEM"


def test_each_refusal_is_its_own(store, clock):
    token, record = store.create("edge-1", [ADDRESS], HOUR)
    revoked, dead = store.create("edge-2", [], HOUR)
    store.revoke(dead.id)
    other = f"{record.id}.{'A' * 43}"
    assert refusal(store.redeem, token[:-1], None, "k", issue) is Refusal.MALFORMED
    assert refusal(store.redeem, other, None, "k", issue) is Refusal.UNKNOWN
    assert refusal(store.redeem, f"00000000.{'A' * 43}", None, "k", issue) is Refusal.UNKNOWN
    assert refusal(store.redeem, token, "edge-2", "k", issue) is Refusal.WRONG_NODE
    assert refusal(store.redeem, revoked, None, "k", issue) is Refusal.REVOKED
    clock.now += HOUR
    assert refusal(store.redeem, token, None, "k", issue) is Refusal.EXPIRED


def test_the_state_of_a_token_is_told_only_to_who_has_it(store, clock):
    token, record = store.create("edge-1", [], HOUR)
    guess = f"{record.id}.{'A' * 43}"
    store.redeem(token, None, "k", issue)
    assert refusal(store.find, guess) is Refusal.UNKNOWN
    clock.now += HOUR
    assert refusal(store.find, guess) is Refusal.UNKNOWN


@given(st.text(alphabet="0123456789abcdef.-_XYZ \n\u0661", max_size=60))
def test_forms(text):
    try:
        token_id = check_token_form(text)
    except TokenRefusedError:
        return
    assert text.isascii()
    assert (token_id, len(text)) == (text[:8], 52)


def test_two_joins_at_once_are_one(state, store):
    token, _ = store.create("edge-1", [], HOUR)
    issued, refused, start = [], [], threading.Barrier(8)

    def join(number):
        mine = TokenStore(state, Clock())
        start.wait()
        try:
            issued.append(mine.redeem(token, None, f"k{number}", issue))
        except TokenRefusedError as error:
            refused.append(error.refusal)

    threads = [threading.Thread(target=join, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(issued) == 1
    assert refused == [Refusal.USED] * 7


def test_another_process_changes_are_seen(state, store):
    token, _ = store.create("edge-1", [], HOUR)
    store.find(token)
    other, record = TokenStore(state, Clock()).create("edge-2", [], HOUR)
    assert store.find(other).node == "edge-2"
    TokenStore(state, Clock()).revoke(record.id)
    assert refusal(store.redeem, other, None, "k", issue) is Refusal.REVOKED


def test_revoking(store):
    _, record = store.create("edge-1", [], HOUR)
    assert store.revoke(record.id).state(Clock.now) is TokenState.REVOKED
    with pytest.raises(ValueError, match="already revoked"):
        store.revoke(record.id)
    with pytest.raises(KeyError):
        store.revoke("00000000")


def test_what_is_over_is_remembered_for_a_while(store, clock):
    token, record = store.create("edge-1", [], HOUR)
    clock.now += HOUR + tokens.REMEMBERED
    store.create("edge-2", [], HOUR)
    assert refusal(store.find, token) is Refusal.EXPIRED
    clock.now += timedelta(seconds=1)
    store.create("edge-3", [], HOUR)
    assert refusal(store.find, token) is Refusal.UNKNOWN
    assert record.id not in {each.id for each in store.list()}


def test_the_number_of_tokens_is_bounded(store, clock, monkeypatch):
    monkeypatch.setattr(tokens, "MAX_TOKENS", 3)
    _, first = store.create("a", [], HOUR)
    clock.now += HOUR
    second, _ = store.create("b", [], HOUR)
    clock.now += timedelta(seconds=1)
    store.redeem(second, None, "k", issue)
    store.create("c", [], HOUR)
    store.create("d", [], HOUR)
    assert {each.node for each in store.list()} == {"b", "c", "d"}
    store.create("e", [], HOUR)
    assert {each.node for each in store.list()} == {"c", "d", "e"}
    with pytest.raises(ValueError, match="revoke some"):
        store.create("f", [], HOUR)
    assert first.id not in {each.id for each in store.list()}


@pytest.mark.parametrize(
    ("node", "addresses", "life", "why"),
    [
        ("Edge", [], HOUR, "not a name"),
        ("a", [ip_address(i) for i in range(17)], HOUR, "17 addresses"),
        ("a", [], timedelta(0), "lives more than 0"),
        ("a", [], timedelta(days=366), "at most 365 days"),
    ],
)
def test_what_no_token_is_made_of(state, store, node, addresses, life, why):
    with pytest.raises(ValueError, match=why):
        store.create(node, addresses, life)
    assert list(state.path.iterdir()) == []


@pytest.mark.parametrize("data", [b"", b"[]", b'{"tokens": [{}]}', b'{"tokens": 1}'])
def test_a_damaged_file_is_named_with_the_remedy(state, store, data):
    with state.transaction() as transaction:
        transaction.write({"tokens.json": data})
    with pytest.raises(StateError, match=r"tokens\.json is damaged.*restore it"):
        store.list()


def test_a_file_that_others_can_read_is_refused(state, store):
    store.create("a", [], HOUR)
    (state.path / "tokens.json").chmod(0o644)
    with pytest.raises(StateError, match="chmod 600"):
        store.list()


def test_nothing_is_lost_on_the_way_to_the_file(state, store, clock):
    token, _ = store.create("edge-1", [ADDRESS, ip_address("fd00::1")], HOUR)
    used = store.redeem(token, None, "k", issue)
    assert TokenStore(state, clock).list() == [used]
    assert json.loads((state.path / "tokens.json").read_text())["version"] == 1
