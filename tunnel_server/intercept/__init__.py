"""Transparent interception with nftables. Import from its modules: this file loads nothing.

`interception` captures, `original_destination` asks where a captured connection was going, `leftovers` tidies
up after a server that was killed, `config` has the words they share. Only the first and third load pyroute2.
"""

import logging

# Where /proc/net is hidden, as by our own unit, pyroute2 would warn of traffic control, which we do not use.
logging.getLogger("pyroute2.netlink.rtnl.tcmsg.common").setLevel(logging.ERROR)
