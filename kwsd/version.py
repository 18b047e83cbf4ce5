"""The version of kwsd."""

__version__ = "0.1.0"
