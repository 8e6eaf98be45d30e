"""What attesting an agent comes to, as the join API sees it; `tunnel_server.kube.attestation` does it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from datetime import datetime


@dataclass(frozen=True, slots=True)
class Attested:
    """Somebody trusted vouches that whoever asks is the agent of this node."""

    node: str
    evidence: str
    """On what that rests, for the log."""
    since: datetime | None = None
    """When what vouches began, by its own clock; what is issued is dated later."""


class AttestationRefusedError(Exception):
    """The evidence does not stand: `code` for programs, the text for the operator, in one line."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


class AttestationUnavailableError(Exception):
    """Whoever vouches cannot be asked now; one line, and asking again later is right."""


class Attestor(Protocol):
    """Judges the evidence that agents send in place of a join token."""

    async def attest(self, token: str, *, suspect: bool = False) -> Attested:
        """Say whose agent has sent `token`.

        A `suspect` has failed too often: its turn comes without delaying anybody else's. Raises
        AttestationRefusedError, AttestationUnavailableError. Cancelled, nothing has changed.
        """
