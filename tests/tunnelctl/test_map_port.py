"""`tunnelctl map-port` against the real admin API."""

import json

import pytest

from tunnelctl.errors import UsageError
from tunnelctl.map_port import parse_mapping

FIXED = {9443: 10263, 10250: 10263, 10255: 10264}


async def test_a_mapping_is_made_listed_and_removed(tunnelctl, core) -> None:
    assert await tunnelctl("map-port", "9081=10264") == (0, "port 9081 is captured, to 10264\n", "")
    assert core.in_effect == FIXED | {9081: 10264}
    code, out, _ = await tunnelctl("map-port", "9081=10264")
    assert (code, out) == (0, "port 9081 was captured already, to 10264; nothing changed\n")
    code, out, _ = await tunnelctl("map-port", "--list")
    assert (code, out.splitlines()) == (0, [
        " PORT  LISTENER  SOURCE",
        " 9081     10264  added",
        " 9443     10263  configured",
        "10250     10263  built-in",
        "10255     10264  built-in",
    ])  # fmt: skip
    assert await tunnelctl("map-port", "9081", "--remove") == (0, "port 9081 is no longer captured\n", "")
    assert core.in_effect == FIXED


async def test_a_bare_port_goes_to_the_plain_listener(tunnelctl, core) -> None:
    assert (await tunnelctl("map-port", "80"))[1] == "port 80 is captured, to 10264\n"
    assert core.in_effect[80] == 10264


async def test_json_is_the_servers_answer(tunnelctl) -> None:
    code, out, _ = await tunnelctl("map-port", "9081", "--json")
    answer = json.loads(out)
    assert (code, answer["changed"]) == (0, True)
    assert answer["mappings"][0] == {"port": 9081, "listener_port": 10264, "source": "added"}
    code, out, _ = await tunnelctl("map-port", "--list", "--json")
    assert json.loads(out) == {"mappings": answer["mappings"]}


@pytest.mark.parametrize(
    ("args", "words"),
    [
        (("10250=10264",), "is built in and cannot be changed"),
        (("--remove", "10250"), "is built in and cannot be changed"),
        (("--remove", "9443"), "is configured in dnat-ports-pair"),
        (("--remove", "80"), "is not mapped"),
        (("80=81",), "the listeners are 10264 (plain) and 10263 (TLS)"),
    ],
)
async def test_what_the_server_refuses_is_exit_4(args: tuple[str, ...], words: str, tunnelctl, core) -> None:
    code, out, err = await tunnelctl("map-port", *args)
    assert (code, out, len(err.splitlines())) == (4, "", 1)
    assert words in err
    assert core.mappings.effective() == FIXED


async def test_what_can_not_be_kept_is_told_and_not_in_effect(tunnelctl, core, tmp_path) -> None:
    (tmp_path / "state").rename(tmp_path / "elsewhere")
    code, _, err = await tunnelctl("map-port", "80")
    assert code == 1
    assert err.startswith("tunnelctl: the server failed: ")
    assert str(tmp_path / "state") in err
    assert core.in_effect == {}


@pytest.mark.parametrize("args", [(), ("--list", "80"), ("x",), ("80=",), ("--list", "--remove", "80")])
async def test_wrong_use_is_exit_2_and_one_line(args: tuple[str, ...], tunnelctl, core, capsys) -> None:
    try:
        code, out, err = await tunnelctl("map-port", *args)
    except SystemExit as error:  # argparse's own
        code, (out, err) = error.code, capsys.readouterr()
    assert (code, out, len(err.splitlines())) == (2, "", 1)
    assert core.mappings.effective() == FIXED


@pytest.mark.parametrize(
    ("text", "mapping"), [("9081=10264", (9081, 10264)), ("80", (80, None)), (" 80 = 81 ", (80, 81))]
)
def test_mappings_are_read(text: str, mapping: tuple[int, int | None]) -> None:
    assert parse_mapping(text) == mapping


@pytest.mark.parametrize("text", ["", "=", "0", "65536", "80=0", "80=81=82", "-1", "٣", "9" * 5000, "80,81"])
def test_what_is_no_mapping_is_refused(text: str) -> None:
    with pytest.raises(UsageError, match="write PORT=LISTENER-PORT, like 9081=10264"):
        parse_mapping(text)
