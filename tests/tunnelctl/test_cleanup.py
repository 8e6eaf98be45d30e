"""`tunnelctl cleanup`, run as a user runs it, in a namespace with and without something to remove."""

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from tests.tunnel_server.intercept.netns import Namespace, namespaces, server
from tunnelctl.cleanup import add_parser

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="makes network namespaces: needs root"),
    pytest.mark.skipif(shutil.which("nft") is None, reason="plays the operator with nft (package nftables)"),
]

PROGRAM = """
import argparse, sys
from tunnelctl import cleanup, errors
parser = argparse.ArgumentParser()
cleanup.add_parser(parser.add_subparsers())
args = parser.parse_args()
try:
    sys.exit(args.run(args))
except errors.CommandError as error:
    print(error, file=sys.stderr)
    sys.exit(error.exit_code)
"""


def clean(host: Namespace, *arguments: str, without: str = "") -> subprocess.CompletedProcess[str]:
    drop = ["setpriv", f"--bounding-set=-{without}", f"--inh-caps=-{without}"] if without else []
    return subprocess.run(
        ["ip", "netns", "exec", host.name, *drop, sys.executable, "-c", PROGRAM, "cleanup", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )


def test_nothing_to_remove():
    with namespaces("host") as (host,):
        assert clean(host).stdout == "nothing to remove\n"
        assert json.loads(clean(host, "--json").stdout) == {"removed": []}


def test_what_a_killed_server_left_is_removed_and_named():
    with namespaces("host") as (host,):
        with server(host, owner=False) as killed:
            killed.answer()
            killed.apply(["192.168.2.143", "fd00:2::143"], {9081: 10264})
            refused = clean(host)
            assert refused.returncode == 4
            assert f"process {killed.process.pid} " in refused.stderr
            assert "nothing was removed" in refused.stderr
            assert refused.stdout == ""
            assert killed.tell("statistics")["problem"] is None
            killed.end(signal.SIGKILL)
        host.sh("nft add table inet other", "ip route add 203.0.113.0/24 dev lo")
        assert json.loads(clean(host, "--json").stdout) == {
            "removed": [
                "table inet edge-tunnel",
                "route to 192.168.2.143 over lo",
                "route to fd00:2::143 over lo",
            ]
        }
        assert clean(host).stdout == "nothing to remove\n"
        assert host.sh("nft list tables") == "table inet other\n"
        assert "203.0.113.0/24" in host.sh("ip route show")


def test_without_privilege():
    with namespaces("host") as (host,):
        done = clean(host, without="net_admin")
    assert done.returncode == 1
    assert done.stderr == "changing nftables and routes needs CAP_NET_ADMIN: run it as root\n"


def test_wrong_use():
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_parser(parser.add_subparsers())
    assert parser.parse_args(["cleanup", "--json"]).json is True
