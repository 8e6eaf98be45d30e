"""OpenSSH, `ssh -R`: what everybody has, and what the others are measured against.

Install: `apt-get install openssh-client openssh-server`.

An sshd of its own, with keys and a configuration made for the occasion: neither the machine's sshd nor
anybody's ~/.ssh is touched, and nobody's ~/.bashrc is read. It runs as whoever runs the suite, who must be
root only where /dev/pts, as in some containers, is mounted without gid=5.

Fastest: aes128-gcm, no compression, and a session with a terminal (`-tt`). With port forwarding alone (`-N`),
OpenSSH 9 leaves Nagle's algorithm on at both ends: a short message waits for the other end's delayed ACK, and
new connections, one after the other, come to 39 a second instead of 1,700.

Each agent has processes of sshd's, and the one that its terminal is for, `sleep`: all count as the server's.
"""

import getpass
import grp
import os
import subprocess
from dataclasses import dataclass
from pathlib import Path

from bench.peers.binaries import find, version
from bench.peers.configuration import with_port, write
from bench.peers.peer import Absent, PeerFailed, Stage
from bench.peers.programs import Programs

CIPHER = "aes128-gcm@openssh.com"
EMPTY_ROOT = Path("/run/sshd")  # an sshd of root's locks its unprivileged half in here (Debian's path)
HOST_ALIAS = "tunnel-benchmark"  # its name in known_hosts, at whatever address


@dataclass(frozen=True)
class Ssh:
    name: str = "ssh -R"
    encrypted: bool = True
    one_line: str = f"OpenSSH: ssh -tt -R and an sshd of its own, {CIPHER}, no compression"

    def available(self) -> Absent | str:
        ssh = find("ssh")
        if not (ssh and find("sshd") and find("ssh-keygen")):
            return Absent("not installed: apt-get install openssh-client openssh-server")
        return version(ssh, "-V")

    def start(self, stage: Stage) -> Programs:
        programs = Programs(stage, entrance=("127.0.0.1", stage.free_port()))
        with programs.starting():
            if os.geteuid() == 0:
                EMPTY_ROOT.mkdir(mode=0o755, exist_ok=True)
            elif not _terminals_are_ttys():
                raise PeerFailed(
                    "an sshd without root cannot make terminals here: run the suite as root, "
                    "or first `mount -o remount,gid=5,mode=620 /dev/pts`"
                )
            host_key, user_key = _new_key(stage.scratch, "host"), _new_key(stage.scratch, "user")
            known_hosts = write(stage, "known_hosts", f"{HOST_ALIAS} {_public(host_key)}")
            config = _sshd_config(stage, programs.entrance[0], host_key, user_key)
            programs.launch("server", [find("sshd") or "sshd", "-D", "-e", "-f", config])
            programs.wait_until_it_listens(stage.wan_server)

            def start_agent(_number: int, entrance: tuple[str, int]) -> None:
                programs.launch("agent", _ssh_command(stage, entrance, known_hosts, user_key))

            start_agent(1, programs.entrance)
            programs.wait_until_it_carries()
            programs.start_agent = start_agent
        return programs


def _sshd_config(stage: Stage, entrance_host: str, host_key: Path, user_key: Path) -> Path:
    authorized = write(stage, "authorized_keys", f"restrict,pty,port-forwarding {_public(user_key)}")
    options = {
        "ListenAddress": with_port(stage.wan_server),
        "HostKey": host_key,
        "AuthorizedKeysFile": authorized,
        "AuthenticationMethods": "publickey",
        # Without PAM, sshd refuses root where root has no password; and only root's sshd can use PAM.
        "UsePAM": "yes" if os.geteuid() == 0 else "no",
        "PermitRootLogin": "prohibit-password",
        "StrictModes": "no",  # the scratch folder may be below one that is everybody's, as /tmp is
        "PidFile": "none",
        "AllowTcpForwarding": "remote",
        "PermitListen": f"{entrance_host}:*",  # each further agent has a port of its own
        "PermitUserRC": "no",
        "SetEnv": f"HOME={stage.scratch}",  # the login shell, bash for one, reads ~/.bashrc first
        "PrintMotd": "no",
        "PrintLastLog": "no",
        "Ciphers": CIPHER,
        "Compression": "no",
    }
    return write(stage, "sshd_config", "".join(f"{option} {value}\n" for option, value in options.items()))


def _ssh_command(
    stage: Stage, entrance: tuple[str, int], known_hosts: Path, user_key: Path
) -> list[str | Path]:
    host, port = stage.wan_dial
    options = {
        "HostKeyAlias": HOST_ALIAS,
        "UserKnownHostsFile": known_hosts,
        "GlobalKnownHostsFile": "/dev/null",
        "StrictHostKeyChecking": "yes",
        "IdentityFile": user_key,
        "IdentitiesOnly": "yes",
        "IdentityAgent": "none",
        "BatchMode": "yes",
        "ExitOnForwardFailure": "yes",
        "ControlMaster": "no",
        "Ciphers": CIPHER,
        "Compression": "no",
    }
    return [
        *(find("ssh") or "ssh", "-F", "none", "-tt", "-p", str(port), "-l", getpass.getuser()),
        *(f"-o{option}={value}" for option, value in options.items()),
        *("-R", f"{with_port(entrance)}:{with_port(stage.target)}", host),
        "exec sleep infinity",  # what the terminal is for: nothing, for as long as the link is there
    ]


def _terminals_are_ttys() -> bool:
    """Whether a new terminal belongs to the group tty at once, as it must: only root can change that."""
    ends = os.openpty()
    try:
        return os.fstat(ends[1]).st_gid == grp.getgrnam("tty").gr_gid
    finally:
        for end in ends:
            os.close(end)


def _new_key(scratch: Path, name: str) -> Path:
    """A private key's file; ssh-keygen puts the public one beside it."""
    key = scratch / f"{name}_key"
    done = subprocess.run(
        [find("ssh-keygen") or "ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", key],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise PeerFailed(f"ssh-keygen made no key\n{done.stdout}{done.stderr}".rstrip())
    return key


def _public(key: Path) -> str:
    return key.with_name(f"{key.name}.pub").read_text()


PEERS = (Ssh(),)
