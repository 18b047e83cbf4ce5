"""Generators of bad input, and the runner that feeds it to kwsd: see `./dev fuzz --help`."""
