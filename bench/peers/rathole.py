"""rathole, in Rust: a reverse tunnel, once over the Noise protocol and once over TLS.

Install: `cargo install rathole` (without --locked: its lock file's crates do not build with a current Rust).

A connection over the WAN for each caller, some of them made in advance. Fastest: Nagle's algorithm off. Noise
in the pattern that authenticates both ends by their keys; with TLS rathole authenticates the agent by the
service's token alone. Its TLS server reads key and certificate from a PKCS#12 file.

An agent has a service of its own, which the server takes from its file as soon as it changes.
"""

import re
import secrets
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    load_pem_private_key,
    pkcs12,
)
from cryptography.x509 import load_pem_x509_certificate

from bench.peers.binaries import find, version
from bench.peers.configuration import QUIET_RUST, with_port, write
from bench.peers.peer import Absent, PeerFailed, Stage
from bench.peers.programs import Programs

NOISE = "Noise_KK_25519_ChaChaPoly_BLAKE2s"


@dataclass(frozen=True)
class Transport:
    """The part of each end's configuration below its [server.transport] or [client.transport]."""

    server: str
    client: str


@dataclass(frozen=True)
class Rathole:
    transport: str  # "noise" or "tls"
    name: str
    one_line: str
    encrypted: bool = True

    def available(self) -> Absent | str:
        rathole = find("rathole")
        return version(rathole, "--version") if rathole else Absent("not installed: cargo install rathole")

    def start(self, stage: Stage) -> Programs:
        programs = Programs(stage, entrance=("127.0.0.1", stage.free_port()))
        rathole = find("rathole") or "rathole"
        entrances = {1: programs.entrance}
        with programs.starting():
            transport = _noise(rathole) if self.transport == "noise" else _tls(stage)
            token = secrets.token_urlsafe()

            def write_server() -> Path:
                part = write(stage, "server.part", self._server(stage, transport, token, entrances))
                return part.replace(stage.scratch / "server.toml")  # whole: it is read when it changes

            def start_agent(number: int, entrance: tuple[str, int]) -> None:
                if number not in entrances:
                    entrances[number] = entrance
                    write_server()
                config = write(stage, f"client-{number}.toml", self._client(stage, transport, token, number))
                programs.launch("agent", [rathole, "--client", config], QUIET_RUST)

            programs.launch("server", [rathole, "--server", write_server()], QUIET_RUST)
            programs.wait_until_it_listens(stage.wan_server)
            start_agent(1, programs.entrance)
            programs.wait_until_it_carries()
            programs.start_agent = start_agent
        return programs

    def _server(
        self, stage: Stage, transport: Transport, token: str, entrances: Mapping[int, tuple[str, int]]
    ) -> str:
        services = "".join(
            f"""\
[server.services.target-{number}]
token = "{token}"
bind_addr = "{with_port(entrance)}"
nodelay = true
"""
            for number, entrance in entrances.items()
        )
        return f"""\
[server]
bind_addr = "{with_port(stage.wan_server)}"
[server.transport]
type = "{self.transport}"
[server.transport.tcp]
nodelay = true
[server.transport.{self.transport}]
{transport.server}
{services}"""

    def _client(self, stage: Stage, transport: Transport, token: str, number: int) -> str:
        return f"""\
[client]
remote_addr = "{with_port(stage.wan_dial)}"
[client.transport]
type = "{self.transport}"
[client.transport.tcp]
nodelay = true
[client.transport.{self.transport}]
{transport.client}
[client.services.target-{number}]
token = "{token}"
local_addr = "{with_port(stage.target)}"
nodelay = true
"""


def _noise(rathole: str) -> Transport:
    server_private, server_public = _key_pair(rathole)
    client_private, client_public = _key_pair(rathole)

    def end(private: str, public: str) -> str:
        return f'pattern = "{NOISE}"\nlocal_private_key = "{private}"\nremote_public_key = "{public}"'

    return Transport(end(server_private, client_public), end(client_private, server_public))


def _key_pair(rathole: str) -> tuple[str, str]:
    """A private and a public key, as rathole makes and reads them (base64)."""
    done = subprocess.run([rathole, "--genkey"], capture_output=True, text=True, check=False)
    keys = re.findall(r"^[\w+/]{43}=$", done.stdout, re.MULTILINE)
    if len(keys) != 2:
        raise PeerFailed(f"rathole --genkey made no pair of keys\n{done.stdout}{done.stderr}".rstrip())
    return keys[0], keys[1]


def _tls(stage: Stage) -> Transport:
    files = stage.certificates
    key = load_pem_private_key(files.server_key.read_bytes(), None)
    assert isinstance(key, EllipticCurvePrivateKey)
    certificate = load_pem_x509_certificate(files.server.read_bytes())
    password = secrets.token_urlsafe()
    encryption = BestAvailableEncryption(password.encode())
    both = stage.scratch / "server.p12"
    both.touch(mode=0o600)
    both.write_bytes(pkcs12.serialize_key_and_certificates(b"server", key, certificate, None, encryption))
    return Transport(
        server=f'pkcs12 = "{both}"\npkcs12_password = "{password}"',
        client=f'trusted_root = "{files.authority}"\nhostname = "localhost"',
    )


PEERS = (
    Rathole("noise", "rathole (noise)", f"{NOISE}, a connection for each caller"),
    Rathole("tls", "rathole (TLS)", "TLS, the agent authenticated by a token, a connection for each caller"),
)
