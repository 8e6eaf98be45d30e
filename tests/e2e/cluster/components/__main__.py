"""`python -m tests.e2e.cluster.components`: build the programs of Kubernetes that the tests run, once."""

import functools
import sys

from tests.e2e.cluster.components import build, go

try:
    print(f"cluster: the programs are in {build.make(functools.partial(print, flush=True))}")
except go.BuildError as error:
    sys.exit(f"cluster: {error}")
except KeyboardInterrupt:
    sys.exit("cluster: interrupted; what is compiled so far is kept in Go's cache")
