"""kwsd: an always-on wake-word and speaker-verification daemon for Linux edge hardware.

with kwsd.connect() as daemon:
    for event in daemon.events(types=["wake"]):
        print(event["word"], event["speaker"])
"""

from kwsd.service.client import AsyncConnection, Connection, connect, connect_async
from kwsd.service.errors import DaemonError

__version__ = "0.1.0"
__all__ = ["AsyncConnection", "Connection", "DaemonError", "__version__", "connect", "connect_async"]
