"""The edge's small web service does what it says to a client that is not ours."""

import hashlib
import http.client
import socket
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunnelctl.demo import service
from tunnelctl.demo.processes import Processes


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        free = int(probe.getsockname()[1])
    with Processes(tmp_path_factory.mktemp("logs")) as processes:
        script = Path(service.__file__)
        processes.start("service", [sys.executable, "-I", script, "edge-7", str(free), "127.0.0.1"])
        deadline = time.monotonic() + 10
        while True:
            try:
                socket.create_connection(("127.0.0.1", free)).close()
                break
            except ConnectionRefusedError:
                assert time.monotonic() < deadline, processes.tail("service")
                time.sleep(0.01)
        yield free


@pytest.fixture
def client(port: int) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
    yield connection
    connection.close()


def test_it_says_who_answers_on_one_connection(client: http.client.HTTPConnection) -> None:
    for _ in range(2):
        client.request("GET", "/")
        assert client.getresponse().read().startswith(b"edge-7 here: you asked for 127.0.0.1:")


@pytest.mark.parametrize("chunked", [False, True])
@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_uploads_are_measured(client: http.client.HTTPConnection, method: str, chunked: bool) -> None:
    body = bytes(range(256)) * 1000
    pieces = (body[start : start + 1000] for start in range(0, len(body), 1000))
    client.request(method, "/anything", pieces if chunked else body)
    answer = client.getresponse().read().decode()
    assert answer == f"256000 bytes, sha256 {hashlib.sha256(body).hexdigest()}\n"


def test_downloads_have_the_size_asked_for(client: http.client.HTTPConnection) -> None:
    client.request("GET", "/download?mib=2")
    assert len(client.getresponse().read()) == 2 << 20


def test_events_come_one_by_one(client: http.client.HTTPConnection) -> None:
    client.request("GET", "/events")
    response = client.getresponse()
    assert response.headers["Content-Type"] == "text/event-stream"
    assert response.readline() + response.readline() == b"id: 0\ndata: edge-7, second 0\n"


def test_elsewhere_is_not_found(client: http.client.HTTPConnection) -> None:
    client.request("GET", "/else")
    assert client.getresponse().status == 404
