"""stunnel, a pair: TLS in front of TCP, in C, a thread for each connection.

Install: `apt-get install stunnel4`.

No reverse tunnel: nothing is multiplexed, and the end beside the caller dials the end beside the target, with
a TCP connection and a TLS handshake of its own for each caller. What is compared is the path of the bytes:
one relay that encrypts, the link, one relay that decrypts. So the agent's end listens on the WAN and the
server's end dials it: the certificates change sides too.

Fastest: TLS 1.3 with AES-128-GCM; Nagle's algorithm off. (`TIMEOUTclose = 0` would cost it half-close;
even so stunnel 5.68, on a busy machine, now and then loses the end of the direction that is still open.)
"""

from dataclasses import dataclass

from bench.peers.binaries import find, version
from bench.peers.configuration import with_port, write
from bench.peers.peer import Absent, Stage
from bench.peers.programs import Programs

FOR_BOTH = """\
foreground = yes
pid =
syslog = no
debug = warning
socket = l:TCP_NODELAY=1
socket = r:TCP_NODELAY=1
sslVersionMin = TLSv1.3
ciphersuites = TLS_AES_128_GCM_SHA256
verifyChain = yes
"""


@dataclass(frozen=True)
class Stunnel:
    name: str = "stunnel pair"
    encrypted: bool = True
    one_line: str = (
        "no reverse tunnel, and no further agents: a TLS 1.3 connection for each caller, AES-128-GCM, "
        "mutual TLS"
    )

    def available(self) -> Absent | str:
        stunnel = find("stunnel")
        return version(stunnel, "-version") if stunnel else Absent("not installed: apt-get install stunnel4")

    def start(self, stage: Stage) -> Programs:
        programs = Programs(stage, entrance=("127.0.0.1", stage.free_port()))
        with programs.starting():
            files = stage.certificates
            agent = f"""\
{FOR_BOTH}[agent]
accept = {with_port(stage.wan_server)}
connect = {with_port(stage.target)}
cert = {files.server}
key = {files.server_key}
CAfile = {files.authority}
"""
            server = f"""\
{FOR_BOTH}[server]
client = yes
accept = {with_port(programs.entrance)}
connect = {with_port(stage.wan_dial)}
sni = localhost
checkHost = localhost
cert = {files.agent}
key = {files.agent_key}
CAfile = {files.authority}
"""
            stunnel = find("stunnel") or "stunnel"
            programs.launch("agent", [stunnel, write(stage, "agent.conf", agent)])
            programs.wait_until_it_listens(stage.wan_server)
            programs.launch("server", [stunnel, write(stage, "server.conf", server)])
            programs.wait_until_it_carries()
        return programs


PEERS = (Stunnel(),)
