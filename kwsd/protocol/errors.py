"""Errors of requests: a `code` for programs and a message for people."""

from __future__ import annotations


class RequestError(RuntimeError):
    """A request cannot be met."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class DaemonError(RequestError):
    """The daemon cannot be reached, or has refused a request."""
