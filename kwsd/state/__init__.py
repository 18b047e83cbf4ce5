"""What a state directory holds."""
