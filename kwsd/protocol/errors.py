"""What goes wrong between a program and what it asks, each with a `code` for programs and a message for people. Standard library only."""

from __future__ import annotations


class RequestError(RuntimeError):
    """A request cannot be met."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class DaemonError(RequestError):
    """The daemon cannot be reached, or has refused a request."""
