"""What every long-running process stands on: settings, a small HTTP server, logging, signals."""
