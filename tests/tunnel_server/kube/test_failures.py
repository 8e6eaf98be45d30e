"""Failures of requests, in one line with the remedy. What a real apiserver says is tested with one."""

import json

import pytest
import urllib3.exceptions as u3

from tunnel_server.kube.failures import Asked, no_answer, refusal
from tunnel_server.kube.resources import CONFIG_MAPS, NODES, SERVICE_CIDRS

_MANAGED = "; somebody else manages this field: have them leave it, or remove the object"
HOST = "https://10.0.0.1:6443"


def status(code: int, reason: str, message: str) -> bytes:
    return json.dumps({"kind": "Status", "code": code, "reason": reason, "message": message}).encode()


@pytest.mark.parametrize(
    ("asked", "code", "body", "text"),
    [
        (
            Asked("list", SERVICE_CIDRS), 404, b"404 page not found\n",
            f"list {SERVICE_CIDRS}: HTTP status 404; this apiserver does not serve networking.k8s.io/v1",
        ),
        (
            Asked("get", NODES, "", "n"), 404, status(404, "NotFound", 'nodes "n" not found'),
            'get nodes n: nodes "n" not found',
        ),
        (
            Asked("watch", NODES), 401, status(401, "Unauthorized", "no"),
            "watch nodes: no; has the token or the certificate expired, or is it another cluster's?",
        ),
        (
            Asked("patch", CONFIG_MAPS, "ns", "c"), 409, status(409, "Conflict", "conflict"),
            "patch configmaps c in ns: conflict" + _MANAGED,
        ),
        (Asked("list", NODES), 503, b"\xff{", "list nodes: HTTP status 503"),
        (Asked("list", NODES), 500, b"[]", "list nodes: HTTP status 500"),
    ],
)  # fmt: skip
def test_refusals(asked: Asked, code: int, body: bytes, text: str) -> None:
    failure = refusal(HOST, asked, code, body)
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
    assert refusal(HOST, Asked("list", NODES), code, b"").lasting is lasting


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (ConnectionRefusedError(111, "refused"), "nothing listens there: is it running?"),
        (ConnectionResetError(104, "reset"), "the connection was cut"),
        (u3.ReadTimeoutError(None, "/", "Read timed out."), "no answer in time"),  # type: ignore[arg-type]
        (TimeoutError(), "no answer in time"),
        (u3.IncompleteRead(1, 2), "the connection was cut"),
        (OSError(113, "x"), "No route to host: is there a route, and no firewall in between?"),
        (ValueError("a\nb"), "a b"),
        (KeyError(), "KeyError"),
    ],
)
def test_no_answer(error: Exception, text: str) -> None:
    assert str(no_answer(HOST, Asked("list", NODES), error)) == f"apiserver {HOST}: list nodes: {text}"
    wrapped = u3.ProtocolError("wrapped")
    wrapped.__cause__ = error
    assert str(no_answer(HOST, Asked("list", NODES), wrapped)).endswith(text)
