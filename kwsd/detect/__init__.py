"""The detector: samples in, wakes out; setup, trigger, peaks and speaker identification."""
