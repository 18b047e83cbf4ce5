"""The client of the daemon, and the guided workflows over it."""
