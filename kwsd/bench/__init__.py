"""`kwsd bench`: what kwsd costs and how accurate it is, beside its peers, on the same audio.

From the top: cost, accuracy, words and soak measure; report and plots show what they measured.
They use breakdown, verification and daemon, which use peers and speaker_encoders, which use
engines, corpus and scenes. `engines` imports nothing heavy.
"""
