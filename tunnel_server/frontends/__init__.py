"""How callers come in; every way ends in `tunnel_server.calls`."""
