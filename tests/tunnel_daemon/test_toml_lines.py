"""Keys to lines."""

from __future__ import annotations

from tunnel_daemon.toml_lines import key_lines


def test_keys_tables_and_dotted_keys() -> None:
    text = "\n".join([
        "# a = 1",                 # 1
        "a = 1",                   # 2
        'b-c = """',               # 3
        "not-a-key = 1",           # 4
        '"""',                     # 5
        "  d.e = 2",               # 6
        '"q r" = """one line"""',  # 7
        "list = [",                # 8
        '  "x = y",',              # 9
        "]",                       # 10
        "[limits]  # bounds",      # 11
        "a = 3",                   # 12
        "[ limits . deep ]",       # 13
        "z = 4",                   # 14
        "[[many]]",                # 15
        "y = 1",                   # 16
    ])  # fmt: skip
    assert key_lines(text) == {
        ("a",): 2,
        ("b-c",): 3,
        ("d",): 6,
        ("d", "e"): 6,
        ("q r",): 7,
        ("list",): 8,
        ("limits",): 11,
        ("limits", "a"): 12,
        ("limits", "deep"): 13,
        ("limits", "deep", "z"): 14,
        ("many",): 15,
        ("many", "y"): 16,
    }
