"""`kwsd bench`: what kwsd costs and how well it hears, beside its peers, in the same run, on the same audio."""
