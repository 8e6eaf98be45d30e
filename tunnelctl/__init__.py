"""The command line for whoever runs a tunnel server: one file a subcommand."""
