"""A server that attests agents: the real join API, with somebody who vouches for those whom a test names."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from tests.tunnel_server.identified import Identified, identified, prepare
from tunnel_server.attestor import AttestationRefusedError, AttestationUnavailableError, Attested

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path


class Vouching:
    """Takes the token `token-of-NODE`, while the apiserver is not `away`."""

    def __init__(self) -> None:
        self.asked = 0
        self.away = False

    async def attest(self, token: str, *, suspect: bool = False) -> Attested:
        assert not suspect
        self.asked += 1
        if self.away:
            raise AttestationUnavailableError("the tunnel server cannot ask its apiserver; ask again later")
        node = token.removeprefix("token-of-")
        if node == token:
            raise AttestationRefusedError("token-refused", "the apiserver does not accept the token")
        return Attested(node, f"pod of {node}")


class Cluster:
    """What a pod of the agents' finds: a server, its authority in a file, and a token in another."""

    def __init__(self, server: Identified, vouching: Vouching, path: Path) -> None:
        self.server = server
        self.vouching = vouching
        self.state = path / "edge"
        self.ca_file, self.token_file = path / "ca.crt", path / "token"
        self.ca_file.write_text(server.identity.authority.pem)
        self.token_file.write_text("token-of-edge-1\n")

    def settings(self, *servers: str, node: str = "edge-1") -> dict[str, object]:
        return {
            "state_dir": str(self.state),
            "servers": servers or (self.server.endpoint,),
            "proxy": "none",
            "timeout": 5.0,
            "node": node,
            "token_file": str(self.token_file),
            "ca_file": str(self.ca_file),
        }


@asynccontextmanager
async def in_a_cluster(path: Path) -> AsyncIterator[Cluster]:
    prepare(path / "server")
    vouching = Vouching()
    async with identified(path / "server", attestor=vouching) as server:
        yield Cluster(server, vouching, path)
