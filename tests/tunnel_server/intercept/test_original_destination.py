"""Direct calls have no other destination; captured ones do (test_interception.py shows those)."""

import socket
import subprocess
import sys

import pytest

from tunnel_server.intercept.original_destination import original_destination


@pytest.mark.parametrize(
    ("family", "bind", "dial"),
    [
        (socket.AF_INET, "127.0.0.1", "127.0.0.1"),
        (socket.AF_INET6, "::1", "::1"),
        (socket.AF_INET6, "::", "127.0.0.1"),
    ],
)
def test_a_direct_call(family, bind, dial):
    with socket.create_server((bind, 0), family=family, dualstack_ipv6=bind == "::") as listener:
        caller = socket.create_connection((dial, listener.getsockname()[1]))
        connection, _ = listener.accept()
        with caller, connection:
            assert original_destination(connection) is None


def test_a_socket_of_another_kind_fails_as_a_closed_one_does():
    sock = socket.socket()
    sock.close()
    with pytest.raises(OSError, match="Bad file descriptor"):
        original_destination(sock)


def test_asking_loads_no_pyroute2():
    code = "import sys, tunnel_server.intercept.original_destination as _; print('pyroute2' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "False\n"
