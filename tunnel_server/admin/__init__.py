"""The admin API: what tunnelctl asks and changes over a Unix socket."""
