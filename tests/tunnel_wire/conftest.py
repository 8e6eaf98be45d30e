"""Single connections, for the tests of what one end does."""

import pytest

from tests.tunnel_wire.handmade import Handmade


@pytest.fixture
def answerer() -> Handmade:
    return Handmade.answerer()


@pytest.fixture
def opener() -> Handmade:
    return Handmade.opener()
