"""`python -m tunnel_agent`."""

import sys

from tunnel_agent.cli import main

sys.exit(main())
