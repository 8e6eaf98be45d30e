"""Hello and drain: what is unknown is ignored, what is malformed is not believed."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_wire.hello import RESUME, BadHello, DrainReason, Hello, new_id, read_fields


def test_it_reads_as_it_was_written() -> None:
    agent = Hello("1.2", session=new_id(), node="edge-1", link=3, capabilities=frozenset({"b", "a"}))
    assert Hello.from_headers(agent.to_headers()) == agent
    timed = Hello("1.2", session=new_id(), node="edge-1", time=1_767_225_600)
    assert Hello.from_headers(timed.to_headers()) == timed
    resuming = Hello("1.2", session=new_id(), node="edge-1", link=2, links=frozenset({2, 0, 11}))
    assert Hello.from_headers(resuming.to_headers()) == resuming
    alone = Hello("1.2", session=new_id(), node="edge-1", links=frozenset({0}))
    assert Hello.from_headers(alone.to_headers()) == alone
    waiting = Hello("1.2", instance=new_id(), capabilities=frozenset({RESUME}), grace=90)
    assert Hello.from_headers(waiting.to_headers()) == waiting
    for pooled in (10, 0):
        sooner = Hello("1.2", instance=new_id(), grace=90, grace_pooled=pooled)
        assert Hello.from_headers(sooner.to_headers()) == sooner
    server = Hello("1.2", instance=new_id())
    assert Hello.from_headers(server.to_headers()) == server
    assert dict(server.to_headers()).keys() == {b"tunnel-version", b"tunnel-instance"}


def test_a_session_id_is_not_shown() -> None:
    identifier = new_id()
    assert identifier not in repr(Hello("1", session=identifier))


def test_the_unknown_is_ignored() -> None:
    fields = [
        (b"tunnel-version", b"9"),
        (b"tunnel-mood", b"\xff\xfe"),
        (b"server", b"nginx"),
        (b"tunnel-capabilities", b" resume,, teleport "),
        (b"tunnel-large", b"x" * 5000),
    ]
    assert Hello.from_headers(fields) == Hello("9", capabilities=frozenset({"resume", "teleport"}))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("session", "short"),
        ("session", "G" * 32),
        ("session", "A" * 32),
        ("instance", "0" * 33),
        ("link", "one"),
        ("link", "-1"),
        ("link", "1_0"),
        ("link", "256"),
        ("links", ""),
        ("links", "0,"),
        ("links", "0,256"),
        ("grace", "1.5"),
        ("grace", ""),
        ("grace-pooled", "-1"),
        ("time", "-1"),
        ("time", "1e9"),
        ("time", "9" * 16),
    ],
)
def test_the_malformed_is_refused_by_name(name: str, value: str) -> None:
    with pytest.raises(BadHello, match=f"tunnel-{name}"):
        Hello.from_headers([(b"tunnel-" + name.encode(), value.encode())])


@given(
    st.lists(st.tuples(st.binary(max_size=20).map(lambda name: b"tunnel-" + name), st.binary(max_size=300)))
)
def test_any_fields_are_read_or_refused(headers: list[tuple[bytes, bytes]]) -> None:
    for value in read_fields(headers).values():
        assert len(value) <= 256
    try:
        Hello.from_headers(headers)
    except BadHello:
        pass


def test_drain_reasons() -> None:
    assert DrainReason.read("revoked") is DrainReason.REVOKED
    assert DrainReason.read("of a later version") is DrainReason.SHUTDOWN


def test_ids_are_128_random_bits() -> None:
    assert len({new_id() for _ in range(100)}) == 100
    assert len(bytes.fromhex(new_id())) == 16
