import ssl
import time

from hypothesis import given
from hypothesis import strategies as st

from certs.validity import Validity

NEVER = 253402300799  # 99991231235959Z, "no well-defined expiration" (RFC 5280, 4.1.2.5)


@given(st.integers(0, NEVER), st.integers(0, NEVER))
def test_times_are_read_as_the_standard_library_does(begins, ends):
    shown = [time.strftime("%b %e %H:%M:%S %Y GMT", time.gmtime(each)) for each in (begins, ends)]
    validity = Validity.from_peer_certificate(dict(zip(("notBefore", "notAfter"), shown, strict=True)))
    assert (validity.not_before, validity.not_after) == (begins, ends)
    assert [ssl.cert_time_to_seconds(each) for each in shown] == [begins, ends]
