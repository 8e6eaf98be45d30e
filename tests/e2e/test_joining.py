"""Every refusal on the way in has its own words, and leaves nothing behind on either side."""

from collections.abc import Callable

import pytest

from tests.e2e.system import CLOUD, EDGE_1, EDGE_2, System, curl


@pytest.fixture(scope="module")
def own(deploy_for_module: Callable[..., System]) -> System:
    made = deploy_for_module()
    made.start_server()
    return made


def _spoil(words: list[str], option: str, value: str) -> list[str]:
    spoilt = list(words)
    spoilt[spoilt.index(option) + 1] = value
    return spoilt


def _refused(own: System, words: list[str], says: str) -> None:
    edge = own.topology.edge(1)
    done = own.join(edge, words)
    assert done.returncode != 0
    assert len(done.stderr.strip().splitlines()) == 1, done.stderr
    assert "Traceback" not in done.stderr
    assert says in done.stderr
    state = own.agent_state(edge)
    assert not state.exists() or list(state.iterdir()) == [], "a failed join left something"
    assert own.nodes() == {}


def test_refusals(own: System) -> None:
    words = own.join_line("edge-1", EDGE_1)
    token = words[words.index("--token") + 1]
    _refused(own, _spoil(words, "--token", "nonsense"), "the token is not whole")
    _refused(own, _spoil(words, "--token", token[:-4] + "AAAA"), "does not know the token")
    _refused(own, _spoil(words, "--ca-hash", "sha256:" + "0" * 64), "not the join line's")
    _refused(own, _spoil(words, "--ca-hash", "sha256:short"), "is not a CA hash")
    _refused(own, [words[0], f"{CLOUD}:1", *words[2:]], f"{CLOUD}:1")
    expired = own.join_line("edge-1", EDGE_1, ttl="1s")
    own.until(lambda: "expired" in own.ctl("token", "list", "--state-dir", own.state))
    _refused(own, expired, "expired")
    revoked = own.join_line("edge-1", EDGE_1)
    own.ctl("token", "revoke", revoked[revoked.index("--token") + 1].split(".")[0], "--state-dir", own.state)
    _refused(own, revoked, "revoked")


def test_a_token_serves_once_and_after_any_number_of_failures(own: System) -> None:
    words = own.join_line("edge-2", EDGE_2)
    edge = own.topology.edge(2)
    for _ in range(20):
        assert own.join(edge, _spoil(words, "--token", "nonsense")).returncode != 0
    assert own.join(edge, words).returncode == 0
    again = own.join(own.topology.edge(1), words)
    assert again.returncode != 0
    assert "used" in again.stderr


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.1.1", "224.0.0.1", "203.0.113.10", "8.8.8.8"])
def test_addresses_that_no_edge_may_have(own: System, address: str) -> None:
    done = own.try_ctl("token", "create", "--node", "edge-9", "--ip", address, "--state-dir", own.state)
    assert done.returncode != 0
    assert address in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_link_without_a_certificate_is_closed(own: System) -> None:
    """TLS asks for one without requiring it; `tunnel/1` without one ends right after the handshake."""
    dial = ["openssl", "s_client", "-connect", f"{CLOUD}:10262", "-alpn", "tunnel/1", "-quiet"]
    done = own.topology.cloud.run(["sh", "-c", "sleep 2 | " + " ".join(dial)], timeout=30)
    assert done.stdout == ""
    assert own.connected() == set()


def test_the_api_answers_curl(own: System) -> None:
    done = curl(own.topology.edge(1), "--insecure", f"https://{CLOUD}:10262/v1/ca")
    assert done.returncode == 0, done.stderr
    assert "BEGIN CERTIFICATE" in done.stdout
