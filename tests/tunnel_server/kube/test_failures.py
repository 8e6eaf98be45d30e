"""Why a request to the apiserver failed, in one line with the remedy: each cause as it really comes."""

import json
import socket
import threading

import pytest
import urllib3

from tunnel_server.kube.failures import ApiRequest, no_answer, refusal
from tunnel_server.kube.resources import CONFIG_MAPS, NODES, SECRETS, SERVICE_CIDRS

_MANAGED = "; somebody else manages this field: have them leave it, or remove the object"
HOST = "https://10.0.0.1:6443"


def status(code: int, reason: str, message: str) -> bytes:
    return json.dumps({"kind": "Status", "code": code, "reason": reason, "message": message}).encode()


@pytest.mark.parametrize(
    ("made", "code", "body", "text"),
    [
        (
            ApiRequest("list", SERVICE_CIDRS), 404, b"404 page not found\n",
            f"list {SERVICE_CIDRS}: HTTP status 404; this apiserver does not serve networking.k8s.io/v1",
        ),
        (
            ApiRequest("get", NODES, "", "n"), 404, status(404, "NotFound", 'nodes "n" not found'),
            'get nodes n: nodes "n" not found',
        ),
        (
            ApiRequest("watch", NODES), 401, status(401, "Unauthorized", "no"),
            "watch nodes: no; has the token or the certificate expired, or is it another cluster's?",
        ),
        (
            ApiRequest("patch", CONFIG_MAPS, "ns", "c"), 409, status(409, "Conflict", "conflict"),
            "patch configmaps c in ns: conflict" + _MANAGED,
        ),
        (ApiRequest("list", NODES), 503, b"\xff{", "list nodes: HTTP status 503"),
        (ApiRequest("list", NODES), 500, b"[]", "list nodes: HTTP status 500"),
    ],
)  # fmt: skip
def test_refusals(made: ApiRequest, code: int, body: bytes, text: str) -> None:
    failure = refusal(HOST, made, code, body)
    assert str(failure) == f"apiserver {HOST}: {text}"
    assert failure.status == code


@pytest.mark.parametrize(
    ("code", "lasting"),
    [
        (0, False),
        (400, True),
        (401, True),
        (403, True),
        (404, True),
        (410, False),
        (429, False),
        (503, False),
    ],
)
def test_what_would_fail_again(code: int, lasting: bool) -> None:
    assert refusal(HOST, ApiRequest("list", NODES), code, b"").lasting is lasting


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (OSError(113, "x"), "No route to host: is there a route, and no firewall in between?"),
        (ValueError("a\nb"), "a b"),
        (KeyError(), "KeyError"),
    ],
)
def test_what_is_hard_to_bring_about(error: Exception, text: str) -> None:
    assert str(no_answer(HOST, ApiRequest("list", NODES), error)) == f"apiserver {HOST}: list nodes: {text}"


def cause(port, host="127.0.0.1", watched=False, **options):
    with urllib3.PoolManager(retries=False) as pool:
        try:
            response = pool.request("GET", f"http://{host}:{port}/", preload_content=not watched, **options)
            list(response.stream())
        except (urllib3.exceptions.HTTPError, OSError) as error:
            return str(no_answer("https://a", ApiRequest("get", SECRETS, "n", "x"), error))
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


@pytest.mark.parametrize("watched", [False, True])
def test_cut_off(listener, watched):
    def answer():
        connection, _ = listener.accept()
        with connection:
            connection.recv(1000)
            connection.sendall(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n")

    thread = threading.Thread(target=answer)
    thread.start()
    assert cause(listener.getsockname()[1], watched=watched).endswith(": the connection was cut")
    thread.join()
