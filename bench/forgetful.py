"""Our server or agent as if no byte were kept: `python forgetful.py tunnel_server.cli WORD...`.

What has been encrypted is let go of at once, and nobody asks for the receipt of data; only the end's is asked
for, by which streams finish. So no stream could outlive its link: `resume-grace` has to be 0. It is what
keeping is measured against (`bench.loads.keeping`), and for nothing else.
"""

import importlib
import sys

from tunnel_wire.flow import Buffer, Outgoing
from tunnel_wire.life import Life

_take, _ask = Outgoing.take, Life.ask_for_receipt


def _take_and_forget(self: Outgoing, size: int) -> list[Buffer]:
    pieces = _take(self, size)
    # A segment goes back to the pool while its bytes are still to be encrypted: nothing is read before that.
    self.acknowledge(self.sent)
    return pieces


def _ask_for_ends(self: Life, now: float) -> bool:
    self.sent.intersection_update([stream for stream in self.sent if stream.outgoing.end_sent])
    return _ask(self, now)


def main() -> int:
    """Run the program with the words that follow its module."""
    Outgoing.take = _take_and_forget  # type: ignore[method-assign]
    Life.ask_for_receipt = _ask_for_ends  # type: ignore[method-assign]
    run = importlib.import_module(sys.argv[1]).main
    return int(run(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
