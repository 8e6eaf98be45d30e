"""Our server or agent as if no byte were kept: `python forgetful.py tunnel_server.cli WORD...`.

What has been encrypted is let go of at once. Nobody asks for the receipt of data, except where a writer waits
for it: far from the window's end it hears of room by that alone. The receipt of the end is asked for as well,
by which streams finish. So no stream could outlive its link: `resume-grace` has to be 0. It is what keeping
is measured against (`bench.loads.keeping`), and for nothing else.
"""

import importlib
import sys

from tunnel_wire.flow import Buffer, Outgoing
from tunnel_wire.life import Life

_take, _ask = Outgoing.take, Life.ask_for_receipt
_awaited: set[Outgoing] = set()
"""Those that had no room when some of what they had queued was taken."""


def _take_and_forget(self: Outgoing, size: int) -> list[Buffer]:
    if self.room() <= 0:
        _awaited.add(self)
    pieces = _take(self, size)
    # A segment goes back to the pool while its bytes are still to be encrypted: nothing is read before that.
    self.acknowledge(self.sent)
    return pieces


def _ask_where_it_is_awaited(self: Life, now: float) -> bool:
    for stream in list(self.sent):
        if not (stream.outgoing.end_sent or stream.outgoing in _awaited):
            del self.sent[stream]
    outgoing = {stream.outgoing for stream in self.sent}
    if asked := _ask(self, now):
        _awaited.difference_update(outgoing)
    return asked


def main() -> int:
    """Run the program with the words that follow its module."""
    Outgoing.take = _take_and_forget  # type: ignore[method-assign]
    Life.ask_for_receipt = _ask_where_it_is_awaited  # type: ignore[method-assign]
    run = importlib.import_module(sys.argv[1]).main
    return int(run(sys.argv[2:]))


if __name__ == "__main__":
    sys.exit(main())
