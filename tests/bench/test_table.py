"""The tables: nobody is missing from them silently."""

from bench.builds import OURS_INTERPRETED
from bench.loads.registry import loads
from bench.results import PeerEntry, Results, Sample
from bench.table import GROUPS, RATIOS, markdown, number

MACHINE = {
    "cpu": "a CPU",
    "cores": 2,
    "memory_gib": 4,
    "kernel": "6",
    "python": "3",
    "openssl": "3",
    "tcp": "reno",
}


def table(**more: object) -> str:
    fields: dict[str, object] = {
        "quick": False,
        "rounds": 2,
        "peers": [
            PeerEntry("direct", encrypted=False, one_line="no tunnel", version="-"),
            PeerEntry("edge-tunnel", encrypted=True, one_line="ours", version="1.2.3"),
            PeerEntry(
                "bore", encrypted=False, one_line="theirs", absent="not installed: cargo install bore-cli"
            ),
        ],
        "loads": ["bulk down", "echo", "1000 idle agents"],
        "samples": [
            Sample("direct", "bulk down", 0, {"rate": 2000.0}),
            Sample("direct", "bulk down", 1, {"rate": 3000.0}),
            Sample("edge-tunnel", "bulk down", 0, {"rate": 500.0, "server_cpu_s_per_gb": 1.25}),
            Sample("edge-tunnel", "bulk down", 1, {"rate": 750.0, "server_cpu_s_per_gb": 1.5}),
            Sample(
                "edge-tunnel",
                "echo",
                0,
                failed="no byte came through within 20 s\nserver runs\nout of memory",
            ),
            Sample("edge-tunnel", "1000 idle agents", 0, {"memory": 61.0}),
        ],
        "complete": True,
    }
    fields = {"machine": MACHINE, **fields, **more}
    return markdown(Results(**fields), loads())  # type: ignore[arg-type]


def cells(text: str, row: str, nth: int = 0) -> list[str]:
    """The cells of the nth row with this name."""
    lines = [line for line in text.splitlines() if line.startswith(f"| {row} ")]
    return [cell.strip() for cell in lines[nth].strip("|").split("|")]


def test_medians_with_their_spread() -> None:
    assert cells(table(), "direct") == ["direct", "2500 (2000-3000)"]
    assert cells(table(), "**edge-tunnel**") == ["**edge-tunnel**", "625 (500-750)"]


def test_ratios_to_direct_and_to_no_base_that_was_not_measured() -> None:
    assert cells(table(), "**edge-tunnel**", 1) == ["**edge-tunnel**", "0.25x"]
    assert "multiples of ssh" not in table()


def test_what_it_costs() -> None:
    assert "1.38 (1.25-1.50)" in table()


def test_a_peer_that_is_absent_is_listed_with_its_remedy() -> None:
    assert "- bore (not encrypted): **not installed: cargo install bore-cli**" in table()


def test_the_head_says_which_build_of_ours_was_measured_where_that_was_noted() -> None:
    assert "TCP reno; 2 rounds." in table()
    assert "TCP reno; edge-tunnel compiled, 2 rounds." in table(machine={**MACHINE, "build": "compiled"})


def test_our_other_build_has_a_row_where_it_was_measured_and_only_there() -> None:
    names = ("direct", "edge-tunnel", OURS_INTERPRETED, "bore")
    peers = [PeerEntry(name, encrypted=True, one_line="") for name in names]
    samples = [Sample(name, "bulk down", 0, {"rate": 500.0}) for name in names[:3]]
    text = table(peers=peers, samples=samples)
    throughput, _, latency = text.partition("## Latency")
    assert [throughput.count(f"| {name} ") for name in (OURS_INTERPRETED, "bore")] == [2, 2]
    assert [latency.partition("## What")[0].count(f"| {name} ") for name in (OURS_INTERPRETED, "bore")] == [
        *(0, 2)
    ]
    failed = table(peers=peers, samples=[*samples, Sample(OURS_INTERPRETED, "echo", 0, failed="cut")])
    assert failed.partition("## Latency")[2].count(f"| {OURS_INTERPRETED} ") == 2


def test_what_was_measured_interpreted_all_the_same_says_so() -> None:
    samples = [Sample("edge-tunnel", "keeping", 0, {"down_cpu": 1.0})]
    compiled = {**MACHINE, "build": "compiled"}
    for machine, names, heading in (
        (compiled, ["keeping"], "## keeping (interpreted)\n"),
        ({**MACHINE, "build": "interpreted"}, ["keeping"], "## keeping\n"),
        (compiled, ["1000 idle agents"], "## 1000 idle agents\n"),
    ):
        more = [Sample("edge-tunnel", "1000 idle agents", 0, {"memory": 61.0})]
        assert heading in table(machine=machine, loads=names, samples=samples + more)


def test_a_failure_is_in_the_table_and_its_last_line_below() -> None:
    assert "failed" in cells(table(), "**edge-tunnel**", 2)
    assert "- failed: edge-tunnel, echo: no byte came through within 20 s ... out of memory" in table()


def test_a_load_that_this_machine_cannot_carry_is_listed() -> None:
    assert "- not measured: long link: needs root" in table(skipped={"long link": "needs root"})


def test_loads_for_this_project_alone_have_tables_of_their_own() -> None:
    assert "## 1000 idle agents" in table()
    assert cells(table(), "server memory for each") == ["server memory for each", "61.0 KiB"]


def test_nothing_is_said_of_what_nobody_asked_for() -> None:
    assert "## Latency" in table()
    assert "## Latency" not in table(loads=["bulk down"])
    assert "## What it costs" not in table(loads=["echo"])


def test_an_interrupted_run_says_so() -> None:
    assert "interrupted" in table(complete=False)
    assert "interrupted" not in table()


def test_three_digits() -> None:
    assert [number(each) for each in (1234.5, 99.96, 12.34, 1.234, 0.0)] == [
        "1234",
        "100.0",
        "12.3",
        "1.23",
        "0.00",
    ]


def measured(*at: tuple[str, str]) -> str:
    """What is said of a run whose samples were measured at these times, with these commits."""
    samples = [
        Sample(
            "direct", "bulk down", number, {"rate": 1.0}, measured=when and f"{when}:30+00:00", commit=commit
        )
        for number, (when, commit) in enumerate(at)
    ]
    return table(samples=samples).partition("\n\n")[0].partition("from the edge to the server.\n")[2]


def test_nothing_is_said_of_one_commit_within_a_day() -> None:
    assert measured(("2026-11-22T09:00", "0a44fc3"), ("2026-11-23T09:00", "0a44fc3")) == ""
    assert measured(("2026-11-22T09:00", ""), ("2026-11-22T09:01", "")) == ""


def test_more_than_a_day_is_said() -> None:
    at = ("2026-11-23T09:01", "0a44fc3"), ("2026-11-22T09:00", "0a44fc3")
    line = "Measured between 2026-11-22 09:00 and 2026-11-23 09:01 UTC; "
    assert measured(*at) == f"{line}with commit 0a44fc3."
    assert measured(*((when, "") for when, _ in at)) == f"{line}commit not noted."


def test_several_commits_are_named_in_their_order() -> None:
    assert measured(
        ("2026-11-22T10:00", "0a44fc3+changes"),
        ("2026-11-22T09:00", "f925ea4"),
        ("2026-11-22T10:30", "f925ea4"),
    ) == (
        "Measured between 2026-11-22 09:00 and 2026-11-22 10:30 UTC; with commits f925ea4, 0a44fc3+changes."
    )


def test_what_was_not_noted_is_not_hidden() -> None:
    assert measured(("", "")) == "When each figure was measured, and with which commit, was not noted."
    said = "Measured between 2026-11-22 09:00 and 2026-11-22 09:00 UTC (or at a time that was not noted); "
    assert measured(("", ""), ("2026-11-22T09:00", "")) == f"{said}commit not noted."
    assert measured(("", ""), ("2026-11-22T09:00", "f925ea4")) == (
        f"{said}with commits one that was not noted, f925ea4."
    )


def test_what_a_multiple_is_stands_above_each_table_of_them() -> None:
    text = table()
    assert text.count(RATIOS) == 2
    assert f"\n\n{RATIOS}\n| ... as multiples of direct" in text
    assert RATIOS not in table(peers=[PeerEntry("edge-tunnel", encrypted=True, one_line="ours")])


def test_other_buffers_are_said_where_they_were_in_use_only() -> None:
    said = (
        '"a stream beside 1,000 stalled ones": loopback, sockets\' buffers of 256 KiB, for every program.\n'
    )
    stalled = table(loads=["bulk down", "stalled readers"])
    assert stalled.count("buffers of") == 1
    assert stalled.index("## Connections") < stalled.index(said) < stalled.index("## Programs")
    assert "for every program" not in table(loads=["bulk down", "connections", "long link"])


def test_every_load_that_all_are_put_under_has_a_table() -> None:
    grouped = [name for names in GROUPS.values() for name in names]
    shared = [load.name for load in loads() if not load.alone]
    assert sorted(grouped) == sorted(shared)


def test_what_a_fair_reader_asks_for_has_a_column() -> None:
    """What bulk keeps beside echoes, who goes short of 16, and how slowly a long link begins."""
    wanted = [("16 streams", "least"), ("long link", "start"), ("long link BBR", "start")]
    wanted += [("echo under bulk", "p99.9"), ("echo under bulk", "bulk")]
    samples = [Sample("direct", load, 0, {key: 700.0 + at}) for at, (load, key) in enumerate(wanted)]
    text = table(loads=[load for load, _ in wanted], samples=samples)
    for at in range(len(wanted)):
        assert f" {700 + at} " in text
