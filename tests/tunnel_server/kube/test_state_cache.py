"""What is known of the state's objects: the watch's word, and our own until the watch has caught up."""

from types import SimpleNamespace

import pytest

from tunnel_server.kube import state_cache
from tunnel_server.kube.resources import CONFIG_MAPS, SECRETS
from tunnel_server.kube.state_cache import StateCache
from tunnel_server.kube.state_layout import Stored


def a(version, name="a", kind="node"):
    return Stored(name, kind, str(version), {"v": str(version).encode()}, {})


@pytest.fixture
def cache():
    made = StateCache()
    made.fill(CONFIG_MAPS, [])
    made.fill(SECRETS, [a(5), a(6, "b", "server")])
    return made


def version(cache, name="a"):
    found = cache.find(SECRETS, name)
    return found and found.version


def test_by_kind(cache):
    assert cache.filled
    assert list(cache.of_kind(SECRETS, "server")) == ["b"]
    assert not cache.live  # nobody follows


def test_an_own_write_is_known_at_once_and_not_undone_by_a_watch_that_is_behind(cache):
    before = cache.generation
    cache.put(SECRETS, "a", a(9))
    assert (version(cache), cache.generation > before) == ("9", True)
    cache.fill(SECRETS, [a(5)])
    assert version(cache) == "9"
    cache.fill(SECRETS, [a(10)])
    assert version(cache) == "10"
    cache.fill(SECRETS, [])
    assert version(cache) is None


def test_a_watch_that_was_faster_than_our_answer(cache):
    cache.fill(SECRETS, [a(12)])
    cache.put(SECRETS, "a", a(9))
    assert version(cache) == "12"


def test_an_answer_that_the_watch_has_told_of_already(cache):
    cache.fill(SECRETS, [a(9)])
    cache.put(SECRETS, "a", a(9))
    cache.fill(SECRETS, [])
    assert version(cache) is None


def test_an_own_removal(cache):
    cache.put(SECRETS, "a", None)
    cache.fill(SECRETS, [a(5)])
    assert version(cache) is None
    cache.fill(SECRETS, [])
    cache.fill(SECRETS, [a(20)])  # made anew by somebody
    assert version(cache) == "20"


def test_an_own_write_does_not_outlive_what_others_removed(cache, monkeypatch):
    cache.put(SECRETS, "a", a(9))
    cache.fill(SECRETS, [])
    assert version(cache) == "9"  # perhaps the watch is behind
    now = state_cache.time.monotonic() + 6
    monkeypatch.setattr(state_cache.time, "monotonic", lambda: now)
    cache.fill(SECRETS, [])
    assert version(cache) is None


def test_what_is_asked_for_again_counts_on_against_a_watch_that_is_silent(cache, monkeypatch):
    now = state_cache.time.monotonic()
    monkeypatch.setattr(state_cache.time, "monotonic", lambda: now)
    for _ in range(4):
        cache.put(SECRETS, "a", a(9))
        now += 3
        cache.fill(SECRETS, [a(5)])
        assert version(cache) == "9"
    now += 3
    cache.fill(SECRETS, [a(5)])
    assert version(cache) == "5"


def test_whether_a_watch_is_behind(cache):
    stored = Stored("a", "node", "9", {}, {"namespace": "n"})
    assert not cache.is_behind(SECRETS, stored)  # nobody follows
    watcher = SimpleNamespace(objects={})
    cache._watches.add("state-secrets", watcher)
    for told, behind in (({}, True), ({"n/a": a(8)}, True), ({"n/a": a(9)}, False), ({"n/a": a(10)}, False)):
        watcher.objects = told
        assert cache.is_behind(SECRETS, stored) is behind
