"""The image by itself: what is in it, and that an agent needs neither a privilege nor a place to write."""

import json
import random
import signal
import subprocess
import tarfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.cluster import emulation, tunnel_image
from tests.tunnel_agent.vouching import in_a_cluster
from tests.tunnel_server.test_identity_over_time import echo
from tunnel_wire.stream import TunnelStream

pytestmark = pytest.mark.timeout(300)  # where it has to be made first

_LIMIT = 140 * 2**20
"""Bytes, as it is in a node's store; it is some 130 MiB, and some 40 compressed."""
_OURS = 10 * 2**20
"""Bytes of the layer that changes with every version; it is some 8 MiB."""
_DATA = random.Random(1).randbytes(1 << 20)
USER = 65532


@dataclass(frozen=True)
class Image:
    """The image of one architecture, unpacked as a container has it: read-only but for one directory."""

    archive: Path
    architecture: str
    root: Path
    runner: list[str]
    """What to put before a command line, so that its programs run here."""

    def words(self, *command: str, user: int = USER, writable: Path | None = None) -> list[str]:
        """The command line that runs `command` in it; `writable` is at /state, what holds it at /run."""
        stage = 'mount --bind "$0" "$0" && mount --rbind /proc "$0/proc" && '
        if writable:
            stage += f'mount --bind {writable} "$0/state" && mount --bind {writable.parent} "$0/run" && '
        stage += f'mount -o remount,ro,bind "$0" && exec chroot --userspec={user}:{user} "$0" "$@"'
        apart = ["unshare", "--mount", "--propagation", "private", "sh", "-c", stage]
        return [*self.runner, *apart, str(self.root), *command]

    def run(self, *command: str, **how: Any) -> subprocess.CompletedProcess[str]:
        environment = dict(each.split("=", 1) for each in tunnel_image.CONFIG["Env"])
        environment["PATH"] += ":/usr/sbin:/sbin"
        return subprocess.run(
            self.words(*command, **how),
            env=environment, capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip

    def blob(self, digest: str) -> bytes:
        with tarfile.open(self.archive) as archive:
            content = archive.extractfile(f"blobs/sha256/{digest.removeprefix('sha256:')}")
            assert content is not None
            return content.read()

    def listed(self) -> dict[str, Any]:
        """What the archive's index says of it."""
        with tarfile.open(self.archive) as archive:
            content = archive.extractfile("index.json")
            assert content is not None
            (manifest,) = json.loads(content.read())["manifests"]
        assert isinstance(manifest, dict)
        return manifest

    def layers(self) -> list[bytes]:
        manifest = json.loads(self.blob(self.listed()["digest"]))
        return [self.blob(each["digest"]) for each in manifest["layers"]]


@pytest.fixture(scope="module", params=[emulation.NATIVE, emulation.OTHER])
def image(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    path = tmp_path_factory.mktemp("image")
    try:
        with emulation.runner(request.param) as runner:
            made = Image(tunnel_image.archive(request.param), request.param, path, runner)
            for layer in made.layers():
                subprocess.run(["tar", "-x", "-C", path], input=layer, check=True)
            for folder in ("state", "run", "proc"):
                (path / folder).mkdir(exist_ok=True)
            path.chmod(0o755)
            yield made
    except emulation.NotEmulatedError as error:
        pytest.skip(str(error))


def test_its_architecture(image: Image) -> None:
    """As a runtime is told, and as each program and library says of itself."""
    listed = image.listed()
    config = json.loads(image.blob(json.loads(image.blob(listed["digest"]))["config"]["digest"]))
    assert listed["platform"] == {"architecture": image.architecture, "os": "linux"}
    assert (config["architecture"], config["config"]) == (image.architecture, tunnel_image.CONFIG)
    machines = set()
    for each in image.root.rglob("*"):
        if each.is_file() and not each.is_symlink():
            with each.open("rb") as file:
                head = file.read(20)
            if head.startswith(b"\x7fELF"):
                machines.add(int.from_bytes(head[18:], "little"))
    assert machines == {{"amd64": 62, "arm64": 183}[image.architecture]}  # e_machine


def test_its_size(image: Image) -> None:
    below, ours = map(len, image.layers())
    assert below + ours < _LIMIT
    assert ours < _OURS  # nothing in it that is in the other


@pytest.mark.parametrize("program", ["tunnel-server", "tunnel-agent", "tunnelctl"])
def test_its_programs(image: Image, program: str) -> None:
    done = image.run(f"/opt/edge-tunnel/bin/{program}", "--version")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == f"{program} {tunnel_image.NAME.partition(':')[2]} (compiled)\n"


def test_its_compiled_modules_are_what_an_import_takes(image: Image) -> None:
    """All of them load there: each needs no more of libc than Debian's has."""
    asked = """
import importlib, pathlib, tunnel_wire
for each in pathlib.Path(tunnel_wire.__file__).parent.glob("*.so"):
    print(importlib.import_module("tunnel_wire." + each.name.partition(".")[0]).__file__[-3:])
"""
    done = image.run("/opt/edge-tunnel/bin/python", "-c", asked)
    assert (done.returncode, done.stderr) == (0, "")
    assert set(done.stdout.split()) == {".so"}


def test_everything_is_compiled(image: Image) -> None:
    """Nothing can be written there later, and each start would compile it again."""
    sources = [
        each
        for folder in (image.root / "opt/edge-tunnel/lib", image.root / "usr/lib/python3.11")
        for each in folder.rglob("*.py")
        if not each.is_symlink()
    ]
    assert len(sources) > 1000
    compiled = (each.parent / "__pycache__" / f"{each.stem}.cpython-311.pyc" for each in sources)
    bare = [each for each in compiled if not each.exists()]
    assert bare == []


def test_what_is_not_in_it(image: Image) -> None:
    for each in (
        "bin/sh",
        "usr/bin/pip",
        "opt/edge-tunnel/bin/pip",
        "source",
        "dev/null",
        "build",
        "usr/include",
    ):
        assert not (image.root / each).exists(), each
    assert list(image.root.rglob("*-gcc*")) == []
    users = [line.partition(":")[0] for line in (image.root / "etc/passwd").read_text().splitlines()]
    assert users == ["root", "edge-tunnel"]
    privileged = [each for each in image.root.rglob("*") if each.is_file() and each.lstat().st_mode & 0o6000]
    assert privileged == []


async def test_an_agent_without_privilege_on_a_read_only_root(image: Image, tmp_path: Path) -> None:
    """It joins a server of this computer's own architecture, and carries a caller's bytes both ways."""
    (state := tmp_path / "state").mkdir()
    prepare = (
        "/opt/edge-tunnel/bin/tunnel-agent", "prepare-state", "--state-dir=/state", f"--uid={USER}",
    )  # fmt: skip
    done = await trio.to_thread.run_sync(lambda: image.run(*prepare, user=0, writable=state))
    assert done.returncode == 0, done.stderr
    async with in_a_cluster(tmp_path) as cluster, echo() as port:
        for each in (tmp_path, cluster.ca_file, cluster.token_file):
            each.chmod(0o755)
        command = image.words(
            "/opt/edge-tunnel/bin/tunnel-agent", "run", "--service-account-token=/run/token",
            "--ca-file=/run/ca.crt", "--node-name=edge-1", "--state-dir=/state", "--health-port=0",
            f"--servers={cluster.server.endpoint}", writable=state,
        )  # fmt: skip
        log = (tmp_path / "agent.log").open("wb")
        process = await trio.lowlevel.open_process(command, stderr=log)
        try:
            with trio.fail_after(60):  # emulated, beside a whole cluster
                while cluster.server.links("edge-1") != [0]:
                    await trio.sleep(0.05)
            stream = await cluster.server.open("edge-1", port)
            received = bytearray()
            with trio.fail_after(30):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(_send, stream)
                    while data := await stream.receive_some():
                        received += data
            await stream.aclose()
            assert received == _DATA
            process.send_signal(signal.SIGTERM)
            with trio.fail_after(30):
                assert await process.wait() == 0, (tmp_path / "agent.log").read_text()
        finally:
            process.kill()
            log.close()
    assert {(each.stat().st_uid, each.stat().st_mode & 0o777) for each in state.iterdir()} == {(USER, 0o600)}


async def _send(stream: TunnelStream) -> None:
    await stream.send_all(_DATA)
    await stream.send_eof()
