"""`python -m tunnel_server` is `tunnel-server`."""

import sys

from tunnel_server.cli import main

sys.exit(main())
