"""HAProxy, a pair: TLS in front of TCP, in C, event loops on as many threads as there are cores.

Install: `apt-get install haproxy`.

No reverse tunnel, as with stunnel: the end beside the caller dials the end beside the target, with a TCP
connection and a TLS handshake of its own for each caller; so the agent's end listens on the WAN, the server's
end dials it, and the certificates change sides.

Fastest: TLS 1.3 with AES-128-GCM, and buffers of 64 KiB instead of 16, which save a tenth of the CPU time.
`maxconn` only keeps it from asking for more file descriptors than it may have.
"""

from dataclasses import dataclass

from bench.peers.binaries import find, version
from bench.peers.configuration import with_port, write
from bench.peers.peer import Absent, Stage
from bench.peers.programs import Programs

FOR_BOTH = """\
global
    maxconn 4000
    tune.bufsize 65536
    ssl-default-bind-options ssl-min-ver TLSv1.3
    ssl-default-bind-ciphersuites TLS_AES_128_GCM_SHA256
    ssl-default-server-ciphersuites TLS_AES_128_GCM_SHA256
defaults
    mode tcp
    timeout connect 10s
    timeout client 1h
    timeout server 1h
"""


@dataclass(frozen=True)
class Haproxy:
    name: str = "haproxy pair"
    encrypted: bool = True
    one_line: str = (
        "no reverse tunnel, and no further agents: a TLS 1.3 connection for each caller, AES-128-GCM, "
        "mutual TLS"
    )

    def available(self) -> Absent | str:
        haproxy = find("haproxy")
        return version(haproxy, "-v") if haproxy else Absent("not installed: apt-get install haproxy")

    def start(self, stage: Stage) -> Programs:
        programs = Programs(stage, entrance=("127.0.0.1", stage.free_port()))
        with programs.starting():
            files = stage.certificates
            # HAProxy reads a certificate and its key from one file.
            near_target = write(stage, "agent.pem", files.server.read_text() + files.server_key.read_text())
            near_caller = write(stage, "server.pem", files.agent.read_text() + files.agent_key.read_text())
            verified = f"ca-file {files.authority} verify required"
            agent = f"""\
{FOR_BOTH}listen agent
    bind {with_port(stage.wan_server)} ssl crt {near_target} {verified}
    server target {with_port(stage.target)}
"""
            server = f"""\
{FOR_BOTH}listen server
    bind {with_port(programs.entrance)}
    server agent {with_port(stage.wan_dial)} ssl crt {near_caller} {verified} verifyhost localhost \
sni str(localhost)
"""
            haproxy = find("haproxy") or "haproxy"
            programs.launch("agent", [haproxy, "-db", "-f", write(stage, "agent.cfg", agent)])
            programs.wait_until_it_listens(stage.wan_server)
            programs.launch("server", [haproxy, "-db", "-f", write(stage, "server.cfg", server)])
            programs.wait_until_it_carries()
        return programs


PEERS = (Haproxy(),)
