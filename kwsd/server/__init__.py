"""The daemon: listener thread, hub, Unix socket, request handlers."""
