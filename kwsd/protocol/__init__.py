"""What programs and the daemon say to each other."""
