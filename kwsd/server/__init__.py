"""Floor 4: the daemon. Listener thread, hub, protocol, socket, systemd, and the client that talks to it."""
