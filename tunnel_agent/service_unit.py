"""The agent's systemd unit: what it may do, which is little.

deploy/systemd/tunnel-agent.service is this text for the usual places; a test keeps the two in step.
"""

from __future__ import annotations

import re
from pathlib import Path

from tunnel_agent.config import DEFAULT_CONFIG, DEFAULT_STATE

SERVICE = "tunnel-agent.service"
USER = "tunnel-agent"
USUAL_PROGRAM = Path("/opt/edge-tunnel/bin/tunnel-agent")

# What systemd neither expands nor splits, whatever the setting (systemd.syntax(7), systemd.unit(5)).
_PLAIN_PATH = re.compile(r"(/[A-Za-z0-9._@:+-]+)+")

_UNIT = """\
# The agent of a reverse tunnel: dials out, and dials what its allow-list names. It needs no privilege.
[Unit]
Description=Edge tunnel agent
Wants=network-online.target
After=network-online.target time-sync.target
# Its server may be away for a month: it is never given up.
StartLimitIntervalSec=0

[Service]
ExecStart={command}
ExecReload=/bin/kill -HUP $MAINPID
User={user}
Group={user}
Restart=always
RestartSec=5
{state}
UMask=0077
Environment=PYTHONDONTWRITEBYTECODE=1

# A 32-bit Raspberry Pi has 512 MiB; the agent's own `memory-budget` is half of this.
MemoryMax=512M
TasksMax=128
LimitNOFILE=65536
LimitCORE=0

CapabilityBoundingSet=
AmbientCapabilities=
NoNewPrivileges=yes
# AF_NETLINK: which addresses the machine has. AF_UNIX: name resolution and the journal.
RestrictAddressFamilies=AF_INET AF_INET6 AF_NETLINK AF_UNIX
ProtectSystem=strict
ProtectHome=yes
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
ProcSubset=pid
PrivateTmp=yes
PrivateDevices=yes
PrivateUsers=yes
KeyringMode=private
RemoveIPC=yes
LockPersonality=yes
MemoryDenyWriteExecute=yes
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM

[Install]
WantedBy=multi-user.target
"""


def unit_text(
    program: Path = USUAL_PROGRAM, state_dir: Path = DEFAULT_STATE, config: Path = DEFAULT_CONFIG
) -> str:
    """Return the unit that runs `program`. Raises ValueError for paths that a unit can't have."""
    for path in (program, state_dir, config):
        if not _PLAIN_PATH.fullmatch(str(path)):
            raise ValueError(
                f"{str(path)!r} can't stand in a unit: it takes absolute paths of letters, digits and ._@:+-"
            )
    words = [str(program), "run"]
    if state_dir != DEFAULT_STATE:
        words += ["--state-dir", str(state_dir)]
    if config != DEFAULT_CONFIG:
        words += ["--config", str(config)]
    return _UNIT.format(command=" ".join(words), user=USER, state=_state(state_dir))


def _state(state_dir: Path) -> str:
    if state_dir.parent == DEFAULT_STATE.parent:
        return f"StateDirectory={state_dir.name}\nStateDirectoryMode=0700"
    return f"ReadWritePaths={state_dir}"
