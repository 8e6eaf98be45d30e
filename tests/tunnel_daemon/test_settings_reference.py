"""The page of settings."""

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from tunnel_daemon.settings import between, setting
from tunnel_daemon.settings_reference import main, render

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Deep:
    size: int = setting(65536, doc="A size.", unit="bytes")


@dataclass(frozen=True, kw_only=True)
class Config:
    name: str = setting(doc="This or | that.")
    delay: float = setting(90.0, doc="A delay.", unit="seconds", check=between(1, 100))
    on: bool = setting(True, doc="On.")
    paths: tuple[Path, ...] = setting((Path("/a"),), doc="Paths.")
    proxy: str | None = setting(None, doc="Proxy.")
    names: tuple[str, ...] | None = setting(None, doc="Names.")
    deep: Deep = setting(Deep(), doc="Bounds.")


def test_every_key_stands_there_with_default_unit_and_meaning() -> None:
    page = render({"prog": Config})
    assert page.partition("## prog")[2].split("\n")[4:] == [
        "| `name` | required | a string | This or \\| that. |",
        '| `delay` | `"90s"` | a duration, in seconds or like "90s", "5m", "24h"; 1 to 100 | A delay. |',
        "| `on` | `true` | true or false | On. |",
        '| `paths` | `["/a"]` | a list, each a path | Paths. |',
        '| `proxy` | `""` | a string, or "" for none | Proxy. |',
        "| `names` | left out | a list, each a string | Names. |",
        "",
        "### [deep]",
        "",
        "Bounds.",
        "",
        "| key | default | value | meaning |",
        "|---|---|---|---|",
        '| `deep.size` | `"64KiB"` | a size, in bytes or like "64KiB", "16MiB" | A size. |',
        "",
    ]


def test_docs_configuration_is_in_step_with_the_code() -> None:
    command = ["-m", "tunnel_daemon.settings_reference"]
    done = subprocess.run([sys.executable, *command], capture_output=True, text=True, check=True, timeout=30)
    page = ROOT / "docs" / "configuration.md"
    assert page.read_text() == done.stdout, f"run: python {' '.join(command)} >docs/configuration.md"


def test_one_program_alone(capsys: pytest.CaptureFixture[str]) -> None:
    main([f"prog={__name__}:Config"])
    assert capsys.readouterr().out == render({"prog": Config})


@pytest.mark.parametrize(
    ("word", "says"),
    [
        ("tunnel-server", "'tunnel-server' is not NAME=MODULE:CLASS"),
        ("a=no_such_module:B", "No module named 'no_such_module'"),
        ("a=json:Nothing", "'json' has no attribute 'Nothing'"),
        ("a=json:loads", "loads is no dataclass"),
    ],
)
def test_what_is_no_program_costs_one_line(word: str, says: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main([word])
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert says in line
