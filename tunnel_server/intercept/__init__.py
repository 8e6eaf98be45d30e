"""Transparent interception with nftables. Import from its modules: this file loads nothing.

`interception` captures, `original_destination` asks where a captured connection was going, `leftovers` tidies
up after a server that was killed, `config` has the words they share. Only the first and third load pyroute2.
"""
