import pytest

from tunnel_agent.config import AgentConfig
from tunnel_daemon.settings import SettingsError, declared, fields_by_key, read_settings


def read(tmp_path, text: str, **overrides: str) -> AgentConfig:
    path = tmp_path / "agent.toml"
    path.write_text(text)
    return read_settings(AgentConfig, path, overrides)


def test_an_empty_file_is_a_working_configuration(tmp_path):
    config = read(tmp_path, "")
    assert config == AgentConfig()
    assert list(map(str, config.allow)) == ["loopback:*", "node:*"]
    assert config.health_address == "127.0.0.1"


def test_every_setting(tmp_path):
    config = read(
        tmp_path,
        """
        state-dir = "/srv/agent"
        servers = ["tunnel.example:443", "[2001:db8::1]:10262"]
        proxy = "http://u:p@proxy.example:3128"
        allow = ["node:9081", "192.168.2.0/24:8000-8100"]
        connect-timeout = "20s"
        backoff-min = 2
        backoff-max = "5m"
        useful-after = 5
        duplicate-delay = "2m"
        dial-timeout = "3s"
        max-dials-in-flight = 64
        max-streams = 100
        memory-budget = "64MiB"
        health-address = "::1"
        health-port = 0
        log-level = "debug"
        log-format = "json"
        """,
    )
    assert list(map(str, config.servers)) == ["tunnel.example:443", "[2001:db8::1]:10262"]
    assert list(map(str, config.allow)) == ["node:9081", "192.168.2.0/24:8000-8100"]
    assert config.backoff_max == 300
    assert config.memory_budget == 64 * 1024 * 1024


def test_nothing_may_be_allowed(tmp_path):
    assert read(tmp_path, "allow = []").allow == ()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('alow = ["node:*"]', "allow"),
        ('allow = ["10.0.0.1"]', "names no port"),
        ('allow = ["10.0.0.1/24:80"]', "host bits"),
        ("dial-timeout = 0", "at least"),
        ("backoff-max = 0.5", "below backoff-min"),
        ('servers = ["tunnel.example:0"]', "port"),
        ("health-port = 70000", "0 to 65535"),
        ('memory-budget = "1MiB"', "at least"),
        ('log-level = "loud"', "expected one of"),
        ("max-streams = 0", "at least"),
    ],
)
def test_mistakes_are_named_with_their_place(tmp_path, text, words):
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, text)
    (problem,) = caught.value.problems
    assert words in problem
    assert "agent.toml" in problem


def test_the_proxys_password_is_never_shown(tmp_path):
    with pytest.raises(SettingsError) as caught:
        read(tmp_path, 'proxy = "https://user:hunter2@proxy.example:1"')
    assert "hunter2" not in str(caught.value)
    assert "http:// only" in str(caught.value)
    config = read(tmp_path, 'proxy = "http://user:hunter2@proxy.example:1"')
    assert "hunter2" not in repr(config)
    assert str(config.proxy) == "http://proxy.example:1"


def test_what_needs_a_restart():
    fields = fields_by_key(AgentConfig).items()
    assert {key for key, field in fields if not declared(field).live} == {
        "state-dir", "refresh-interval", "links", "max-streams", "health-address", "health-port",
        "node-name", "service-account-token", "ca-file", "openssl-only",
    }  # fmt: skip


ATTESTED = """
service-account-token = "/var/run/secrets/edge-tunnel/token"
ca-file = "/var/run/edge-tunnel/ca.crt"
node-name = "edge-1"
servers = ["tunnel.example"]
"""


def test_an_agent_that_attests_itself(tmp_path):
    config = read(tmp_path, ATTESTED)
    assert (str(config.ca_file), config.node_name) == ("/var/run/edge-tunnel/ca.crt", "edge-1")


@pytest.mark.parametrize("key", ["ca-file", "node-name", "servers"])
def test_what_attesting_needs(tmp_path, key):
    text = "".join(line + "\n" for line in ATTESTED.splitlines() if not line.startswith(key))
    with pytest.raises(SettingsError, match=f"service-account-token: needs {key}, too"):
        read(tmp_path, text)


def test_what_needs_attesting(tmp_path):
    with pytest.raises(SettingsError, match="ca-file: is used with service-account-token only"):
        read(tmp_path, 'ca-file = "/ca.crt"')
    with pytest.raises(SettingsError, match="node-name: 'edge 1' is not a name"):
        read(tmp_path, 'node-name = "edge 1"')
