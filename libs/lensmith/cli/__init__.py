"""The command line, `lensmith`."""
