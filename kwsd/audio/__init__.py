"""Audio: capture, files, ring buffer, voice activity, log-mel features, synthesis."""
