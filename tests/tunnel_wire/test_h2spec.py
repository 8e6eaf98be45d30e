"""h2spec against the agent's end of a link, which is the HTTP/2 server (RFC 9113; HPACK: RFC 7541).

h2spec dials, and so does an agent. What stands between them here accepts both connections.
"""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from functools import partial
from typing import TYPE_CHECKING

import pytest
import trio

from tests.e2e.cluster.components import go
from tests.e2e.cluster.components.released import Released
from tests.tunnel_wire.links import contexts, tcp_pair
from tunnel_wire.answerer import AnswererConnection
from tunnel_wire.flow import Budget
from tunnel_wire.hello import Hello
from tunnel_wire.link import Link, LinkEnded
from tunnel_wire.session import Session, Stream
from tunnel_wire.tls import TlsPump, handshake

if TYPE_CHECKING:
    from pathlib import Path

H2SPEC = Released(
    "h2spec",
    "2.2.1+incompatible",
    "github.com/summerwind/h2spec/cmd/h2spec",
    "half a minute",
    modules=("github.com/fatih/color@v1.18.0", "github.com/spf13/cobra@v1.9.1", "golang.org/x/net@v0.47.0"),
)
CASES = 140
"""Far fewer would be a report of something else."""
EXCEPTIONS = {
    # It waits for a body behind HEADERS. The agent answers an unknown path with 404 and END_STREAM alone, and
    # has accepted the frame in question: nothing asks for a body (RFC 9110, section 15.5.5).
    "Sends a WINDOW_UPDATE frame on half-closed (remote) stream",
    "Sends a PRIORITY frame on half-closed (remote) stream",
    # It asks for one stream more than the limit, and these count while they are open or half-closed (RFC
    # 9113, section 5.1.2). Each was answered before the next came, and is closed.
    "Sends HEADERS frames that causes their advertised concurrent stream limit to be exceeded",
    # The response is complete before the content comes, which is permitted (RFC 9113, section 8.1), and the
    # content is given to nobody, which is what calling it malformed would protect (section 8.1.1).
    *(
        f'Sends a HEADERS frame with the "content-length" header field which does not equal the {what} length'
        for what in ("DATA frame payload", "sum of the multiple DATA frames payload")
    ),
}


@pytest.mark.timeout(300)  # where it is built first
async def test_h2spec(tmp_path: Path) -> None:
    try:
        h2spec = H2SPEC.make(print)
    except go.BuildError as error:
        pytest.skip(f"h2spec is not built: {' '.join(str(error).split())}")
    failed = await _failed_cases(h2spec, tmp_path / "report.xml", 1)
    if failed - EXCEPTIONS:  # perhaps for want of time: the machine may have much else to do
        failed &= EXCEPTIONS | await _failed_cases(h2spec, tmp_path / "again.xml", 5)
    assert failed == EXCEPTIONS


async def _failed_cases(h2spec: Path, report: Path, timeout: int) -> set[str]:
    """Those of all that did not pass; for each answer it waits `timeout` seconds."""
    async with trio.open_nursery() as nursery:
        serving = partial(trio.serve_tcp, _serve, 0, host="127.0.0.1")
        (listener,) = await nursery.start(serving)
        port = listener.socket.getsockname()[1]
        await trio.run_process(
            [
                h2spec,
                "--host=127.0.0.1",
                f"--port={port}",
                "--strict",
                f"--timeout={timeout}",
                f"--junit-report={report}",
            ],
            capture_stdout=True,
            check=False,
        )
        nursery.cancel_scope.cancel()
    cases = list(ElementTree.parse(report).iter("testcase"))
    assert len(cases) > CASES
    return {case.get("classname", "") for case in cases if case.find("error") is not None}


async def _serve(client: trio.SocketStream) -> None:
    """Put one agent's link behind a connection of h2spec's, until either has ended."""
    server_context, client_context = contexts()
    far, near = tcp_pair()
    tls = trio.SSLStream(
        trio.SocketStream(trio.socket.from_stdlib_socket(near)),
        server_context,
        server_side=True,
        https_compatible=True,
    )
    pump = TlsPump(client_context, server_hostname="test")
    async with trio.open_nursery() as nursery:
        nursery.start_soon(handshake, far, pump)
        await tls.do_handshake()
    session = Session(budget=Budget(1 << 30), first_key=1 << 63)
    connection = AnswererConnection(
        session, Hello("1", session=session.identifier, node="edge-1"), now=trio.current_time()
    )

    def accept(stream: Stream) -> None:
        connection.accept(stream)

    async def agent() -> None:
        with pytest.raises(LinkEnded):
            await Link(far, pump, connection, on_request=accept).run()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(agent)
        nursery.start_soon(_copy, client, tls)
        nursery.start_soon(_copy, tls, client)


async def _copy(source: trio.abc.Stream, sink: trio.abc.Stream) -> None:
    try:
        while data := await source.receive_some(65536):
            await sink.send_all(data)
    except (trio.BrokenResourceError, trio.ClosedResourceError):
        pass
    # What the agent said last is to be read before the connection goes.
    await trio.aclose_forcefully(sink) if isinstance(sink, trio.SSLStream) else await sink.aclose()
