"""The client, and the workflows that it guides."""
