"""What is remembered of links that ended and of handshakes that agents broke off, and for whom."""

import ssl

import pytest
import trio

from certs.authority import Authority
from tests.tunnel_server.core import running
from tunnel_server.attempts import HOSTS_KEPT, Alert, Attempts


def test_nothing_yet() -> None:
    attempts = Attempts()
    assert attempts.last_end("edge-1") is None
    assert attempts.broken_since(None) is None


def test_the_last_end_of_each_node_counts() -> None:
    attempts = Attempts()
    attempts.ended("edge-1", "203.0.113.11", "first")
    attempts.ended("edge-2", "203.0.113.12", "another")
    attempts.ended("edge-1", "203.0.113.13", "second")
    end = attempts.last_end("edge-1")
    assert end is not None
    assert (end.host, end.reason) == ("203.0.113.13", "second")


@pytest.mark.parametrize(
    ("reason", "alert"),
    [
        ("SSLV3_ALERT_BAD_CERTIFICATE", Alert.BAD_CERTIFICATE),
        ("SSLV3_ALERT_CERTIFICATE_EXPIRED", Alert.CERTIFICATE_EXPIRED),
        ("TLSV1_ALERT_UNKNOWN_CA", Alert.UNKNOWN_CA),
        ("TLSV1_ALERT_PROTOCOL_VERSION", None),
        ("CERTIFICATE_VERIFY_FAILED", None),
        ("WRONG_VERSION_NUMBER", None),
    ],
)
def test_only_alerts_about_our_certificate_count(reason: str, alert: Alert | None) -> None:
    attempts = Attempts()
    attempts.handshake_failed("203.0.113.11", reason)
    broken = attempts.broken_since(None)
    assert (broken.alert if broken else None) is alert


def test_a_handshake_may_be_of_a_node_that_came_from_there_before() -> None:
    attempts = Attempts()
    attempts.handshake_failed("203.0.113.11", "TLSV1_ALERT_UNKNOWN_CA")
    attempts.ended("edge-1", "203.0.113.11", "over")
    attempts.ended("edge-2", "203.0.113.12", "over")
    here, elsewhere = attempts.last_end("edge-1"), attempts.last_end("edge-2")
    assert attempts.broken_since(here) is None, "it linked after that"
    attempts.handshake_failed("203.0.113.11", "SSLV3_ALERT_BAD_CERTIFICATE")
    broken = attempts.broken_since(here)
    assert broken is not None
    assert broken.alert is Alert.BAD_CERTIFICATE
    assert attempts.broken_since(elsewhere) is None
    assert attempts.broken_since(None) == broken


def test_strangers_cost_a_bounded_memory() -> None:
    attempts = Attempts()
    attempts.ended("edge-1", "host-0", "over")
    end = attempts.last_end("edge-1")
    for number in range(HOSTS_KEPT + 1):
        attempts.handshake_failed(f"host-{number}", "TLSV1_ALERT_UNKNOWN_CA")
    assert attempts.broken_since(end) is None, "the oldest was forgotten"
    newest = attempts.broken_since(None)
    assert newest is not None
    assert newest.host == f"host-{HOSTS_KEPT}"


async def test_of_real_links() -> None:
    async with running() as core:
        agent = await core.agent()
        agent.link.close("enough")
        with trio.fail_after(5):
            while (end := core.attempts.last_end("edge-1")) is None:
                await trio.sleep(0.01)
        assert (end.host, end.reason) == ("127.0.0.1", "the other end closed the link")


async def test_of_a_real_agent_that_knows_another_authority() -> None:
    async with running() as core:
        other, _ = Authority.make("elsewhere.test")
        with pytest.raises(ssl.SSLCertVerificationError):
            await core.connect(core.credentials(None, None, authority=other))
        with trio.fail_after(5):
            while (broken := core.attempts.broken_since(None)) is None:
                await trio.sleep(0.01)
        assert (broken.host, broken.alert) == ("127.0.0.1", Alert.UNKNOWN_CA)
