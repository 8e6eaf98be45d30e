"""Identities, the authority, join tokens and the files they are kept in; no event loop, nothing of ours."""
