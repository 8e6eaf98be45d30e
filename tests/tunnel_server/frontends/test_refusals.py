"""Refusals: a status for each cause, and nothing of a caller's in a header that could break it."""

from __future__ import annotations

import json

import pytest

from tunnel_server.frontends.refusals import refusal, refusal_of, status_of
from tunnel_wire.causes import Cause, OpenFailed


@pytest.mark.parametrize("cause", Cause)
def test_every_cause_has_a_status_that_clients_know(cause: Cause) -> None:
    assert status_of(cause) in {400, 403, 502, 503, 504}


def test_the_cause_stands_in_phrase_header_and_body() -> None:
    response, body = refusal_of(OpenFailed(Cause.AWAY, "edge-1 is not connected"), close=False)
    assert (response.status_code, response.reason) == (503, b"away: edge-1 is not connected")
    headers = dict(response.headers)
    assert headers[b"tunnel-cause"] == b"away"
    assert b"connection" not in headers
    assert int(headers[b"content-length"]) == len(body)
    assert json.loads(body) == {"error": "edge-1 is not connected", "cause": "away"}


def test_a_phrase_is_printable_and_bounded() -> None:
    response, body = refusal(400, "a\r\nSet-Cookie: b\x00é" + "x" * 1000)
    assert response.reason.startswith(b"a??Set-Cookie: b??x")
    assert len(response.reason) <= 200
    assert json.loads(body)["error"].startswith("a\r\nSet-Cookie")
    assert dict(response.headers)[b"connection"] == b"close"
