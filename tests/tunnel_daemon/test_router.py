"""Paths and methods to handlers."""

from __future__ import annotations

import json

import pytest

from tunnel_daemon.http1 import Request, Response
from tunnel_daemon.router import Router


async def show(request: Request) -> Response:
    return Response.text(request.parameter or "exact")


ROUTER = Router({("GET", "/a"): show, ("POST", "/a"): show, ("DELETE", "/a/*"): show})


@pytest.mark.parametrize(
    ("method", "path", "status", "body"),
    [
        ("GET", "/a", 200, b"exact"),
        ("POST", "/a", 200, b"exact"),
        ("HEAD", "/a", 200, b"exact"),
        ("DELETE", "/a/9081", 200, b"9081"),
    ],
)
async def test_routes(method: str, path: str, status: int, body: bytes) -> None:
    response = await ROUTER(Request(method, path, {}, {}))
    assert (response.status, response.body) == (status, body)


@pytest.mark.parametrize("path", ["/", "/b", "/a/", "/a/b/c", "/A", "", "a"])
async def test_an_unknown_path_is_404_in_json(path: str) -> None:
    response = await ROUTER(Request("GET", path, {}, {}))
    assert response.status == 404
    assert json.loads(response.body) == {"error": f"nothing is at {path}"}


@pytest.mark.parametrize(("path", "allowed"), [("/a", "GET, POST"), ("/a/9", "DELETE")])
async def test_a_wrong_method_is_405_with_allow(path: str, allowed: str) -> None:
    response = await ROUTER(Request("PUT", path, {}, {}))
    assert response.status == 405
    assert response.headers["allow"] == allowed
    assert allowed in json.loads(response.body)["error"]
