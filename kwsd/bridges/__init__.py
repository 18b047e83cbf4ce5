"""Bridges: kwsd in the protocols of other programs, each a process and a unit of its own."""
