"""The format of all audio behind the microphone: mono int16 at 16 kHz, in chunks of 80 ms."""

SAMPLE_RATE = 16000
"""Samples per second."""
CHUNK_SAMPLES = 1280
"""Samples of one chunk, what the encoder takes at once: 80 ms."""
BLOCK_S = CHUNK_SAMPLES / SAMPLE_RATE
"""Seconds of the block that a source delivers at once."""
SILENCE_DBFS = -100.0
"""The level of digital silence, in dB of full scale."""
