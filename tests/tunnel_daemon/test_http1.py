"""One HTTP/1.1 connection: keep-alive, bounds, refusals."""

from __future__ import annotations

import logging
import ssl
import subprocess
import time
from email.utils import parsedate_to_datetime

import h11
import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tunnel_daemon.http1 import HttpError, HttpLimits, Request, Response, serve_connection

GET = b"GET /hello?a=1&b= HTTP/1.1\r\nHost: x\r\n\r\n"


async def echo(request: Request) -> Response:
    return Response.json({
        "method": request.method, "path": request.path, "query": dict(request.query),
        "body": request.body.decode(), "peer": request.peer,
    })  # fmt: skip


async def exchange(data: bytes, handler=echo, limits: HttpLimits | None = None, *, eof: bool = True) -> bytes:
    """Send all of `data`, return all that is answered until the server closes."""
    client, server = trio.testing.memory_stream_pair()
    answer = bytearray()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_connection(server, handler, peer="me", limits=limits))
        await client.send_all(data)
        if eof:
            await client.send_eof()
        while chunk := await client.receive_some():
            answer += chunk
        await client.aclose()
    return bytes(answer)


def parse(answer: bytes) -> list[tuple[int, dict[bytes, bytes], bytes]]:
    """Return (status, headers, body) of each final response; fails on anything left over."""
    parser = h11.Connection(h11.CLIENT)
    found = []
    rest = answer
    while rest:
        parser = h11.Connection(h11.CLIENT)
        parser.send(h11.Request(method="GET", target="/", headers=[("host", "x")]))
        parser.send(h11.EndOfMessage())
        parser.receive_data(rest)
        event, head, body = parser.next_event(), None, b""
        while not isinstance(event, h11.EndOfMessage):
            assert event is not h11.NEED_DATA
            if isinstance(event, h11.Response):
                head = event
            if isinstance(event, h11.Data):
                body += event.data
            event = parser.next_event()
        assert head is not None
        found.append((head.status_code, dict(head.headers), body))
        rest = parser.trailing_data[0]
    return found


async def test_a_request_is_read_whole_and_answered() -> None:
    [(status, headers, body)] = parse(await exchange(GET))
    assert status == 200
    assert headers[b"content-type"] == b"application/json"
    assert headers[b"date"].endswith(b" GMT")
    assert abs(parsedate_to_datetime(headers[b"date"].decode()).timestamp() - time.time()) < 60
    assert b'"path":"/hello","query":{"a":"1","b":""}' in body
    assert b'"peer":"me"' in body


async def test_pipelined_requests_are_answered_in_order() -> None:
    post = b"POST /b HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n"
    answers = parse(await exchange(GET + post + GET))
    assert [status for status, _, _ in answers] == [200, 200, 200]
    assert b'"body":"abc"' in answers[1][2]


async def test_connection_close_and_http_1_0_end_the_connection() -> None:
    closing = b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    assert len(parse(await exchange(closing + GET))) == 1
    assert len(parse(await exchange(b"GET / HTTP/1.0\r\n\r\n", eof=False))) == 1


async def test_requests_per_connection_are_bounded_and_announced() -> None:
    answers = parse(await exchange(GET * 3, limits=HttpLimits(requests=2)))
    assert len(answers) == 2
    assert answers[1][1][b"connection"] == b"close"


async def test_100_continue_is_sent_before_the_body_is_read() -> None:
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_connection(server, echo))
        await client.send_all(
            b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n"
        )
        assert (await client.receive_some()).startswith(b"HTTP/1.1 100")
        await client.send_all(b"hi")
        assert b'"body":"hi"' in await client.receive_some()
        await client.aclose()


async def test_a_body_too_large_is_refused_before_it_is_asked_for(autojump_clock) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: 65537\r\n\r\n"
    [(status, headers, body)] = parse(await exchange(head, eof=False))
    assert status == 413
    assert headers[b"connection"] == b"close"
    assert b"65536 bytes" in body


async def test_a_chunked_body_too_large_is_refused_and_its_rest_swallowed(autojump_clock) -> None:
    head = b"POST / HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunk = b"4000\r\n" + b"x" * 0x4000 + b"\r\n"
    [(status, _, _)] = parse(await exchange(head + chunk * 20, eof=False))
    assert status == 413


async def test_headers_too_large_are_refused(autojump_clock) -> None:
    huge = b"GET / HTTP/1.1\r\nHost: x\r\nX: " + b"x" * 30_000 + b"\r\n\r\n"
    [(status, _, _)] = parse(await exchange(huge))
    assert status == 431


@pytest.mark.parametrize(
    "data",
    [
        b"nonsense\r\n\r\n",
        b"GET / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"GET relative HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET http://[ HTTP/1.1\r\nHost: x\r\n\r\n",
        b"GET /%ff HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    ],
)
async def test_what_is_malformed_gets_400_and_the_connection_closes(data: bytes, autojump_clock) -> None:
    [(status, headers, body)] = parse(await exchange(data + GET))
    assert status == 400
    assert headers[b"connection"] == b"close"
    assert body.startswith(b'{"error":')
    assert b"Traceback" not in body


async def test_http_2_is_told_what_to_speak() -> None:
    [(status, _, body)] = parse(await exchange(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"))
    assert (status, body) == (400, b'{"error":"HTTP/2 is not spoken here: use HTTP/1.1"}\n')


async def test_the_first_head_may_have_a_time_of_its_own(autojump_clock) -> None:
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_connection(server, echo, head_by=3.0))
        await trio.sleep(2)
        await client.send_all(GET)
        assert b"200" in await client.receive_some()
        await client.send_all(b"GET / HT")
        assert b"408" in await client.receive_some()
        assert trio.current_time() == pytest.approx(12)
        await client.aclose()
    client, server = trio.testing.memory_stream_pair()
    began = trio.current_time()
    await client.send_all(b"GET / HT")
    await serve_connection(server, echo, head_by=began + 3.0)
    assert b"408" in await client.receive_some()
    assert trio.current_time() - began == pytest.approx(4)  # and what it still says is read for a moment


async def test_absolute_form_is_understood() -> None:
    [(status, _, body)] = parse(await exchange(b"GET http://h:1/p?q=1 HTTP/1.1\r\nHost: h\r\n\r\n"))
    assert status == 200
    assert b'"path":"/p","query":{"q":"1"}' in body


async def test_a_handlers_exception_is_logged_and_not_told(caplog) -> None:
    async def broken(_: Request) -> Response:
        raise RuntimeError("the password is hunter2")

    answers = parse(await exchange(GET + GET, broken))
    assert [status for status, _, _ in answers] == [500, 500]  # the connection lives on
    assert b"hunter2" not in answers[0][2]
    assert "hunter2" in caplog.text
    assert caplog.records[0].levelno == logging.ERROR


async def test_an_http_error_of_the_handler_is_told() -> None:
    async def refusing(request: Request) -> Response:
        request.json()
        raise AssertionError

    async def conflict(_: Request) -> Response:
        raise HttpError(409, "it is taken", {"retry-after": "3"})

    [(status, _, body)] = parse(await exchange(GET, refusing))
    assert (status, body) == (400, b'{"error":"the request body is not JSON"}\n')
    [(status, headers, body)] = parse(await exchange(GET, conflict))
    assert (status, body) == (409, b'{"error":"it is taken"}\n')
    assert headers[b"retry-after"] == b"3"


async def test_an_unsendable_response_closes_the_connection_and_is_logged(caplog) -> None:
    async def bad(_: Request) -> Response:
        return Response(headers={"x": "a\r\nb: c"})

    assert await exchange(GET, bad) == b""
    assert "can't be sent" in caplog.text


async def test_head_and_204_carry_no_body() -> None:
    async def nothing(_: Request) -> Response:
        return Response(204, b"")

    answer = await exchange(b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n")
    assert answer.endswith(b"\r\n\r\n")
    assert b"content-length: 0" not in answer.lower()
    [(status, headers, body)] = parse(await exchange(GET, nothing))
    assert (status, body) == (204, b"")
    assert b"content-length" not in headers


async def test_slow_headers_get_408(autojump_clock) -> None:
    start = trio.current_time()
    [(status, _, _)] = parse(await exchange(b"GET / HTTP/1.1\r\nHo", eof=False))
    assert status == 408
    assert 10 <= trio.current_time() - start <= 12


async def test_a_slow_body_gets_408_and_a_slow_handler_503(autojump_clock) -> None:
    async def slow(_: Request) -> Response:
        await trio.sleep(1000)
        raise AssertionError

    body = b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab"
    assert parse(await exchange(body, eof=False))[0][0] == 408
    start = trio.current_time()
    assert parse(await exchange(GET, slow, eof=False))[0][0] == 503
    assert trio.current_time() - start <= 35


async def test_an_idle_connection_is_closed_without_an_answer(autojump_clock) -> None:
    start = trio.current_time()
    assert await exchange(b"", eof=False) == b""
    assert trio.current_time() - start == pytest.approx(10)
    start = trio.current_time()
    assert len(parse(await exchange(GET, eof=False))) == 1
    assert trio.current_time() - start == pytest.approx(30)


async def test_a_peer_that_never_reads_does_not_hold_the_connection(autojump_clock) -> None:
    async def big(_: Request) -> Response:
        return Response(body=b"x" * 1_000_000)

    client, server = trio.testing.lockstep_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: client.send_all(GET))
        with trio.fail_after(40):
            await serve_connection(server, big)


async def test_a_peer_that_vanishes_is_no_error() -> None:
    client, server = trio.testing.memory_stream_pair()
    await client.send_all(GET)
    await client.aclose()
    await serve_connection(server, echo)


async def test_cancelling_closes_the_stream() -> None:
    client, server = trio.testing.memory_stream_pair()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(lambda: serve_connection(server, echo))
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    assert await client.receive_some() == b""


@given(st.binary(max_size=300), st.integers(0, len(GET)))
def test_any_bytes_get_a_wellformed_answer_or_none(junk: bytes, at: int) -> None:
    answer = trio.run(exchange, GET[:at] + junk, clock=trio.testing.MockClock(autojump_threshold=0))
    assert all(status in {200, 400, 408, 413, 431, 501} for status, _, _ in parse(answer))


async def test_curl_is_served_over_tcp() -> None:
    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: trio.serve_tcp(
                lambda stream: serve_connection(stream, echo), 0, host="127.0.0.1", task_status=task_status
            )
        )
        port = listeners[0].socket.getsockname()[1]
        url = f"http://127.0.0.1:{port}/a%20b"
        done = await trio.run_process(
            ["curl", "-sS", "--max-time", "10", url, url, "-d", "x" * 5000, "-w", "%{num_connects} "],
            capture_stdout=True, stderr=subprocess.STDOUT,
        )  # fmt: skip
        nursery.cancel_scope.cancel()
    assert done.stdout.count(b'"path":"/a b"') == 2
    assert done.stdout.endswith(b"0 ")  # the second went over the first's connection


async def test_curl_is_served_over_tls_and_a_truncated_client_is_no_error(tmp_path) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes",
         "-subj", "/CN=x", "-addext", "subjectAltName=IP:127.0.0.1", "-keyout", key, "-out", certificate],
        check=True, capture_output=True,
    )  # fmt: skip
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(certificate, key)
    served = trio.Event()

    async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
        await serve_connection(stream, echo)
        served.set()

    async with trio.open_nursery() as nursery:
        listeners = await nursery.start(
            lambda task_status: trio.serve_ssl_over_tcp(
                serve, 0, context, host="127.0.0.1", https_compatible=True, task_status=task_status
            )
        )
        port = listeners[0].transport_listener.socket.getsockname()[1]
        done = await trio.run_process(
            ["curl", "-sS", "-m", "10", "--cacert", certificate, f"https://127.0.0.1:{port}/a", "-d", "x"],
            capture_stdout=True, stderr=subprocess.STDOUT,
        )  # fmt: skip
        assert b'"body":"x"' in done.stdout
        with trio.fail_after(5):
            await served.wait()
        served = trio.Event()
        client = await trio.open_ssl_over_tcp_stream(
            "127.0.0.1", port, ssl_context=ssl.create_default_context(cafile=str(certificate))
        )
        await client.send_all(GET[:10])
        await client.transport_stream.aclose()  # no close_notify
        with trio.fail_after(5):
            await served.wait()
        nursery.cancel_scope.cancel()
