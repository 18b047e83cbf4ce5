"""The page in a browser: what kwsd hears, and why it did or did not fire."""
