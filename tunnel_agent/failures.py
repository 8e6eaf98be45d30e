"""Where the agent's modules find `tunnel_daemon.failure_log`."""

from tunnel_daemon.failure_log import FailureLog

__all__ = ["FailureLog"]
