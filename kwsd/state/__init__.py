"""The state directory: voiceprints, added words, calibration, peaks and clips."""
