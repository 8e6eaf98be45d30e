import resource
from pathlib import Path

from tunnel_wire.link_buffers import PIECE, LinkBuffers, of_this_loop


def _resident() -> int:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


async def test_a_loop_has_one_set():
    assert of_this_loop() is of_this_loop()


def test_what_was_never_received_takes_no_memory():
    before = _resident()
    kept = [LinkBuffers() for _ in range(64)]
    assert _resident() < before + len(kept) * PIECE // 4
    kept[0].plaintext[:5] = b"hello"
    assert bytes(kept[0].plaintext[:6]) == b"hello\0"
