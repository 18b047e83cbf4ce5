"""Who may see the page: one-time tokens, the sessions that they begin, and how often one may guess.

Tokens and sessions are kept as their hashes, in memory alone: a restart ends all of them.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

TOKEN_S = 15 * 60.0
"""Seconds for which a token can be used."""
MAX_TOKENS = 16
MAX_SESSIONS = 64
"""Sessions at the same time; the one that was used least recently goes first."""
SESSION_S = 7 * 86_400.0
"""Longest length of a session, however much it is used."""
TRIES = 10
"""Wrong tokens that an address may bring at once."""
TRY_S = 30.0
"""Seconds after which it may bring one more."""
MAX_ADDRESSES = 1024
"""Addresses whose wrong tokens are remembered."""


def boot_time() -> float:
    """Return seconds since the machine started, its sleep included."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class WrongToken(Exception):
    """The token was used before, is too old, or never was one."""


class TooManyTries(Exception):
    """This address has brought too many wrong tokens."""

    def __init__(self, wait_s: float) -> None:
        super().__init__("too many wrong tokens")
        self.wait_s = wait_s
        """Seconds until another is looked at."""


@dataclass
class Session:
    """A browser that may see the page."""

    begun: float
    used: float


class Sessions:
    """The tokens that can still be used, and the sessions."""

    def __init__(self, idle_s: float, clock: Callable[[], float] = boot_time) -> None:
        """A session ends `idle_s` after its last use."""
        self._idle_s = idle_s
        self._clock = clock
        self._tokens: OrderedDict[bytes, float] = OrderedDict()
        self._sessions: OrderedDict[bytes, Session] = OrderedDict()
        self._tries: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def token(self) -> str:
        """Return a new token, which begins one session."""
        token = secrets.token_urlsafe(32)
        self._tokens[_hash(token)] = self._clock() + TOKEN_S
        while len(self._tokens) > MAX_TOKENS:
            self._tokens.popitem(last=False)
        return token

    def redeem(self, token: str, address: str) -> str:
        """Return the secret of a new session, and use the token up.

        Raises TooManyTries, which uses no token up, or WrongToken.
        """
        left, now = self._tries_left(address), self._clock()
        if left < 1:
            raise TooManyTries((1 - left) * TRY_S)
        expires = self._tokens.pop(_hash(token), None)
        if expires is None or expires < now:
            self._tries[address] = (left - 1, now)
            self._tries.move_to_end(address)
            while len(self._tries) > MAX_ADDRESSES:
                self._tries.popitem(last=False)
            raise WrongToken
        secret = secrets.token_urlsafe(32)
        self._sessions[_hash(secret)] = Session(now, now)
        while len(self._sessions) > MAX_SESSIONS:
            self._sessions.popitem(last=False)
        return secret

    def admits(self, secret: str) -> bool:
        """Return whether a session goes on, and count that as its use."""
        if not self.lasts(secret):
            return False
        key = _hash(secret)
        self._sessions[key].used = self._clock()
        self._sessions.move_to_end(key)
        return True

    def lasts(self, secret: str) -> bool:
        """Return whether a session goes on."""
        key, now = _hash(secret), self._clock()
        session = self._sessions.get(key)
        if session is None:
            return False
        if now - session.used > self._idle_s or now - session.begun > SESSION_S:
            del self._sessions[key]
            return False
        return True

    def end(self, secret: str) -> None:
        """End a session."""
        self._sessions.pop(_hash(secret), None)

    def _tries_left(self, address: str) -> float:
        """Return how many wrong tokens an address may still bring, up to TRIES."""
        left, since = self._tries.get(address, (float(TRIES), 0.0))
        return min(left + (self._clock() - since) / TRY_S, float(TRIES))


def _hash(secret: str) -> bytes:
    return hashlib.sha256(secret.encode(errors="surrogatepass")).digest()
