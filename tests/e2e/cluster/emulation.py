"""The architectures that images are for, and how a computer of one runs programs of another.

Which emulator runs what is a setting of the kernel (binfmt_misc). Here it is one of a user namespace, so the
computer's own stays as it is, and nothing is left of it, however its users end.
"""

import platform
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
"""What the kernel calls them."""
NATIVE = {machine: name for name, machine in MACHINES.items()}.get(platform.machine(), "")
OTHER = next(each for each in MACHINES if each != NATIVE)

_RULES = Path("/proc/sys/fs/binfmt_misc")
_ALL = "0 0 4294967295"
"""Of the users and groups there are, each as itself."""


class NotEmulatedError(Exception):
    """This computer cannot run them; one line."""


@contextmanager
def runner(architecture: str) -> Iterator[list[str]]:
    """Yield what to put before a command line, so that programs of that architecture run, in any chroot.

    Raises NotEmulatedError. Needs root; on leaving, what still runs there is not ended.
    """
    machine = MACHINES[architecture]
    rule = Path(f"/usr/lib/binfmt.d/qemu-{machine}.conf")
    if architecture == NATIVE or _is_ready(_RULES / rule.stem):
        yield []
        return
    if not rule.exists():
        raise NotEmulatedError(f"programs for {architecture} need the package qemu-user-static")
    with subprocess.Popen(
        ["unshare", "--user", "--mount", "cat"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0
    ) as holder:
        assert holder.stdin
        assert holder.stdout
        holder.stdin.write(b"!")
        if not holder.stdout.read(1):  # else it is where it should be
            raise NotEmulatedError(f"programs for {architecture} need a user namespace, or {rule} in force")
        for file in ("uid_map", "gid_map"):
            Path(f"/proc/{holder.pid}/{file}").write_text(_ALL)
        enter = ["nsenter", f"--target={holder.pid}", "--user", "--mount"]
        stage = f"mount -t binfmt_misc none {_RULES} && cat {rule} >{_RULES}/register"
        done = subprocess.run([*enter, "sh", "-c", stage], capture_output=True, text=True, check=False)
        if done.returncode:
            said = " ".join(done.stderr.split())
            raise NotEmulatedError(f"programs for {architecture} need Linux 6.7, or {rule} in force: {said}")
        yield enter


def _is_ready(rule: Path) -> bool:
    """Whether the computer itself has it, and for chroots that do not have the emulator in them."""
    if not rule.exists():
        return False
    said = dict(line.partition(" ")[::2] for line in rule.read_text().splitlines())
    return "enabled" in said and "F" in said.get("flags:", "")
