import ssl

import pytest

from tests.tunnel_wire.handshakes import AES_128, ALERT, ByHand
from tunnel_agent.tls_errors import clock_text, explain, explain_end
from tunnel_wire.records import Keys, Opener
from tunnel_wire.tls import TlsBroken


def verification(code: int, message: str = "the message") -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code, error.verify_message, error.reason = code, message, "CERTIFICATE_VERIFY_FAILED"
    return error


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (9, "clock-behind", ["not valid yet", "1970-01-01 00:01:40 UTC", "NTP"]),
        (10, "server-expired", ["has expired", "1970-01-01 00:01:40 UTC"]),
        (62, "server-name", ["does not name tunnel.example", "--cert-dns-names"]),
        (64, "server-name", ["does not name tunnel.example", "--cert-ips"]),
        (19, "other-authority", ["another authority", "join again"]),
        (20, "other-authority", ["intercepts TLS"]),
        (26, "certificate:26", ["the message"]),
    ],
)
def test_what_a_bad_certificate_means(code, kind, words):
    failure = explain(verification(code), "tunnel.example", 100.0)
    assert failure.kind == kind
    for word in words:
        assert word in str(failure)


def protocol(reason: str) -> ssl.SSLError:
    error = ssl.SSLError(1, reason)
    error.reason = reason
    return error


def test_other_failures_in_words():
    assert explain(protocol("WRONG_VERSION_NUMBER"), "x", 0).kind == "no-tls"
    assert explain(protocol("TLSV1_ALERT_PROTOCOL_VERSION"), "x", 0).kind == "tls-version"
    assert explain(ssl.SSLEOFError(8, "EOF"), "x", 0).kind == "tls-closed"
    assert str(explain(protocol("SOME_NEW_THING"), "x", 0)) == "the TLS handshake failed: some new thing"


@pytest.mark.parametrize(
    ("reason", "words"),
    [
        ("TLS: SSLV3_ALERT_CERTIFICATE_EXPIRED", "as expired: join again"),
        ("TLS: SSLV3_ALERT_CERTIFICATE_REVOKED", "as revoked"),
        ("TLS: TLSV1_ALERT_UNKNOWN_CA", "does not know the authority"),
        ("TLS: TLSV13_ALERT_CERTIFICATE_REQUIRED", "refuses this agent's certificate"),
        ("the connection was cut", "before the server's hello: the connection was cut"),
    ],
)
def test_what_the_end_of_a_new_link_means(reason, words):
    assert words in explain_end(reason)


@pytest.mark.parametrize(
    ("alert", "words"),
    [
        (45, "as expired: join again"),
        (44, "as revoked"),
        (48, "does not know the authority"),
        (116, "refuses this agent's certificate (TLS: alert certificate required)"),
        (42, "refuses this agent's certificate (TLS: alert bad certificate)"),
        (80, "before the server's hello: TLS: alert internal error"),
        (250, "before the server's hello: TLS: alert 250"),
    ],
)
def test_the_same_where_the_link_began_without_openssl(alert, words):
    wire = memoryview(ByHand(AES_128, bytes(32)).record(bytes([2, alert]), ALERT))
    opener = Opener(Keys(AES_128, bytes(32)), of_server=True)
    with pytest.raises(TlsBroken) as broken:
        opener.open(wire, memoryview(bytearray(100)))
    assert words in explain_end(f"TLS: {broken.value}")


def test_moments_beyond_the_calendar():
    assert clock_text(0) == "1970-01-01 00:00:00 UTC"
    assert clock_text(1e18).endswith("s since 1970")
