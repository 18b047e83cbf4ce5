"""The shell completions and the manual page, made from the parsers of the verbs.

`python -m kwsd.cli.reference` writes `completions/` and `docs/kwsd.1` of a checkout.
"""
