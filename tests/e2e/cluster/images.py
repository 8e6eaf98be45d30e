"""Container images that need no registry: an archive in OCI's layout, of busybox and nothing else."""

import hashlib
import io
import json
import subprocess
import tarfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tests.e2e.cluster.emulation import NATIVE

BUSYBOX = "localhost/busybox:1"
PAUSE = "localhost/pause:1"
_PROGRAM = "/bin/busybox"
_TYPE = "application/vnd.oci.image"


def write(path: Path) -> None:
    """Write an archive with BUSYBOX, and PAUSE, which is the same and does nothing, as `path`."""
    write_images(path, [_busybox()], {BUSYBOX: _config("sh"), PAUSE: _config("sleep", "inf")})


def write_program(path: Path, name: str, program: Path) -> None:
    """Write an archive with the image `name`: a static program alone, which it runs."""
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        _add(archive, program.name, program.read_bytes(), mode=0o755)
    write_images(path, [content.getvalue()], {name: _config(f"/{program.name}")})


def write_images(
    path: Path,
    layers: Sequence[bytes],
    images: Mapping[str, Mapping[str, Any]],
    *,
    architecture: str = NATIVE,
) -> None:
    """Write an archive of images that have the same layers, each a tar, and each its OCI `config`."""
    blobs: dict[str, bytes] = {}
    listed_layers = [_blob(blobs, layer, f"{_TYPE}.layer.v1.tar") for layer in layers]
    kind = {"architecture": architecture, "os": "linux"}
    manifests = []
    for name, stated in images.items():
        config = {
            **kind,
            "config": stated,
            "rootfs": {"type": "layers", "diff_ids": [layer["digest"] for layer in listed_layers]},
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{_TYPE}.manifest.v1+json",
            "config": _blob(blobs, json.dumps(config).encode(), f"{_TYPE}.config.v1+json"),
            "layers": listed_layers,
        }
        listed = _blob(blobs, json.dumps(manifest).encode(), f"{_TYPE}.manifest.v1+json")
        names = {"io.containerd.image.name": name, "org.opencontainers.image.ref.name": name}
        manifests.append({**listed, "platform": kind, "annotations": names})
    with tarfile.open(path, "w") as archive:
        _add(archive, "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
        _add(archive, "index.json", json.dumps({"schemaVersion": 2, "manifests": manifests}).encode())
        for digest, content in blobs.items():
            _add(archive, f"blobs/sha256/{digest}", content)


def _config(*command: str) -> Mapping[str, Any]:
    return {"Env": ["PATH=/bin"], "Entrypoint": command}


def _busybox() -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        for name, mode in (("bin", 0o755), ("etc", 0o755), ("root", 0o700), ("tmp", 0o1777), ("www", 0o755)):
            folder = tarfile.TarInfo(name)
            folder.type, folder.mode = tarfile.DIRTYPE, mode
            archive.addfile(folder)
        _add(archive, "bin/busybox", Path(_PROGRAM).read_bytes(), mode=0o755)
        _add(archive, "etc/passwd", b"root:x:0:0:root:/root:/bin/sh\n")
        _add(archive, "etc/group", b"root:x:0:\n")
        applets = subprocess.run([_PROGRAM, "--list"], check=True, capture_output=True, text=True).stdout
        for name in applets.split():
            if name != "busybox":
                link = tarfile.TarInfo(f"bin/{name}")
                link.type, link.linkname = tarfile.SYMTYPE, "busybox"
                archive.addfile(link)
    return content.getvalue()


def _blob(blobs: dict[str, bytes], content: bytes, kind: str) -> dict[str, Any]:
    digest = hashlib.sha256(content).hexdigest()
    blobs[digest] = content
    return {"mediaType": kind, "digest": f"sha256:{digest}", "size": len(content)}


def _add(archive: tarfile.TarFile, name: str, content: bytes, *, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    archive.addfile(entry, io.BytesIO(content))
