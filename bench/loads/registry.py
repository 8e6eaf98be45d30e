"""Every load of the suite, in the order of the tables. A new file in this folder is named here."""

import importlib
from collections.abc import Sequence

from bench.loads.load import Load

# Each module has LOADS.
MODULES = (
    *("bulk", "echo", "connections", "many_streams"),
    *("further_agents", "agents", "keeping", "floods"),
)


def loads() -> Sequence[Load]:
    """All of them."""
    return [load for name in MODULES for load in importlib.import_module(f"bench.loads.{name}").LOADS]
