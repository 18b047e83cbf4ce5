"""`kwsd metrics`: the daemon's figures for Prometheus, and by a file for node_exporter."""
