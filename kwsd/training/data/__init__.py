"""Corpora, scenes and batches."""
