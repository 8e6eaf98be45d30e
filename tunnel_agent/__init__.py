"""The agent: on an edge, dials out to the server, stays, and dials what the server's callers ask for."""
