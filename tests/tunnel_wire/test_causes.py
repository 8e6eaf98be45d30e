"""Causes travel by name and by status."""

import pytest

from tunnel_wire.causes import MAX_DETAIL, STATUS_OF_CAUSE, Cause, OpenFailed, clean_detail, read_cause


@pytest.mark.parametrize(("cause", "status"), STATUS_OF_CAUSE.items())
def test_a_cause_reads_as_it_was_written(cause: Cause, status: int) -> None:
    assert read_cause(cause.value, status) is cause
    assert 400 <= status < 600


@pytest.mark.parametrize(
    ("status", "cause"),
    [
        (403, Cause.NOT_ALLOWED),
        (404, Cause.FAILED),
        (410, Cause.GONE),
        (421, Cause.NOT_ON_THIS_NODE),
        (500, Cause.FAILED),
        (502, Cause.UNREACHABLE),
        (503, Cause.NO_ROOM),
        (504, Cause.TIMED_OUT),
        (301, Cause.FAILED),
    ],
)
@pytest.mark.parametrize("name", [None, "of-a-later-version"])
def test_an_unknown_cause_is_read_by_its_status(name: str | None, status: int, cause: Cause) -> None:
    assert read_cause(name, status) is cause


@pytest.mark.parametrize("name", ["away", "no-such-node", "link-lost", "cancelled"])
def test_what_never_travels_is_not_believed(name: str) -> None:
    assert read_cause(name, 502) is Cause.UNREACHABLE


def test_detail_is_fit_for_a_header() -> None:
    assert clean_detail(" caf\u00e9\r\nInjected: yes \x7f") == "caf???Injected: yes ?"
    assert len(clean_detail("x" * 1000)) == MAX_DETAIL


def test_open_failed_says_both() -> None:
    assert str(OpenFailed(Cause.REFUSED, "by 10.0.0.1")) == "refused: by 10.0.0.1"
    assert str(OpenFailed(Cause.REFUSED)) == "refused"
