"""Corpora and the scenes that are drawn from them."""
