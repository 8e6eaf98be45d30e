"""The server: listens for agents, accepts callers, joins them."""
