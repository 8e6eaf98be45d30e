"""A stage for one program: real certificates, a real target, plain loopback."""

from collections.abc import Iterator

import pytest

from bench.peers.peer import Stage
from bench.routes import LOOPBACK
from bench.stage import open_stage


@pytest.fixture
def stage() -> Iterator[Stage]:
    with open_stage(LOOPBACK) as made:
        yield made
