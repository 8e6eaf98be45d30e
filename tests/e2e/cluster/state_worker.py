"""A server's process as far as its state goes: does what each line of its input says, and says how it ended.

`join TOKEN`, with a key of this process; `init`; `revoke NODE`. With a number as the third argument, it is
killed after so many objects were written.
"""

import os
import signal
import sys
from functools import partial
from ipaddress import ip_address
from pathlib import Path

from certs.authority import Authority
from certs.enrolment import Enrolment
from certs.requests import make_request, new_key
from certs.revocations import Kind, RevocationStore
from certs.server_state import initialise
from certs.tokens import TokenRefusedError, TokenStore
from tunnel_server.kube.access import from_kubeconfig
from tunnel_server.kube.client import Cluster
from tunnel_server.kube.state import ClusterState


class Mortal(ClusterState):
    """One that does not survive a write."""

    writes = 1_000_000

    def put(self, wanted, stored):
        super().put(wanted, stored)
        self.writes -= 1
        if not self.writes:
            os.kill(os.getpid(), signal.SIGKILL)


def main() -> None:
    kubeconfig, namespace, *writes = sys.argv[1:]
    state = Mortal(Cluster(partial(from_kubeconfig, Path(kubeconfig))), namespace)
    state.writes = int(writes[0]) if writes else state.writes
    request = make_request(new_key())
    print("ready", flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        print(_do(state, word, rest, request), flush=True)


def _do(state: ClusterState, word: str, rest: list[str], request: bytes) -> str:
    match word:
        case "init":
            return initialise(state, addresses=(ip_address("203.0.113.10"),), dns_names=()).authority.hash
        case "revoke":
            others = TokenStore(state).without_node(rest[0])
            state.change(lambda change: RevocationStore(state).add(change, Kind.NODE, rest[0], "", others))
            return "revoked"
    # As a server has it: known before the token was made, or after.
    state.fill_cache()
    desk = Enrolment(state, Authority.load(state), is_own=lambda _address: False)
    try:
        desk.join(rest[0], None, request)
    except TokenRefusedError as error:
        return error.refusal.value
    return "joined"


if __name__ == "__main__":
    main()
