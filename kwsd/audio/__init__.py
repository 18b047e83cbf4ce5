"""Floor 1: samples. Capture, ring buffer, resampling, voice activity, log-mel features."""
