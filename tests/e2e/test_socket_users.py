"""The Unix sockets by uid: whom `connect-uids` and `admin-uids` let in, and what the others are told."""

from collections.abc import Callable
from pathlib import Path

import pytest

from tests.e2e.system import BIN, System, missing
from tests.folders import let_others_in
from tunnelctl.demo.topology import Host

CALLER, OPERATOR, NOBODY = 64101, 64102, 64103


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    made = deploy_for_module()
    let_others_in(made.directory)
    made.start_server(
        **{
            "connect-socket": made.directory / "connect.sock",
            "connect-uids": [CALLER],
            "admin-uids": [OPERATOR],
            "audit-log": made.directory / "audit.log",
        }
    )
    made.serve(made.topology.edge(1), "http", 9081)
    made.add_edge(made.topology.edge(1))
    return made


def as_user(host: Host, uid: int, *words: str | Path, stdin: str = "") -> tuple[int, str, str]:
    """A program's exit code, output and errors. Its user may read every file, a checkout in a home directory
    among them, but write none: the sockets' modes count as for anybody."""
    reads = ["--inh-caps=-all,+dac_read_search", "--ambient-caps=-all,+dac_read_search"]
    user = [f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "--bounding-set=-all,+dac_read_search"]
    done = host.run(["setpriv", *user, *reads, *words], stdin=stdin)
    return done.returncode, done.stdout, done.stderr


def connect(own: System, uid: int) -> tuple[int, str, str]:
    socket = own.directory / "connect.sock"
    request = "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    words = ["connect", "edge-1", "9081", "--connect-socket", socket]
    return as_user(own.topology.cloud, uid, BIN / "tunnelctl", *words, stdin=request)


def test_who_may_connect_and_under_which_name(own: System) -> None:
    code, out, err = connect(own, CALLER)
    assert code == 0, err
    assert '"machine": "edge-1"' in out
    line = f'"caller":"uid {CALLER}","identity":"local","wanted":"edge-1:9081"'
    own.until(lambda: line in (own.directory / "audit.log").read_text(), "server")


@pytest.mark.parametrize("uid", [OPERATOR, NOBODY])
def test_who_may_not_connect(own: System, uid: int) -> None:
    code, out, err = connect(own, uid)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert err.endswith(f"not-allowed: user {uid} may not use connect-socket: see connect-uids\n")
    assert f"user {uid} may not use connect-socket: see connect-uids" in own.log("server")


def test_who_may_ask_the_server(own: System) -> None:
    code, out, err = as_user(
        own.topology.cloud, OPERATOR, BIN / "tunnelctl", "nodes", "--admin-socket", own.admin
    )
    assert code == 0, err
    assert "edge-1" in out


@pytest.mark.parametrize("uid", [CALLER, NOBODY])
def test_who_may_not_ask_the_server(own: System, uid: int) -> None:
    words = ["map-port", "9999=10264", "--admin-socket", own.admin]
    code, out, err = as_user(own.topology.cloud, uid, BIN / "tunnelctl", *words)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "admin-uids" in err
    assert 9999 not in {each["port"] for each in own.status()["mappings"]}


@pytest.mark.skipif(bool(missing("socat")), reason="socat is not installed")
def test_socat_on_the_socket_itself(own: System) -> None:
    socket = f"UNIX-CONNECT:{own.directory}/connect.sock"
    request = "CONNECT edge-1:9081 HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
    spoken = request + "GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    code, out, err = as_user(own.topology.cloud, CALLER, "socat", "-t5", "-", socket, stdin=spoken)
    assert code == 0, err
    assert out.startswith("HTTP/1.1 200 Connection Established")
    assert '"machine": "edge-1"' in out
    _, out, _ = as_user(own.topology.cloud, NOBODY, "socat", "-t5", "-", socket)
    assert out.startswith(f"HTTP/1.1 403 not-allowed: user {NOBODY} may not use connect-socket")


def test_sockets_of_nobody_elses_are_their_owners_alone(own: System) -> None:
    """Without uids in the configuration, not even the file lets others connect."""
    own.configure(connect_uids=[], admin_uids=[])
    own.hang_up()
    own.until(lambda: f"connect-uids: [{CALLER}] -> []" in own.log("server"), "server")
    assert {own.admin.stat().st_mode & 0o777, (own.directory / "connect.sock").stat().st_mode & 0o777} == {
        0o600
    }
    code, out, err = connect(own, CALLER)
    assert (code, out, err.count("\n")) == (4, "", 1)
    assert "permission denied" in err
    assert "--identity" in err


def test_others_are_let_in_while_it_runs(own: System) -> None:
    own.configure(connect_uids=[CALLER, OPERATOR], admin_uids=[NOBODY])
    own.hang_up()
    own.until(lambda: f"-> [{CALLER}, {OPERATOR}]" in own.log("server"), "server")
    assert [connect(own, uid)[0] for uid in (CALLER, OPERATOR, NOBODY)] == [0, 0, 4]
    words = ["nodes", "--admin-socket", own.admin]
    asked = [
        as_user(own.topology.cloud, uid, BIN / "tunnelctl", *words)[0] for uid in (CALLER, OPERATOR, NOBODY)
    ]
    assert asked == [4, 4, 0]
