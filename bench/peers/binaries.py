"""Where a peer's programs are on this machine, and which version."""

import os
import re
import shutil
import subprocess
from pathlib import Path

ADMINISTRATORS_FOLDERS = ("/usr/sbin", "/sbin")  # sshd and haproxy are there, and not on everybody's PATH


def find(name: str) -> str | None:
    """The absolute path of a program on PATH or among the administrator's; None if there is none."""
    folders = [os.environ.get("PATH", os.defpath), *ADMINISTRATORS_FOLDERS]
    found = shutil.which(name, path=os.pathsep.join(folders))
    return str(Path(found).absolute()) if found else None


def version(*argv: str) -> str:
    """What looks like 1.2 or 9.2p1, and not like a time, in a program's answer; else "unknown"."""
    try:
        done = subprocess.run(
            argv, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=10, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    found = re.search(r"(?<![\d.:])\d+\.\d+[\w.]*", done.stdout + done.stderr)
    return found[0] if found else "unknown"
