"""Why a request to the apiserver failed, in words: each cause as it really comes."""

import socket
import threading

import pytest
import urllib3

from tunnel_server.kube.failures import Asked, no_answer
from tunnel_server.kube.resources import SECRETS


def cause(port, host="127.0.0.1", **options):
    with urllib3.PoolManager(retries=False) as pool:
        try:
            pool.request("GET", f"http://{host}:{port}/", **options)
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return str(no_answer("https://a", Asked("get", SECRETS, "n", "x"), error))
    pytest.fail("it was answered")


@pytest.fixture
def listener():
    with socket.create_server(("127.0.0.1", 0)) as made:
        yield made


def test_nobody_there():
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    assert cause(port) == "apiserver https://a: get secrets x in n: nothing listens there: is it running?"
    assert "its name cannot be resolved" in cause(1, "no-such-host.invalid")


def test_silence(listener):
    assert cause(listener.getsockname()[1], timeout=0.1).endswith(": no answer in time")


def test_cut_off(listener):
    def answer():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    assert cause(listener.getsockname()[1]).endswith(": the connection was cut")
    thread.join()
