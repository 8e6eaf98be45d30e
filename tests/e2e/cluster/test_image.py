"""The image by itself: what is in it, and that an agent needs neither a privilege nor a place to write."""

import signal
import subprocess
import tarfile
from pathlib import Path

import pytest
import trio

from tests.e2e.cluster import tunnel_image
from tests.tunnel_agent.vouching import in_a_cluster

pytestmark = pytest.mark.timeout(300)  # where it has to be made first

_LIMIT = 160 * 2**20
"""Bytes, as it is in a node's store; it is some 130 MiB, and some 45 compressed."""
USER = 65532


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The image unpacked, as a container has it: read-only but for one directory."""
    archive = tunnel_image.archive()
    assert archive.stat().st_size < _LIMIT
    path = tmp_path_factory.mktemp("image")
    with tarfile.open(archive) as image:
        layers = [
            each for each in image.getmembers() if each.name.startswith("blobs/") and each.size > 100_000
        ]
        for layer in layers:
            content = image.extractfile(layer)
            assert content is not None
            subprocess.run(["tar", "-x", "-C", path], input=content.read(), check=True)
    for folder in ("state", "run", "proc"):
        (path / folder).mkdir(exist_ok=True)
    path.chmod(0o755)
    return path


def words(root: Path, *command: str, user: int = USER, writable: Path | None = None) -> list[str]:
    """The command line that runs `command` in the image; `writable` is at /state."""
    stage = 'mount --bind "$0" "$0" && mount -t proc -o ro proc "$0/proc" && '
    if writable:
        stage += f'mount --bind {writable} "$0/state" && mount --bind {writable.parent} "$0/run" && '
    stage += f'mount -o remount,ro,bind "$0" && exec chroot --userspec={user}:{user} "$0" "$@"'
    return ["unshare", "--mount", "--propagation", "private", "sh", "-c", stage, str(root), *command]


def run(root: Path, *command: str, **how: object) -> subprocess.CompletedProcess[str]:
    environment = dict(each.split("=", 1) for each in tunnel_image.CONFIG["Env"])
    environment["PATH"] += ":/usr/sbin:/sbin"
    return subprocess.run(
        words(root, *command, **how),  # type: ignore[arg-type]
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip


@pytest.mark.parametrize("program", ["tunnel-server", "tunnel-agent", "tunnelctl"])
def test_its_programs(root: Path, program: str) -> None:
    done = run(root, f"/opt/edge-tunnel/bin/{program}", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert tunnel_image.NAME.partition(":")[2] in done.stdout


def test_everything_is_compiled(root: Path) -> None:
    """Nothing can be written there later, and each start would compile it again."""
    sources = [
        each
        for folder in (root / "opt/edge-tunnel/lib", root / "usr/lib/python3.11")
        for each in folder.rglob("*.py")
        if not each.is_symlink()
    ]
    assert len(sources) > 1000
    compiled = (each.parent / "__pycache__" / f"{each.stem}.cpython-311.pyc" for each in sources)
    bare = [each for each in compiled if not each.exists()]
    assert bare == []


def test_what_is_not_in_it(root: Path) -> None:
    for each in ("bin/sh", "usr/bin/pip", "opt/edge-tunnel/bin/pip", "source", "dev/null"):
        assert not (root / each).exists(), each
    users = [line.partition(":")[0] for line in (root / "etc/passwd").read_text().splitlines()]
    assert users == ["root", "edge-tunnel"]
    privileged = [each for each in root.rglob("*") if each.is_file() and each.lstat().st_mode & 0o6000]
    assert privileged == []


async def test_an_agent_without_privilege_on_a_read_only_root(root: Path, tmp_path: Path) -> None:
    (state := tmp_path / "state").mkdir()
    done = await trio.to_thread.run_sync(
        lambda: run(
            root,
            "/opt/edge-tunnel/bin/tunnel-agent",
            "prepare-state",
            "--state-dir=/state",
            f"--uid={USER}",
            user=0,
            writable=state,
        )
    )
    assert done.returncode == 0, done.stderr
    async with in_a_cluster(tmp_path) as cluster:
        for each in (tmp_path, cluster.ca_file, cluster.token_file):
            each.chmod(0o755)
        command = words(
            root, "/opt/edge-tunnel/bin/tunnel-agent", "run", "--service-account-token=/run/token",
            "--ca-file=/run/ca.crt", "--node-name=edge-1", "--state-dir=/state", "--health-port=0",
            f"--servers={cluster.server.endpoint}", writable=state,
        )  # fmt: skip
        log = (tmp_path / "agent.log").open("wb")
        process = await trio.lowlevel.open_process(command, stderr=log)
        try:
            await cluster.server.until_linked("edge-1", 0)
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(10):
                assert await process.wait() == 0, (tmp_path / "agent.log").read_text()
        finally:
            process.kill()
            log.close()
    assert {(each.stat().st_uid, each.stat().st_mode & 0o777) for each in state.iterdir()} == {(USER, 0o600)}
