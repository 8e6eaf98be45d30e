"""TLS services on hosts of these tests, with certificates of their own that their callers verify."""

import subprocess
from pathlib import Path

from tests.e2e.system import System
from tunnelctl.demo.topology import Host


def certificate(directory: Path, name: str, *alternatives: str) -> tuple[Path, Path]:
    """A self-signed certificate and its key, for CN=`name`; its names, as in `DNS:edge-1`."""
    made, key = directory / f"{name}.pem", directory / f"{name}.key"
    words = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    words += ["-subj", f"/CN={name}", "-addext", f"subjectAltName={','.join(alternatives)}", "-days", "1"]
    subprocess.run([*words, "-keyout", key, "-out", made], check=True, capture_output=True)
    return made, key


def s_client(host: Host, where: str, *options: str | Path) -> str:
    """All that `openssl s_client` says of a connection; names as in `CN=edge-1`, whichever release it is."""
    words = ["openssl", "s_client", "-connect", where, "-nameopt", "RFC2253", *options]
    done = host.run(words, stdin="")
    return done.stdout + done.stderr


def serve_pages(system: System, host: Host, port: int, pair: tuple[Path, Path], *options: str) -> None:
    """Start `openssl s_server`, which answers GET with what it knows of the connection."""
    name = f"s_server-{host.name}-{port}"
    words = ["openssl", "s_server", "-accept", str(port), "-cert", pair[0], "-key", pair[1], "-www", *options]
    system.start(name, host, *words)
    system.until(lambda: system.listens(host, port), name)
