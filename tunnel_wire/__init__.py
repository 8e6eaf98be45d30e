"""The tunnel's protocol, shared by both ends: sans-I/O, then trio over it. See spec.md."""

__version__ = "0.1.0"
