"""Interception, frontends and calls are kept in step with the lists, or left as they were."""

from collections.abc import Callable, Mapping
from ipaddress import ip_address, ip_network
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from certs.files import StateDirectory
from tunnel_daemon.http1 import HttpError
from tunnel_server.capturing import Capturing
from tunnel_server.intercept.config import InterceptConfig, InterceptUnavailable
from tunnel_server.mappings import PortMappings
from tunnel_server.port_lists import PortLists, read_port_lists

BUILT_IN = {10250: 10263, 10255: 10264}
ADDRESS = ip_address("192.168.2.143")
CALLERS = InterceptConfig(
    caller_networks=(ip_network("10.0.0.0/8"),), prerouting_address4=ip_address("10.1.1.1")
)


class Kernel:
    """What interception would do, or refuse."""

    def __init__(self) -> None:
        self.applied: list[tuple[set[object], dict[int, int]]] = []
        self.config = InterceptConfig()
        self.refuses = False

    on_apply: Callable[[], None] = staticmethod(lambda: None)

    async def apply(
        self, addresses: set[object], ports: dict[int, int], config: InterceptConfig | None
    ) -> None:
        self.on_apply()
        if self.refuses:
            raise InterceptUnavailable("the kernel refuses")
        self.config = config or self.config
        self.applied.append((set(addresses), dict(ports)))


class Frontend:
    mappings: Mapping[int, int]
    localhost_ports: frozenset[int]


class Parts:
    def __init__(self, state: StateDirectory, lists: PortLists) -> None:
        self.mappings = PortMappings(state, lists.captured)
        self.capturing = Capturing(self.mappings, lists)
        self.kernel, self.frontend = Kernel(), Frontend()
        self.calls = SimpleNamespace(localhost_ports=frozenset())
        self.capturing.interception = self.kernel  # type: ignore[assignment]
        registry = SimpleNamespace(addresses=lambda: {ADDRESS})
        self.capturing.serve(registry, self.calls, [self.frontend])  # type: ignore[arg-type]


@pytest.fixture
def parts(tmp_path) -> Parts:
    return Parts(StateDirectory.create(tmp_path / "s"), read_port_lists("9081, x", localhost="10266"))


async def test_everything_is_told(parts: Parts) -> None:
    await parts.capturing.capture()
    ports = {9081: 10264, **BUILT_IN}
    assert parts.kernel.applied == [({ADDRESS}, ports)]
    assert (parts.frontend.mappings, parts.frontend.localhost_ports) == (ports, {10266})
    assert parts.calls.localhost_ports == {10266}
    assert [each[:20] for each in parts.capturing.problems] == ['dnat-ports-pair: "x"']


async def test_other_lists_and_only_their_new_problems_are_logged(
    parts: Parts, caplog: pytest.LogCaptureFixture
) -> None:
    await parts.capturing.configure(read_port_lists("9082, x, y"), CALLERS)
    assert parts.kernel.applied[-1][1] == {9082: 10264, **BUILT_IN}
    assert parts.kernel.config == CALLERS
    assert parts.calls.localhost_ports == frozenset()
    assert len(parts.capturing.problems) == 2
    (record,) = caplog.records
    assert 'dnat-ports-pair: "y"' in record.getMessage()


async def test_what_the_kernel_refuses_changes_nothing(parts: Parts) -> None:
    await parts.capturing.capture()
    before, problems = dict(parts.frontend.mappings), parts.capturing.problems
    parts.kernel.refuses = True
    with pytest.raises(InterceptUnavailable):
        await parts.capturing.configure(read_port_lists("9999", localhost="1"), CALLERS)
    assert parts.mappings.effective() == parts.frontend.mappings == before
    assert parts.calls.localhost_ports == parts.frontend.localhost_ports == {10266}
    assert parts.capturing.problems == problems


async def test_a_mapping_that_is_kept_but_not_in_force_is_told(parts: Parts) -> None:
    parts.mappings.add(7777, 10263)
    await parts.capturing.mappings_changed()
    assert parts.kernel.applied[-1][1][7777] == 10263
    parts.kernel.refuses = True
    with pytest.raises(HttpError, match="kept, but is not in force: the kernel refuses"):
        await parts.capturing.mappings_changed()


async def test_other_addresses_are_captured_and_what_is_refused_is_asked_again(
    parts: Parts, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(parts.capturing.keep)
        parts.kernel.refuses = True
        parts.capturing.addresses_changed()
        await trio.sleep(11)
        assert caplog.text.count("the captured addresses stay as they were: the kernel refuses") == 1
        parts.kernel.refuses = False
        await trio.sleep(5)
        assert len(parts.kernel.applied) == 1
        nursery.cancel_scope.cancel()


async def test_a_server_that_was_replaced_meanwhile_captures_no_more(parts: Parts) -> None:
    def not_running() -> None:
        raise RuntimeError("interception is not running")

    def replaced() -> None:
        parts.capturing.interception = None
        not_running()

    parts.kernel.on_apply = not_running
    with pytest.raises(RuntimeError):
        await parts.capturing.mappings_changed()
    parts.kernel.on_apply = replaced
    await parts.capturing.mappings_changed()
