"""The list in docs/architecture.md by which a newcomer reads the hot path is true."""

from __future__ import annotations

import ast
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
ROW = re.compile(r"\| (\d+) \| `(\w+\.py)`(?:, (\d+))? \| (.+?) \| .+ \|")


def part() -> str:
    """The list, and what stands around it."""
    page = (ROOT / "docs" / "architecture.md").read_text()
    return page.partition("### Read these in this order\n")[2].partition("\n## ")[0]


def rows() -> list[tuple[int, str, str | None, list[str]]]:
    """Each row's number, file, length if it says one, and what is to be read."""
    found = [ROW.fullmatch(line) for line in part().splitlines() if re.match(r"\| \d", line)]
    assert None not in found
    return [
        (int(row[1]), row[2], row[3], re.findall(r"`([\w.]+)`", row[4])) for row in found if row is not None
    ]


def source(file: str) -> str:
    return (ROOT / "tunnel_wire" / file).read_text()


def defined(text: str) -> dict[str, int]:
    """Lines of each class and function, of methods both by name and as `Class.method`."""
    lines = {}
    for node in ast.parse(text).body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef):
            lines[node.name] = length(node)
        if isinstance(node, ast.ClassDef):
            for each in node.body:
                if isinstance(each, ast.FunctionDef):
                    lines[each.name] = lines[f"{node.name}.{each.name}"] = length(each)
    return lines


def length(node: ast.stmt) -> int:
    assert node.end_lineno is not None
    return node.end_lineno - node.lineno + 1


def test_what_is_to_be_read_is_there_and_as_short_as_it_says() -> None:
    assert [number for number, *_ in rows()] == list(range(1, len(rows()) + 1))
    in_all = 0
    for _, file, _, names in rows():
        lines = defined(source(file))
        assert names
        assert set(names) <= set(lines), file
        in_all += sum(lines[name] for name in names)
    (said,) = re.findall(r"some (\d+) lines in all", part())
    assert abs(in_all - int(said)) <= 85, f"they are {in_all} lines"


def test_a_file_is_as_long_as_it_says() -> None:
    """Within a tenth or so, and where the file is first met."""
    met = set()
    for _, file, said, _ in rows():
        assert (said is None) is (file in met), file
        met.add(file)
        if said is not None:
            lines = len(source(file).splitlines())
            assert abs(lines - int(said)) <= max(15, lines // 10), f"{file} has {lines} lines"
