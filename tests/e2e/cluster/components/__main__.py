"""`python -m tests.e2e.cluster.components`: build the programs that the tests on a cluster run, once."""

import functools
import sys

from tests.e2e.cluster import emulation, tunnel_image
from tests.e2e.cluster.components import build, go
from tests.e2e.cluster.components.released import COREDNS, HELM, METRICS_SERVER

say = functools.partial(print, flush=True)
try:
    say(f"cluster: the programs of Kubernetes are in {build.make(say)}")
    say(f"cluster: metrics-server is {METRICS_SERVER.make(say)}")
    say(f"cluster: CoreDNS is {COREDNS.make(say)}")
    say(f"cluster: helm is {HELM.make(say)}")
    say(f"cluster: our image is {tunnel_image.archive()}")
    try:
        say(f"cluster: and for {emulation.OTHER} {tunnel_image.archive(emulation.OTHER)}")
    except emulation.NotEmulatedError as error:
        say(f"cluster: not for {emulation.OTHER}: {error}")
except (go.BuildError, tunnel_image.ImageError) as error:
    sys.exit(f"cluster: {error}")
except KeyboardInterrupt:
    sys.exit("cluster: interrupted; what is compiled so far is kept in Go's cache")
