"""A second server of the same authority, on its own machine: restored there from the first one's backup."""

from tests.e2e.system import BIN, System, toml
from tunnelctl.admin_client import ask
from tunnelctl.errors import CommandError

NAME = "other"
"""Of its machine, and of its process."""
ADDRESS = "203.0.113.20"


class SecondServer:
    """It knows what the first one knew when this was made; what either learns later, the other does not."""

    def __init__(self, own: System, **settings: object) -> None:
        """Restore it, with these settings beside the usual; it does not run yet."""
        self.host = own.topology.host(NAME)
        self._own = own
        self._directory = own.directory / NAME
        self._directory.mkdir()
        self._admin = self._directory / "admin.sock"
        copy, secret, state = (self._directory / name for name in ("copy", "passphrase", "state"))
        secret.write_text("correct horse battery\n")
        own.ctl("backup", copy, "--passphrase-file", secret, "--state-dir", own.state)
        words = ["restore", copy, "--passphrase-file", secret, "--state-dir", state]
        done = self.host.run([BIN / "tunnelctl", *words])
        assert done.returncode == 0, done.stderr
        used = {"state-dir": state, "admin-socket": self._admin}
        (self._directory / "server.toml").write_text(toml({**used, **settings}))

    def start(self) -> None:
        """Start it; return when it answers."""
        words = ["--config", self._directory / "server.toml"]
        self._own.start(NAME, self.host, BIN / "tunnel-server", *words)
        self._own.until(self._answers, NAME)

    def connected(self) -> set[str]:
        """The nodes that are linked to it."""
        nodes = ask(self._admin, "GET", "/v1/nodes")["nodes"]
        return {node["name"] for node in nodes if node["connected"]}

    def _answers(self) -> bool:
        try:
            return bool(ask(self._admin, "GET", "/v1/status"))
        except CommandError:
            return False
