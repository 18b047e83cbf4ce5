"""What the device learns by itself: words, voices, thresholds."""
