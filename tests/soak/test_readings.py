"""A process that holds more and more is noticed; one that took its place begins anew."""

import pytest

from tests.soak import readings
from tests.soak.readings import GROWTH, Reading, Watch


@pytest.mark.parametrize("what", GROWTH)
def test_growth_that_stays_is_an_error(what: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(readings, "PATIENCE", 0.2)
    watch, held = Watch(), dict.fromkeys(GROWTH, 10.0)
    watch.note("server", lambda: Reading(1, held))
    watch.note("server", lambda: Reading(1, {**held, what: 10 + GROWTH[what]}))
    more = {**held, what: 11 + GROWTH[what]}
    taken = iter([Reading(1, more), Reading(1, held)])
    assert watch.note("server", lambda: next(taken)).held == held
    with pytest.raises(AssertionError, match=f"server has .* {what} more than at first"):
        watch.note("server", lambda: Reading(1, more))
    watch.note("server", lambda: Reading(2, more))
    assert watch.most[f"{what} of server"] == 11 + GROWTH[what]
