"""pyroute2 encodes as the kernel reads, also where we had to correct it."""

import struct

from tunnel_server.intercept import messages as nl


def attribute(kind: int, payload: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(payload), kind) + payload + bytes(-len(payload) % 4)


def test_the_header_and_the_family():
    data = nl.nftables(nl.GETTABLE, [("NFTA_TABLE_NAME", "t")], "table t", 4).encode(7)
    assert data == struct.pack("=IHHII", len(data), 0x0A01, 5, 7, 0) + b"\1\0\0\0" + attribute(1, b"t\0")


def test_the_edges_of_a_batch_name_the_subsystem():
    assert nl.batch_edge(nl.BATCH_BEGIN).encode(1)[16:] == b"\0\0\0\x0a"


def test_the_result_of_fib_is_a_number():
    expression = {
        "attrs": [("NFTA_EXPR_NAME", "fib"), ("NFTA_EXPR_DATA", {"attrs": [("NFTA_FIB_RESULT", 3)]})]
    }
    data = nl.nftables(nl.NEWRULE, [("NFTA_RULE_EXPRESSIONS", [expression])], "rule").encode(1)
    assert attribute(2, struct.pack(">I", 3)) in data


def test_the_end_of_an_interval_is_a_number():
    element = {"attrs": [("NFTA_SET_ELEM_FLAGS", 1)]}
    data = nl.nftables(nl.NEWSETELEM, [("NFTA_SET_ELEM_LIST_ELEMENTS", [element])], "elements").encode(1)
    assert attribute(3, struct.pack(">I", 1)) in data


def test_the_owner_of_a_table_is_read():
    head = struct.pack("=IHHII", 28, 0x0A00, 0, 1, 0) + b"\1\0\0\0"
    assert nl.decode_table(head + attribute(7, struct.pack(">I", 4711)))["NFTA_TABLE_OWNER"] == 4711
