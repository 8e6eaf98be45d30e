import importlib.metadata
import subprocess
import sys

import pytest

from tunnel_agent import cli
from tunnel_agent.cli import main
from tunnel_wire.build import version_line


@pytest.fixture
def configs(monkeypatch):
    """What the agent would have run with, instead of running."""
    seen = []

    def run(options):
        seen.append(cli.read_config(options))
        return 0

    monkeypatch.setattr(cli, "_run", run)
    return seen


def test_run_is_what_happens_without_a_command(configs, tmp_path):
    for words in ([], ["run"], ["--log-level", "debug"], ["run", "--log-level", "debug"]):
        assert main(words) == 0
    assert [config.log_level for config in configs] == ["info", "info", "debug", "debug"]


def test_flags_win_over_the_file(configs, tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text('servers = ["a.example"]\nproxy = "none"\nlog-level = "error"\n')
    flags = ["--server", "b.example:1", "--server", "c.example", "--state-dir", str(tmp_path)]
    main(["--config", str(path), *flags])
    (config,) = configs
    assert list(map(str, config.servers)) == ["b.example:1", "c.example:10262"]
    assert config.state_dir == tmp_path
    assert (str(config.proxy), config.log_level) == ("none", "error")


def test_a_plain_command_line_means_what_the_parser_makes_of_it(configs, monkeypatch, tmp_path):
    path = tmp_path / "agent.toml"
    path.write_text('log-level = "error"\n')
    words = ["--config", str(path), "--server=b.example:1", "--proxy", "none", "--state-dir", str(tmp_path)]
    main(words)
    monkeypatch.setattr(cli, "plain_flags", lambda *_args, **_kwargs: None)
    main(words)
    plain, parsed = configs
    assert plain == parsed
    assert (plain.log_level, str(plain.proxy), plain.state_dir) == ("error", "none", tmp_path)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--log-level", "loud"], "expected one of"),
        (["--server", "x:y"], "no valid port"),
        (["--config", "/nowhere/agent.toml"], "/nowhere/agent.toml"),
        (["fly"], "unrecognized arguments: fly"),
        (["--state-dir"], "expected one argument"),
        (["--proxy", "https://u:p@x:1"], "http:// only"),
        (["--log-lvel", "debug"], "did you mean --log-level?"),
        (["join"], "required"),
    ],
)
def test_wrong_use_costs_one_line_and_exit_code_2(words, says, capsys):
    try:
        code = main(words)
    except SystemExit as error:
        code = error.code
    assert code == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert says in said


def test_not_joined_is_one_line_with_the_remedy(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "tunnel_agent", "--state-dir", tmp_path / "none"],
        capture_output=True,
        text=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "tunnel-agent join" in done.stderr


@pytest.mark.parametrize("flag", ["--help", "--version"])
def test_what_can_be_said_without_an_event_loop_is_not_kept_waiting_for_one(flag):
    program = (
        "import sys\n"
        "from tunnel_agent.cli import main\n"
        "try:\n"
        "    main(sys.argv[1:])\n"
        "except SystemExit as ended:\n"
        "    assert ended.code == 0\n"
        "print(*sys.modules, sep='\\n', file=sys.stderr)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, flag], capture_output=True, text=True, timeout=20, check=True
    )
    assert "tunnel-agent" in done.stdout
    loaded = done.stderr.split()
    assert "tunnel_agent.config" in loaded
    assert {"trio", "ssl", "h2", "h11"}.isdisjoint(loaded)


def test_version(capsys, monkeypatch):
    """The program's own, wherever it runs: an image or a zip without the package's metadata too."""
    monkeypatch.setattr(importlib.metadata, "version", None)
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == version_line("tunnel-agent") + "\n"
