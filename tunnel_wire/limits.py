"""Every bound and timeout of the wire, with its unit."""

from dataclasses import dataclass

KIB = 1024
MIB = 1024 * KIB


@dataclass(frozen=True, slots=True)
class WireLimits:
    """Bounds that one end keeps, whatever the other grants or asks for. Sizes in bytes, times in seconds."""

    max_streams: int = 10_000
    """Streams open at once in a session: all of them may be on one link."""
    initial_window: int = 64 * KIB
    """A stream's receive window when it opens (65,536 in the protocol)."""
    max_window: int = 16 * MIB
    """What a stream's receive window may grow to."""
    kept_floor: int = 64 * KIB
    """Sent bytes that a stream may always keep until their receipt is known."""
    max_kept: int = 32 * MIB
    """What that may grow to: two round trips of the largest window, as one receipt is asked for at a time."""
    max_queued: int = 1 * MIB
    """Bytes of one stream accepted but not yet framed."""
    connection_window: int = 1600 * KIB
    """The connection's receive window at first; credit is returned on receipt. A small write has to wait
    behind what this lets stand in the kernel's queues. Three pieces of 512 KiB, as bulk is read and sent, and
    64 KiB that a sender keeps for small writes: with any other size pieces are cut where the credit ends.
    """
    max_connection_window: int = 64 * MIB
    """What it may grow to, where the path's round trip needs it."""
    max_frame: int = 1 * MIB
    """Largest DATA frame accepted, and sent where the peer accepts it."""
    min_frame: int = 16 * KIB
    """Smallest target for DATA frames on a slow link."""
    max_control_frame: int = 16 * KIB
    """Largest frame other than DATA."""
    max_header_block: int = 64 * KIB
    """HEADERS and CONTINUATION together."""
    max_queued_control: int = 256 * KIB
    """Control frames that wait to be sent."""
    control_rate: int = 1_000
    """PING, SETTINGS, PRIORITY, unknown and empty frames accepted per second, in the long run."""
    control_burst: int = 2_000
    """... and at once."""
    reset_rate: int = 1_000
    """Streams reset by the peer per second, in the long run."""
    reset_burst: int = 10_000
    """... and at once: a caller with every stream open may die."""
    heartbeat_after: float = 4.0
    """Silence after which a PING asks for life."""
    silence_limit: float = 12.0
    """Silence after which the link is given up; with the heartbeat's own delay below 15 s."""
    receipt_interval: float = 0.005
    """Shortest time between two PINGs that ask for receipt."""
    receipt_size: int = 32 * KIB
    """Bytes sent since the last one for which the next is that soon ..."""
    receipt_patience: float = 0.05
    """... and the time after which fewer have theirs: a stream's floor holds them meanwhile.

    Each question wakes both ends and sets timers: with 5 ms for all, echoes took half as much CPU again.
    """
    hello_timeout: float = 10.0
    """From the end of the TLS handshake to hello."""
    reset_behind_data: float = 1.0
    """How long a reset waits for the data before it."""
    resume_grace: float = 90.0
    """How long the server keeps streams whose link was lost; 0: they end with it."""
    resume_grace_pooled: float = 10.0
    """The same for connections that many requests share: each new one would wait with them."""
    resumed_at_once: int = 256
    """Open streams asked for at once: an agent must not be made to owe more answers than it may queue."""
    answer_timeout: float = 15.0
    """For the agent to say what it has of an open stream that a link asks for. A new one's deadline is its
    caller's.
    """
    linger: float = 60.0
    """How long a stream whose user has closed it waits for the peer's end."""


DEFAULT_LIMITS = WireLimits()
