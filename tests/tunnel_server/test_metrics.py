"""Counters as Prometheus reads them."""

from prometheus_client.parser import text_string_to_metric_families

from tunnel_server.metrics import MAX_VALUES, Metrics
from tunnel_wire.build import build


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    return {
        (sample.name, *(value for _, value in sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(metrics.render().decode())
        for sample in family.samples
    }


def test_everything_counted_is_exposed() -> None:
    metrics = Metrics("1.2.3")
    metrics.nodes_connected.set(2)
    metrics.links.inc()
    metrics.sessions.inc()
    metrics.calls_open.inc()
    metrics.memory_used.set(5)
    metrics.memory_budget.set(10)
    metrics.interception_active.set(1)
    metrics.addresses_captured.set(3)
    metrics.interception_restores.inc()
    metrics.call_opened("transparent", 0.02)
    metrics.call_ended("transparent", "ok")
    metrics.call_ended("transparent", "refused")
    metrics.add_bytes("to_node", 100)
    metrics.add_bytes("to_caller", 7)
    metrics.handshake_failed("timeout")
    metrics.join_ended("used")
    found = samples(metrics)
    expected = {
        ("edge_tunnel_build_info", build(), "1.2.3"): 1,
        ("edge_tunnel_nodes_connected",): 2,
        ("edge_tunnel_links",): 1,
        ("edge_tunnel_sessions",): 1,
        ("edge_tunnel_calls_open",): 1,
        ("edge_tunnel_memory_used_bytes",): 5,
        ("edge_tunnel_memory_budget_bytes",): 10,
        ("edge_tunnel_interception_active",): 1,
        ("edge_tunnel_addresses_captured",): 3,
        ("edge_tunnel_interception_restores_total",): 1,
        ("edge_tunnel_calls_total", "transparent", "ok"): 1,
        ("edge_tunnel_calls_total", "transparent", "refused"): 1,
        ("edge_tunnel_bytes_total", "to_node"): 100,
        ("edge_tunnel_bytes_total", "to_caller"): 7,
        ("edge_tunnel_open_seconds_count", "transparent"): 1,
        ("edge_tunnel_open_seconds_bucket", "transparent", "0.01"): 0,
        ("edge_tunnel_open_seconds_bucket", "transparent", "0.025"): 1,
        ("edge_tunnel_handshake_failures_total", "timeout"): 1,
        ("edge_tunnel_joins_total", "used"): 1,
    }
    assert {key: found.get(key) for key in expected} == expected
    assert found["process_resident_memory_bytes",] > 0


def test_all_names_carry_the_prefix_and_registries_are_separate() -> None:
    first, second = Metrics(), Metrics()
    first.links.inc()
    assert samples(second)["edge_tunnel_links",] == 0
    names = {key[0] for key in samples(first)}
    assert all(name.startswith(("edge_tunnel_", "process_")) for name in names)
    assert not any(name.endswith("_created") for name in names)


def test_labels_are_bounded() -> None:
    metrics = Metrics()
    for number in range(MAX_VALUES + 10):
        metrics.handshake_failed(f"reason {number}")
    found = {key: value for key, value in samples(metrics).items() if key[0].endswith("failures_total")}
    assert len(found) == MAX_VALUES + 1
    assert found["edge_tunnel_handshake_failures_total", "other"] == 10
