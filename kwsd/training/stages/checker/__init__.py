"""The checker, the second stage: a thin transformer distilled from a large one, step by step."""
