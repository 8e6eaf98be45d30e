"""A host of the topology as a machine with files of its own, perhaps with a systemd.

What is installed on this computer (/usr) is there, and nothing that is done in the machine is seen outside
of it. The programs of this checkout are in /opt/edge-tunnel, as the documents say.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import tunnel_wire
from tunnelctl.demo.processes import Processes
from tunnelctl.demo.topology import Host

SYSTEMD = Path("/lib/systemd/systemd")
_SOURCE = Path(__file__).parents[2]
_TESTED = Path(tunnel_wire.__file__).parents[1]
"""The sources, or a compiled build of them."""
_PACKAGES = Path(pytest.__file__).parents[1]
_PATH = "/opt/edge-tunnel/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

# A root of its own, in memory; what is not of this computer's own making there is read-only.
_STAGE = """
set -e
python=$1 base=$2 source=$3 packages=$4 tested=$5
mount --make-rprivate /
mount -t tmpfs -o mode=755 tmpfs /mnt
cd /mnt
mkdir base dev etc home old opt packages proc root run source sys tested tmp usr var
chmod 1777 tmp
for each in /bin /lib* /sbin; do
    if [ -L "$each" ]; then cp -P "$each" .; else mkdir ".$each"; mount --bind "$each" ".$each"; fi
done
cp -a /etc/. etc
mount --bind /usr usr
mount --bind "$base" base
mount --bind "$source" source
mount --bind "$packages" packages
mount --bind "$tested" tested
for each in base packages source tested usr; do mount -o remount,bind,ro "$each"; done
mount -t proc proc proc
mount -t sysfs -o ro,nosuid,nodev,noexec sysfs sys
mount -t tmpfs -o mode=755 tmpfs run
mount -t tmpfs -o mode=755 tmpfs dev
for each in full null random tty urandom zero; do
    touch dev/$each
    mount --bind /dev/$each dev/$each
done
touch dev/console
mount --bind /dev/null dev/console
mkdir dev/pts
mount -t devpts -o newinstance,ptmxmode=0666 devpts dev/pts
ln -s pts/ptmx dev/ptmx
ln -s /proc/self/fd dev/fd
pivot_root . old
cd /
umount -l /old
mkdir -p /run/lock /run/sshd /var/cache/ldconfig /var/lib /var/log /var/tmp
if [ "$base" != /usr ]; then
    echo /base/lib > /etc/ld.so.conf.d/python.conf
    ldconfig
fi
"/base/bin/$python" -m venv --without-pip /opt/edge-tunnel
cd /opt/edge-tunnel
printf '/tested\\n/packages\\n' > "$(echo lib/python*/site-packages)/checkout.pth"
for each in tunnel-agent:tunnel_agent tunnel-server:tunnel_server tunnelctl:tunnelctl; do
    program=bin/${each%%:*} module=${each##*:}
    printf '#!/opt/edge-tunnel/bin/python3\\nimport sys\\n' > $program
    printf 'from %s.cli import main\\nsys.exit(main())\\n' $module >> $program
    chmod 755 $program
done
cd /
"""
_SLEEP = _STAGE + "touch /run/up; exec sleep infinity"
# systemd as process 1 (its "Container Interface"), which changes nothing of this computer, not even a sysctl,
# and has only the units that a system starts with.
_BOOT = (
    _STAGE
    + """
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount -t cgroup2 -o nosuid,nodev,noexec cgroup2 /sys/fs/cgroup
rm -rf /etc/systemd/system /etc/fstab /etc/rc?.d /etc/init.d
mkdir /etc/systemd/system
: > /etc/machine-id
exec env -i container=test PATH="$PATH" LANG=C.UTF-8 /lib/systemd/systemd --system --unit=basic.target
"""
)


class Machine:
    """One host's machine; see the module."""

    def __init__(self, host: Host, process: int) -> None:
        self.host = host
        self.process = process
        """Its process 1, as it is numbered here."""

    def command(self, script: str) -> list[str]:
        """The command line that runs a shell script in it, as root, in /root."""
        enter = ["nsenter", "-t", str(self.process), "-m", "-n", "-p", "-u", "-i", "-C"]
        variables = ["env", "-i", f"PATH={_PATH}", "HOME=/root", "LANG=C.UTF-8"]
        return [*enter, *variables, "bash", "-c", f"cd /root; {script}"]

    def try_(self, script: str, *, timeout: float = 30) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            self.command(script), stdin=subprocess.DEVNULL, capture_output=True, text=True,
            check=False, timeout=timeout,
        )  # fmt: skip

    def run(self, script: str, *, timeout: float = 30) -> str:
        """What the script writes to standard output; it must succeed."""
        done = self.try_(script, timeout=timeout)
        assert done.returncode == 0, f"{self.host.name}: {script}: {done.stdout}{done.stderr}"
        return done.stdout


@contextlib.contextmanager
def machine(host: Host, processes: Processes, *, systemd: bool = False) -> Iterator[Machine]:
    """Bring it up; when this is left, all that runs in it is killed."""
    name = f"machine-{host.name}"
    unshare = ["unshare", "--mount", "--pid", "--uts", "--ipc", "--fork", "--kill-child"]
    python = Path(sys.executable).resolve().name
    stage = _BOOT if systemd else _SLEEP
    words = ["sh", "-c", stage, "stage", python, sys.base_prefix, _SOURCE, _PACKAGES, _TESTED]
    with _control_group(host.namespace) as group:
        # In a control group of its own before that becomes the root of all it sees.
        enter = ["sh", "-c", 'echo $$ > "$1/cgroup.procs"; shift; exec "$@"', "enter", group]
        argv = [*enter, *host.command([*unshare, "--cgroup", *words])]
        outer = processes.start(name, argv)
        try:
            made = Machine(host, _first_process(outer))
            ready = "systemctl is-active basic.target" if systemd else "cat /run/up"

            def is_up() -> bool:
                assert outer.poll() is None, processes.tail(name, 30)
                return made.try_(ready).returncode == 0

            _wait(is_up, lambda: processes.tail(name, 30))
            yield made
        finally:
            processes.end(name, signum=signal.SIGKILL)  # unshare leaves SIGTERM to its child


def _first_process(outer: subprocess.Popen[bytes]) -> int:
    children = Path(f"/proc/{outer.pid}/task/{outer.pid}/children")
    _wait(lambda: outer.poll() is not None or children.read_text().split(), lambda: "")
    return int(children.read_text().split()[0])


def _wait(condition: Callable[[], object], tail: Callable[[], str]) -> None:
    deadline = time.monotonic() + 40
    while not condition():
        assert time.monotonic() < deadline, tail()
        time.sleep(0.02)


@contextlib.contextmanager
def _control_group(name: str) -> Iterator[Path]:
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    root = next(Path(mount[1]) for mount in mounts if mount[2] == "cgroup2")
    own = next(line[3:] for line in Path("/proc/self/cgroup").read_text().splitlines() if line[:3] == "0::")
    group = root / own.strip("/") / name
    group.mkdir()
    try:
        yield group
    finally:
        _wait(lambda: "populated 0" in (group / "cgroup.events").read_text(), lambda: str(group))
        for each, _, _ in os.walk(group, topdown=False):
            Path(each).rmdir()
