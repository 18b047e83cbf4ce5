"""The stages of `kwsd train`, one file each."""
