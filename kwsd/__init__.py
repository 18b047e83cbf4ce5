"""kwsd: an always-on wake-word and speaker-verification daemon for Linux edge hardware.

with kwsd.connect() as daemon:
    for event in daemon.events(types=["wake"]):
        print(event["word"], event["speaker"])
"""

from kwsd.client.client import AsyncConnection, Connection, connect, connect_async
from kwsd.protocol.errors import DaemonError
from kwsd.version import __version__ as __version__

__all__ = ["AsyncConnection", "Connection", "DaemonError", "__version__", "connect", "connect_async"]
