"""What the server answers of a node with which all is well, for tests to change."""

from __future__ import annotations

from typing import Any

NOW = "2026-11-21T10:00:00Z"
NODE: dict[str, Any] = {
    "name": "edge-1", "connected": True, "since": "2026-11-21T09:00:00Z", "addresses": ["192.168.2.143"],
    "remote_address": "203.0.113.11:4711", "agent_version": "1", "rtt_ms": 12.3, "problem": None,
}  # fmt: skip
ADDRESS: dict[str, Any] = {
    "address": "192.168.2.143", "held": True, "captured": True, "routed": True,
    "claimants": [], "refusal": "",
}  # fmt: skip
TOKEN: dict[str, Any] = {
    "id": "1", "state": "used", "created": "2026-11-20T09:00:00Z", "expires": "2026-11-21T09:00:00Z",
    "used": "2026-11-20T10:00:00Z",
}  # fmt: skip
KNOWN: dict[str, Any] = {
    "name": "edge-1", "server_version": "1", "server_time": NOW, "uptime_seconds": 60, "problems": [],
    "node": NODE,
    "known_names": [], "tokens": [TOKEN],
    "certificate_begins": "2026-11-20T09:00:00Z", "certificate_expires": "2027-11-21T10:00:00Z",
    "certificate_revoked": "",
    "answers": True, "patience_seconds": 5, "silent_seconds": 0.4, "gives_up_seconds": 11.6,
    "clock_ahead_seconds": 0.4, "last_end": None, "broken_handshake": None,
    "addresses": [ADDRESS],
    "interception": {"state": "active", "restored": 0, "problems": []},
    "mappings": [{"port": 9081, "listener_port": 10264, "source": "added"}],
}  # fmt: skip
AWAY: dict[str, Any] = {
    **KNOWN, "node": {**NODE, "connected": False, "rtt_ms": None},
    "answers": None, "silent_seconds": None, "gives_up_seconds": None,
}  # fmt: skip
