"""Tokens are used once and soon, sessions end, and nobody may guess for long."""

from __future__ import annotations

import pytest

from kwsd.web import sessions
from kwsd.web.sessions import Sessions, TooManyTries, WrongToken


class Clock:
    """A clock that the test sets."""

    now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def opened(clock: Clock) -> Sessions:
    return Sessions(3600, clock)


def test_a_token_begins_one_session(opened: Sessions) -> None:
    token = opened.token()
    secret = opened.redeem(token, "a")
    assert opened.admits(secret)
    assert token not in (secret, ""), "they are different secrets"
    with pytest.raises(WrongToken):
        opened.redeem(token, "a")
    assert opened.admits(secret)
    assert not opened.admits("")
    assert not opened.admits("\ud800")
    opened.end(secret)
    assert not opened.admits(secret)


def test_tokens_and_sessions_end(opened: Sessions, clock: Clock) -> None:
    late, soon = opened.token(), opened.token()
    clock.now += sessions.TOKEN_S - 1
    secret = opened.redeem(soon, "a")
    clock.now += 2
    with pytest.raises(WrongToken):
        opened.redeem(late, "a")
    for _ in range(3):
        clock.now += 3500
        assert opened.admits(secret), "it is used"
    clock.now += 3601
    assert not opened.admits(secret)
    secret = opened.redeem(opened.token(), "a")
    begun = clock.now
    while opened.admits(secret):
        clock.now += 3000
        assert clock.now < begun + sessions.SESSION_S + 6001, "no use makes it last for ever"
    assert clock.now >= begun + sessions.SESSION_S


def test_wrong_tokens_are_limited_for_each_address(opened: Sessions, clock: Clock) -> None:
    token = opened.token()
    for _ in range(sessions.TRIES):
        with pytest.raises(WrongToken):
            opened.redeem("wrong", "a")
    with pytest.raises(TooManyTries) as refused:
        opened.redeem(token, "a")
    assert 0 < refused.value.wait_s <= sessions.TRY_S
    clock.now += refused.value.wait_s
    assert opened.redeem(token, "a"), "what was refused has used no token up"
    for _ in range(sessions.TRIES):
        with pytest.raises(WrongToken):
            opened.redeem("wrong", "b")
    assert opened.redeem(opened.token(), "c"), "others are not held up"


def test_what_is_remembered_is_bounded(opened: Sessions) -> None:
    tokens = [opened.token() for _ in range(sessions.MAX_TOKENS + 1)]
    with pytest.raises(WrongToken):
        opened.redeem(tokens[0], "a")
    first = opened.redeem(tokens[1], "a")
    for n in range(sessions.MAX_SESSIONS):
        opened.redeem(opened.token(), f"{n}")
    assert not opened.admits(first)
    for n in range(2 * sessions.MAX_ADDRESSES):
        with pytest.raises(WrongToken):
            opened.redeem("wrong", f"{n}")
    assert len(opened._tries) == sessions.MAX_ADDRESSES
