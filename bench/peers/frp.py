"""frp, in Go: a reverse tunnel, yamux in TLS, one connection for all callers.

Install: from its project's releases, or from its source (Go module github.com/fatedier/frp, `go build
./cmd/frps ./cmd/frpc`); both in a folder on PATH; 0.52 or newer, for configuration in TOML. Run with 0.61.1.

Fastest: mutual TLS on the connection; no encryption and no compression of frp's own within.
"""

import secrets
from dataclasses import dataclass

from bench.peers.binaries import find, version
from bench.peers.configuration import write
from bench.peers.peer import Absent, Stage
from bench.peers.programs import Programs


@dataclass(frozen=True)
class Frp:
    name: str = "frp"
    encrypted: bool = True
    one_line: str = "mutual TLS and tcpMux (yamux), type = tcp, no compression"

    def available(self) -> Absent | str:
        frps = find("frps")
        if not (frps and find("frpc")):
            return Absent("not installed: put frps and frpc, 0.52 or newer, on PATH")
        return version(frps, "--version")

    def start(self, stage: Stage) -> Programs:
        programs = Programs(stage, entrance=("127.0.0.1", stage.free_port()))
        files = stage.certificates
        token = secrets.token_urlsafe()
        server = f"""\
bindAddr = "{stage.wan_server[0]}"
bindPort = {stage.wan_server[1]}
proxyBindAddr = "{programs.entrance[0]}"
log.level = "warn"
auth.token = "{token}"
transport.tls.force = true
transport.tls.certFile = "{files.server}"
transport.tls.keyFile = "{files.server_key}"
transport.tls.trustedCaFile = "{files.authority}"
"""

        def client(number: int, entrance: tuple[str, int]) -> str:
            return f"""\
serverAddr = "{stage.wan_dial[0]}"
serverPort = {stage.wan_dial[1]}
log.level = "warn"
auth.token = "{token}"
transport.tls.certFile = "{files.agent}"
transport.tls.keyFile = "{files.agent_key}"
transport.tls.trustedCaFile = "{files.authority}"
transport.tls.serverName = "localhost"
[[proxies]]
name = "target-{number}"
type = "tcp"
localIP = "{stage.target[0]}"
localPort = {stage.target[1]}
remotePort = {entrance[1]}
"""

        def start_agent(number: int, entrance: tuple[str, int]) -> None:
            config = write(stage, f"frpc-{number}.toml", client(number, entrance))
            programs.launch("agent", [find("frpc") or "frpc", "-c", config])

        with programs.starting():
            programs.launch("server", [find("frps") or "frps", "-c", write(stage, "frps.toml", server)])
            programs.wait_until_it_listens(stage.wan_server)
            start_agent(1, programs.entrance)
            programs.wait_until_it_carries()
            programs.start_agent = start_agent
        return programs


PEERS = (Frp(),)
