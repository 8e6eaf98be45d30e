"""The commands that README and docs show are run, as they stand there, and what they print is compared.

A block of commands names the host that it is for: ```console cloud (edge-1, edge-2, other); its lines begin
with "$ ", and what comes between is their output, where "..." stands for anything. ```toml FILE is added to
that file of the cloud. ```console not-run, with the reason, is only checked to be understood. Other blocks
show no commands and name their language; a block without one fails. ```console cluster is for
tests/e2e/cluster/test_readme.py.
"""

import argparse
import re
import shlex
import shutil
import textwrap
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import pytest

from tests.e2e import tls
from tests.e2e.machine import Machine, machine
from tests.e2e.system import System
from tunnel_agent import cli as agent_cli
from tunnelctl.demo.topology import Host

ROOT = Path(__file__).parents[2]
FIRST, LAST = "README.md", "docs/identity.md"
"""The first makes the deployment that all others are tried in; the last revokes an edge."""
PAGES = sorted(path.relative_to(ROOT).as_posix() for path in (ROOT / "docs").glob("*.md"))
PAGES = [*(page for page in PAGES if page != LAST), LAST]
CLUSTER_PAGES = sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "docs" / "kubernetes").glob("*.md")
)
"""About clusters, of which there is none here."""
HOSTS = ("cloud", "edge-1", "edge-2", "other")
CLUSTER = "cluster"
"""In the README: where an administrator's kubectl works."""
NO_COMMANDS = {"", "ini", "json", "text", "toml", "yaml"}
STAYING = {
    "tunnel-server": "tunnelctl nodes",
    "tunnel-agent": "curl -sSf http://127.0.0.1:10266/readyz",
    "tunnelctl port-forward .*": "curl -sSf http://127.0.0.1:8888/",
}
"""Commands that go on until they are ended, and what succeeds once they are ready."""
FROM_THE_LINE = "--token ... --ca-hash sha256:..."
"""What `tunnelctl token create` printed last is put there."""

pytestmark = pytest.mark.skipif(shutil.which("nsenter") is None, reason="needs nsenter (package util-linux)")


@dataclass(frozen=True)
class Block:
    page: str
    line: int
    language: str
    word: str
    """What stands behind the language: a host, a file, or "not-run"."""
    text: str

    def commands(self) -> Iterator[tuple[str, list[str]]]:
        """Each command with the lines that it prints."""
        command, printed = "", list[str]()
        for line in self.text.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                if command:
                    yield command, printed
                command, printed = line[2:], []
            else:
                printed.append(line)
        if command:
            yield command, printed


_FENCE = re.compile(r"^( *)```(\S*) ?([^\s:]*)[^\n]*\n(.*?)^\1```$", re.MULTILINE | re.DOTALL)


def blocks(page: str) -> Iterator[Block]:
    text = (ROOT / page).read_text()
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start()) + 1
        yield Block(page, line, found[2], found[3], textwrap.dedent(found[4]))


@pytest.mark.parametrize("page", [FIRST, *PAGES, *CLUSTER_PAGES])
def test_every_block_says_what_it_is(page: str) -> None:
    wrong = []
    for block in blocks(page):
        known = block.language in NO_COMMANDS and not re.search(r"^\$ ", block.text, re.MULTILINE)
        hosts = () if page in CLUSTER_PAGES else (*HOSTS, CLUSTER) if page == FIRST else HOSTS
        runs = block.language == "console" and block.word in {*hosts, "not-run"}
        if not (known and (block.language or _is_drawing(block.text))) and not runs:
            wrong.append(f"{page}:{block.line}: ```{block.language} {block.word}")
    assert not wrong, "name the host, or the language: see this file's first lines"
    text = (ROOT / page).read_text()
    indented = re.findall(r"^(?!\s*(?:[-*]|\d+\.) )[^\n]*\n\n(    \S[^\n]*)", text, re.MULTILINE)
    assert indented == [], "a block without a fence says nothing"


def _is_drawing(text: str) -> bool:
    return any(each in text for each in "─│")


class ParsedError(BaseException):
    """A command line was understood; no program takes this for a failure of its own."""


@pytest.mark.parametrize("page", [FIRST, *PAGES, *CLUSTER_PAGES])
def test_every_command_of_ours_is_understood(page: str, monkeypatch: pytest.MonkeyPatch) -> None:
    parse = argparse.ArgumentParser.parse_args

    def parse_only(self: argparse.ArgumentParser, *arguments: object) -> NoReturn:
        parse(self, *arguments)  # type: ignore[call-overload]
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parse_only)
    # The agent reads a plain command line without one.
    monkeypatch.setattr(agent_cli, "plain_flags", lambda *_words, **_others: None)
    for words in _own_commands(page):
        with pytest.raises(ParsedError):
            _main(words[0])(words[1:])


def _own_commands(page: str) -> Iterator[list[str]]:
    for block in blocks(page):
        if block.language == "console":
            for command, _ in block.commands():
                words = shlex.split(command, comments=True)
                starts = [n for n, word in enumerate(words) if _is_ours(word)]
                if starts and "|" not in words:
                    words = [word for word in words[starts[0] :] if word[0] not in "&<>"]
                    yield [Path(words[0]).name, *words[1:]]


def _is_ours(word: str) -> bool:
    return re.fullmatch(r"(/opt/edge-tunnel/bin/)?(tunnel-server|tunnel-agent|tunnelctl)", word) is not None


def _main(program: str) -> Callable[[list[str]], int]:
    import tunnel_agent.cli
    import tunnel_server.cli
    import tunnelctl.cli

    mains = {"tunnel-agent": tunnel_agent.cli, "tunnel-server": tunnel_server.cli, "tunnelctl": tunnelctl.cli}
    return mains[program].main  # type: ignore[attr-defined, no-any-return]


class Reader:
    """Who has read the pages so far, and typed what they say."""

    def __init__(self, system: System, machines: dict[str, Machine]) -> None:
        self.system = system
        self.machines = machines
        self._line = ""

    def read(self, page: str) -> None:
        for block in blocks(page):
            if block.language == "toml" and block.word.startswith("/"):
                self._write(block)
            if block.language == "console" and block.word not in {"not-run", CLUSTER}:
                for command, printed in block.commands():
                    self._type(block, self.machines[block.word], command, printed)

    def _write(self, block: Block) -> None:
        cloud = self.machines["cloud"]
        before = cloud.run(f"mkdir -p {Path(block.word).parent}; cat {block.word} 2>/dev/null || true")
        # Keys of no table come first.
        text = before + block.text if block.text.startswith("[") else block.text + before
        cloud.run(f"cat > {block.word} <<'END'\n{text}END")
        size = len(self.system.log("cloud-tunnel-server"))
        self.system.until(
            lambda: "configuration" in self.system.log("cloud-tunnel-server")[size:], "cloud-tunnel-server"
        )
        log = self.system.log("cloud-tunnel-server")[size:]
        assert "stays as it was" not in log, f"{block.page}:{block.line}: {log}"

    def _type(self, block: Block, on: Machine, command: str, printed: list[str]) -> None:
        command = command.replace(FROM_THE_LINE, self._line)
        where = f"{block.page}:{block.line}: on {block.word}: {command}"
        bare = command.partition("#")[0].removesuffix("&").strip()
        if staying := next((each for each in STAYING if re.fullmatch(each, bare)), None):
            name = f"{on.host.name}-{bare.split()[0]}"
            self.system.processes.start(name, on.command(f"exec {bare}"))
            self.system.until(lambda: on.try_(STAYING[staying]).returncode == 0, name)
            assert matches(self.system.log(name), printed), f"{where}\n{self.system.log(name)}"
            return
        done = on.try_(command)
        assert done.returncode == 0, f"{where}\n{done.stdout}{done.stderr}"
        assert matches(done.stdout + done.stderr, printed), f"{where}\n{done.stdout}{done.stderr}"
        if "token create" in command:
            self._line = " ".join(shlex.split(done.stdout)[3:])


def matches(said: str, printed: list[str]) -> bool:
    """Whether `said` is what a page shows; a page that shows nothing promises nothing."""
    pattern = r"\n".join(re.escape(line).replace(r"\.\.\.", ".*") for line in printed)
    return not printed or re.search(f"^{pattern}$", said, re.MULTILINE | re.DOTALL) is not None


@pytest.fixture(scope="module")
def reader(deploy_for_module: Callable[..., System]) -> Iterator[Reader]:
    """Machines on which nothing is installed but the programs, and what the pages take for granted."""
    made = deploy_for_module()
    topology = made.topology
    with ExitStack() as stack:
        machines = {name: stack.enter_context(machine(topology.host(name), made.processes)) for name in HOSTS}
        for each in machines.values():
            each.run("echo 203.0.113.10 tunnel.example.org >> /etc/hosts")
        _serve(made, topology.edge(1), machines)
        reader = Reader(made, machines)
        reader.read(FIRST)
        yield reader


def _serve(system: System, edge: Host, machines: dict[str, Machine]) -> None:
    """What runs on edge-1: pages, also in a network that its agent allows, the kubelet's port, ssh."""
    machines["edge-1"].run(
        "ip address add 10.42.1.7/32 dev lo; mkdir -p /etc/edge-tunnel;"
        """echo 'allow = ["loopback:*", "node:*", "10.42.1.0/24:*"]' > /etc/edge-tunnel/agent.toml"""
    )
    for port in (80, 443, 9081):
        system.serve(edge, "http", port)
    pair = tls.certificate(system.directory, "edge-1", "DNS:edge-1")
    tls.serve_pages(system, edge, 10250, pair)
    cloud = machines["cloud"]
    cloud.run(f"cat > edge-1.pem <<'END'\n{pair[0].read_text()}END")
    public = cloud.run(
        "mkdir -m 700 .ssh; printf 'StrictHostKeyChecking no\nLogLevel ERROR\n' > .ssh/config;"
        "ssh-keygen -qt ed25519 -N '' -f .ssh/id_ed25519; cat .ssh/id_ed25519.pub"
    )
    for name in ("edge-1", "other"):
        machines[name].run(f"mkdir -m 700 .ssh; echo '{public}' > .ssh/authorized_keys; hostname {name}")
        keys = "ssh-keygen -qt ed25519 -N '' -f /etc/ssh/own"
        sshd = "/usr/sbin/sshd -D -e -f /dev/null -h /etc/ssh/own"
        options = "-oUsePAM=no -oPermitRootLogin=yes -oPidFile=none -o'Subsystem=sftp internal-sftp'"
        system.processes.start(f"sshd-{name}", machines[name].command(f"{keys}; exec {sshd} {options}"))
        system.until(lambda name=name: system.listens(machines[name].host, 22), f"sshd-{name}")


@pytest.mark.parametrize("page", PAGES)
def test_what_a_page_shows_works(reader: Reader, page: str) -> None:
    reader.read(page)
