"""The lists of ports: yurt-tunnel's meaning, every bad entry named, and the good ones standing."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunnel_server.mappings import MAX_MAPPINGS, check_mapping
from tunnel_server.port_lists import PortLists, read_port_lists


@pytest.mark.parametrize(
    ("text", "captured"),
    [
        ("", {}),
        ("9081=10264, 9051=10264", {9081: 10264, 9051: 10264}),
        (" 9081 = 10264 ,9051=10264,", {9081: 10264, 9051: 10264}),
        ("\n9081,\t\n9051\n", {9081: 10264, 9051: 10264}),
        ("9081, 9051", {9081: 10264, 9051: 10264}),
        ("9443=10263", {9443: 10263}),
        ("1=10264,65535=10264", {1: 10264, 65535: 10264}),
        ("8000-8002", {8000: 10264, 8001: 10264, 8002: 10264}),
        ("8000 - 8001 = 10263", {8000: 10263, 8001: 10263}),
        ("9081, 9081,9080-9081", {9081: 10264, 9080: 10264}),
        ("10266", {10266: 10264}),
    ],
)
def test_pairs_that_are_right(text: str, captured: dict[int, int]) -> None:
    assert read_port_lists(text) == PortLists(captured, frozenset(), ())


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        ("9051", '"9051" is not a pair, but other entries are: write 9051=10264'),
        ("9051=10265", "the listeners are 10264 (plain) and 10263 (TLS)"),
        ("9051=", 'names "", which is not a port'),
        ("=10264", 'names "", which is not a port'),
        ("x=10264", 'names "x", which is not a port from 1 to 65535'),
        ("0=10264", 'names "0"'),
        ("65536=10264", 'names "65536"'),
        ("-5=10264", 'names "-5"'),
        ("5-=10264", 'names ""'),
        ("٩=10264", "which is not a port"),
        ("99999999999999999999=10264", "which is not a port"),
        ("10250=10264", "is built in and cannot be changed"),
        ("10255=10264", "is built in and cannot be changed"),
        ("10262=10264", "a port of the tunnel itself"),
        ("9081=10263", "names port 9081 again: 9081=10264 stands"),
        ("9081=10264=1", "which is not a port"),
        ("8010-8000=10264", "is no range: 8010 is above 8000"),
        ("1-65535=10264", "has 65535 ports, and 1024 can be mapped: name fewer"),
    ],
)
def test_a_bad_pair_is_named_and_the_others_stand(bad: str, words: str) -> None:
    lists = read_port_lists(f"9081=10264,{bad},9082=10264")
    assert lists.captured == {9081: 10264, 9082: 10264}
    (problem,) = lists.problems
    assert problem.startswith(f'dnat-ports-pair: "{bad[:40]}')
    assert words in problem


def test_each_list_has_its_listener() -> None:
    lists = read_port_lists("9081=10264", "9082, 9083", "9443,8443-8444", "10266, 10267")
    assert lists.captured == {9081: 10264, 9082: 10264, 9083: 10264, 9443: 10263, 8443: 10263, 8444: 10263}
    assert lists.localhost == {10266, 10267}
    assert lists.problems == ()


@pytest.mark.parametrize(
    ("lists", "target", "named"),
    [
        ({"pairs": "9081=10264", "http": "9081"}, 10264, None),
        ({"pairs": "9081=10264", "https": "9081"}, 10263, "dnat-ports-pair"),
        ({"http": "9081", "https": "9081"}, 10263, "http-proxy-ports"),
        ({"pairs": "9081=10263", "http": "9081"}, 10264, "dnat-ports-pair"),
    ],
)
def test_the_port_that_is_in_two_lists(lists: dict[str, str], target: int, named: str | None) -> None:
    found = read_port_lists(**lists)
    assert found.captured == {9081: target}
    if named is None:
        assert found.problems == ()
    else:
        (problem,) = found.problems
        assert problem.startswith(f'{named}: "9081')
        assert f"names port 9081 again: 9081={target} stands" in problem


@pytest.mark.parametrize("key", ["http", "https", "localhost"])
def test_a_pair_is_no_port(key: str) -> None:
    lists = read_port_lists(**{key: "9081=10264, 9082"})
    (problem,) = lists.problems
    assert problem == f'{key}-proxy-ports: "9081=10264" is a pair, and this list has ports only: write 9081'
    assert set(lists.captured) | lists.localhost == {9082}


def test_of_a_range_only_the_impossible_ports_are_left_out() -> None:
    lists = read_port_lists(http="10254-10256")
    assert lists.captured == {10254: 10264, 10256: 10264}
    assert lists.problems == (
        'http-proxy-ports: "10254-10256": 10255 is built in and cannot be changed: remove the entry',
    )


def test_other_listener_ports() -> None:
    assert read_port_lists("80, 81", insecure_port=20264).captured == {80: 20264, 81: 20264}
    assert read_port_lists("80=20264", "81", "443", insecure_port=20264, secure_port=20263).captured == {
        80: 20264, 81: 20264, 443: 20263
    }  # fmt: skip
    assert read_port_lists("80=10264", insecure_port=20264).captured == {}


def test_the_lists_are_bounded() -> None:
    many = ",".join(str(port) for port in range(1, MAX_MAPPINGS + 3))
    lists = read_port_lists(many, localhost=many)
    assert len(lists.captured) == len(lists.localhost) == MAX_MAPPINGS
    assert len(lists.problems) == 4


_LISTS = st.text(alphabet="0123456789=, x-٣\n", max_size=60)


@given(_LISTS, _LISTS, _LISTS, _LISTS)
def test_whatever_stands_there_it_is_read_or_named(pairs: str, http: str, https: str, local: str) -> None:
    lists = read_port_lists(pairs, http, https, local)
    for port, target in lists.captured.items():
        check_mapping(port, target, 10264, 10263)
    wanted = [entry.strip() for entry in f"{pairs},{http},{https},{local}".split(",") if entry.strip()]
    told = "".join(lists.problems)
    for entry in wanted:
        whole = entry.partition("=")[0].strip()
        numbers = [part.strip() for part in whole.split("-")]
        in_force = all(part.isdigit() for part in numbers) and (
            int(numbers[0]) in lists.captured.keys() | lists.localhost
        )
        assert in_force or f'"{entry[:40]}"' in told


@given(_LISTS)
def test_a_single_entry_counts_or_is_named(text: str) -> None:
    text = text.replace(",", "")
    for key in ("http", "https", "localhost"):
        lists = read_port_lists(**{key: text})
        assert (
            bool(lists.captured or lists.localhost) != bool(lists.problems) or not text.strip() or "-" in text
        )


_PORTS = st.lists(st.sampled_from([1, 80, 9081, 9082, 9443, 65535]), max_size=6)


@given(
    st.dictionaries(st.sampled_from([80, 9081, 9082, 9443]), st.sampled_from([10263, 10264])), _PORTS, _PORTS
)
def test_https_before_http_before_pairs(pairs: dict[int, int], http: list[int], https: list[int]) -> None:
    def listed(ports: list[int]) -> str:
        return " , ".join(map(str, ports))

    found = read_port_lists(
        ",".join(f"{port}={target}" for port, target in pairs.items()), listed(http), listed(https)
    )
    expected = pairs | dict.fromkeys(http, 10264) | dict.fromkeys(https, 10263)
    assert found.captured == expected
    overruled = [port for port, target in pairs.items() if expected[port] != target]
    overruled += [port for port in http if expected[port] != 10264]
    assert len(found.problems) == len(overruled)
    for port in overruled:
        assert any(
            f"names port {port} again: {port}={expected[port]} stands" in line for line in found.problems
        )
