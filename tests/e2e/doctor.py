"""`tunnelctl doctor`, asked as an operator does."""

import json
from typing import Any

from tests.e2e.system import BIN, System


class Doctor:
    """What doctor found, and its exit code."""

    def __init__(self, system: System, *words: str) -> None:
        self._argv = [BIN / "tunnelctl", "doctor", *words, "--admin-socket", system.admin]
        self._host = system.topology.cloud
        done = self._host.run([*self._argv, "--json"])
        assert done.stderr == ""
        self.code = done.returncode
        self.checks: list[dict[str, Any]] = json.loads(done.stdout)["checks"]

    def ask_in_words(self) -> str:
        """The same asked again, by a person."""
        return self._host.run(self._argv).stdout

    @property
    def failed(self) -> list[str]:
        """The names of the steps that failed."""
        return [check["name"] for check in self.checks if check["state"] == "failed"]

    @property
    def skipped(self) -> list[str]:
        """Those that were not tried because of that."""
        return [check["name"] for check in self.checks if check["state"] == "skipped"]

    def told(self, name: str) -> str:
        """What is said of the first failure of that name, and its remedy."""
        check = next(each for each in self.checks if each["name"] == name and each["state"] == "failed")
        assert check["remedy"], check
        return f"{check['text']} -> {check['remedy']}"
