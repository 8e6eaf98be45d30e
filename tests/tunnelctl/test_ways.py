"""Which way the options name, and what is wrong with a caller's files."""

import argparse
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.tunnelctl.connect_server import Pki
from tunnelctl import caller
from tunnelctl.errors import CommandError, UsageError
from tunnelctl.ways import (
    AUTHORITY,
    CERTIFICATE,
    DEFAULT_SOCKET,
    KEY,
    LocalWay,
    RemoteWay,
    add_arguments,
    find_way,
)


def options(*words: str | Path) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    return parser.parse_args(list(map(str, words)))


@pytest.fixture
def pki(tmp_path) -> Pki:
    return Pki(tmp_path)


def test_without_options_it_is_the_server_here(tmp_path) -> None:
    assert find_way(options()) == LocalWay(DEFAULT_SOCKET)
    assert find_way(options("--connect-socket", tmp_path / "s")) == LocalWay(tmp_path / "s")


def test_a_server_elsewhere(pki, tmp_path) -> None:
    identity = pki.identity(tmp_path / "me")
    way = find_way(options("--server", "tunnel.example.org", "--identity", identity))
    assert isinstance(way, RemoteWay)
    assert (way.host, way.port, str(way)) == ("tunnel.example.org", 10262, "tunnel.example.org:10262")
    assert (
        str(find_way(options("--server", "[2001:db8::1]:443", "--identity", identity))) == "[2001:db8::1]:443"
    )


def test_the_names_are_those_that_caller_create_writes() -> None:
    assert (KEY, CERTIFICATE, AUTHORITY) == (caller.KEY, caller.CERTIFICATE, caller.AUTHORITY)


def test_options_that_do_not_go_together(pki, tmp_path) -> None:
    identity = pki.identity(tmp_path / "me")
    for words in (("--server", "a"), ("--identity", identity)):
        with pytest.raises(UsageError, match="go together"):
            find_way(options(*words))
    with pytest.raises(UsageError, match="--connect-socket is for the server on this host"):
        find_way(options("--connect-socket", "/s", "--server", "a", "--identity", identity))
    with pytest.raises(UsageError, match="--server: 'a b' is not an endpoint"):
        find_way(options("--server", "a b", "--identity", identity))


def test_files_that_cannot_be_used_are_named(pki, tmp_path) -> None:
    identity = pki.identity(tmp_path / "me")
    with pytest.raises(CommandError, match=r"no caller's identity, it has no caller\.crt"):
        find_way(options("--server", "a", "--identity", tmp_path))
    for name, message in (("caller.key", r"caller\.crt can't be used"), ("ca.crt", r"ca\.crt can't be used")):
        whole = (identity / name).read_bytes()
        (identity / name).write_text("no PEM")
        with pytest.raises(CommandError, match=message):
            find_way(options("--server", "a", "--identity", identity))
        (identity / name).write_bytes(whole)
    (identity / "caller.key").write_bytes((pki.identity(tmp_path / "other") / "caller.key").read_bytes())
    with pytest.raises(CommandError, match=r"caller\.crt can't be used: .*mismatch"):
        find_way(options("--server", "a", "--identity", identity))


@pytest.mark.parametrize(
    ("life", "age", "said"),
    [(365, 330, False), (365, 336, True), (30, 19, False), (30, 21, True), (30, 31, False)],
)
def test_a_certificate_that_ends_soon_is_spoken_of(
    life: int, age: int, said: bool, pki, tmp_path, capsys
) -> None:
    """In the last third of its life, 30 days at most; one that has ended is the server's to refuse."""
    then = datetime.now(UTC) - timedelta(days=age)
    identity = pki.identity(tmp_path / "me", life=timedelta(days=life), now=then)
    find_way(options("--server", "a", "--identity", identity))
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == said
    if said:
        assert err.startswith(f"tunnelctl: the certificate in {identity} ends 20")
        assert f"renew it with `tunnelctl caller renew --server a --identity {identity}`" in err


def test_naming_a_way_here_loads_no_event_loop() -> None:
    program = (
        "import sys, tunnelctl.connect, tunnelctl.port_forward;"
        " print('trio' in sys.modules, 'ssl' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "False"]
