"""What a failed TLS handshake means to whoever runs the agent, and what to do about it."""

from __future__ import annotations

import ssl
import time

# X509_V_ERR_* of OpenSSL's x509_vfy.h, which `ssl` passes on as verify_code.
_NOT_YET_VALID, _EXPIRED = {9, 13}, {10, 14}
_OTHER_AUTHORITY = {2, 7, 18, 19, 20, 21, 24}
_OTHER_NAME = {62, 64}


class TlsFailedError(Exception):
    """A handshake failed: `kind` for comparing one failure with the next, the text for people."""

    def __init__(self, kind: str, text: str) -> None:
        super().__init__(text)
        self.kind = kind


def clock_text(seconds: float) -> str:
    """A moment, seconds since the epoch, as people and certificates write it (UTC)."""
    try:
        return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
    except (OverflowError, ValueError, OSError):
        return f"{seconds:.0f} s since 1970"


def is_cut(error: ssl.SSLError) -> bool:
    """Whether the connection ended, rather than TLS failed. Python 3.11.2 says it only in the reason."""
    ended = isinstance(error, ssl.SSLEOFError | ssl.SSLZeroReturnError)
    return ended or error.reason == "UNEXPECTED_EOF_WHILE_READING"


def explain(error: ssl.SSLError, host: str, now: float) -> TlsFailedError:
    """Say what `error`, from a handshake with `host`, means; `now` is this machine's clock."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return _explain_certificate(error, host, now)
    if is_cut(error):
        return TlsFailedError("tls-closed", "the connection was closed during the TLS handshake")
    reason = error.reason or str(error)
    if reason in {"WRONG_VERSION_NUMBER", "HTTP_REQUEST", "UNKNOWN_PROTOCOL", "RECORD_LAYER_FAILURE"}:
        return TlsFailedError("no-tls", "what answers there does not speak TLS: is that the tunnel's port?")
    if "PROTOCOL_VERSION" in reason or reason == "UNSUPPORTED_PROTOCOL":
        return TlsFailedError("tls-version", "what answers there speaks no TLS 1.3: is something between?")
    words = reason.lower().replace("_", " ")
    return TlsFailedError(f"tls:{reason}", f"the TLS handshake failed: {words}")


def explain_end(reason: str) -> str:
    """Say what the end of a link that never came up means; `reason` is the link's.

    With TLS 1.3 an agent is done with its handshake before the server looks at its certificate: a refusal
    arrives as an alert on the new link (RFC 8446, 6.2), or, from a server that says nothing, as its end.
    """
    name = reason.upper().replace(" ", "_")
    if "CERTIFICATE_EXPIRED" in name:
        return "the server refuses this agent's certificate as expired: join again (`tunnel-agent join`)"
    if "CERTIFICATE_REVOKED" in name:
        return "the server refuses this agent's certificate as revoked"
    if "UNKNOWN_CA" in name:
        return "the server does not know the authority of this agent's certificate: was it set up anew?"
    if "ALERT" in name and "CERTIFICATE" in name:
        return f"the server refuses this agent's certificate ({reason})"
    return f"the link ended before the server's hello: {reason}"


def is_refused(reason: str) -> bool:
    """Whether that is about this agent's certificate, and no other try with it will end otherwise."""
    name = reason.upper().replace(" ", "_")
    return any(each in name for each in ("CERTIFICATE_EXPIRED", "CERTIFICATE_REVOKED", "UNKNOWN_CA"))


def _explain_certificate(error: ssl.SSLCertVerificationError, host: str, now: float) -> TlsFailedError:
    code = error.verify_code
    if code in _NOT_YET_VALID:
        return TlsFailedError(
            "clock-behind",
            f"the server's certificate is not valid yet; the clock of this machine says {clock_text(now)}: "
            "if that is wrong, set the clock (NTP)",
        )
    if code in _EXPIRED:
        return TlsFailedError(
            "server-expired",
            f"the server's certificate has expired; the clock of this machine says {clock_text(now)}: "
            "if that is right, the server needs a new certificate (`tunnelctl init` there)",
        )
    if code in _OTHER_NAME:
        return TlsFailedError(
            "server-name",
            f"the server's certificate does not name {host}: run `tunnelctl init` there with --cert-ips or "
            "--cert-dns-names naming what agents dial",
        )
    if code in _OTHER_AUTHORITY:
        return TlsFailedError(
            "other-authority",
            "the server's certificate is of another authority than the one this agent joined: either "
            "something between intercepts TLS, or the server was set up anew and the agent must join again",
        )
    return TlsFailedError(
        f"certificate:{code}", f"the server's certificate is refused: {error.verify_message}"
    )
