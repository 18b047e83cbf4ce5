"""Networks, teachers and their checkpoints."""
