"""What the device learns by itself: words, voiceprints and thresholds; numpy only."""
