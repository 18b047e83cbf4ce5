"""The command line: one verb after the other."""
