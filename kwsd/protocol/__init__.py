"""The protocol between programs and the daemon: standard library and msgspec only."""
