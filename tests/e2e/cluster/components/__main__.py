"""`python -m tests.e2e.cluster.components`: build the programs that the tests run: Kubernetes, Helm; once."""

import functools
import sys

from tests.e2e.cluster.components import build, go, helm

say = functools.partial(print, flush=True)

try:
    for program in (build.make(say), helm.make(say)):
        say(f"cluster: built: {program}")
except go.BuildError as error:
    sys.exit(f"cluster: {error}")
except KeyboardInterrupt:
    sys.exit("cluster: interrupted; what is compiled so far is kept in Go's cache")
