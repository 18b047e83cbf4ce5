"""Who answers where several rooms hear one utterance."""

from __future__ import annotations

import itertools
import random

from kwsd.bridges.mqtt.arbiter import MAX_CLAIMS, Arbiter, Rank, rank

WINDOW_S = 0.3


def answers(heard: dict[str, tuple[float, Rank]], delay_s: float = 0.01) -> list[str]:
    """Return which rooms answer, where each has heard the word at a time with a rank, and each
    message takes `delay_s`."""
    arbiters = {room: Arbiter(WINDOW_S) for room in heard}
    answered: list[str] = []
    events = [(at, "candidate", room) for room, (at, _) in heard.items()]
    for room, (at, _) in heard.items():
        others = arbiters.keys() - {room}
        events += [(at + delay_s, f"hears {other}", room) for other in others]
        events.append((at + WINDOW_S, "decides", room))
    while events:
        events.sort()
        now, what, room = events.pop(0)
        at, own = heard[room]
        if what.startswith("hears "):
            arbiters[what.removeprefix("hears ")].candidate("computer", own, now)
        elif what.startswith("learns "):
            arbiters[what.removeprefix("learns ")].answer("Computer", own, now)
        elif what == "decides" and arbiters[room].winner("computer", own, at) == room:
            answered.append(room)
            events += [
                (now + delay_s, f"learns {other}", room) for other in arbiters.keys() - {room}
            ]
    return answered


def test_the_loudest_of_those_at_the_same_time_answers() -> None:
    rooms = {"a": 10.0, "b": 20.0, "c": None}
    for order in itertools.permutations(rooms):
        heard = {room: (n * 0.08, rank(rooms[room], -30.0, room)) for n, room in enumerate(order)}
        assert answers(heard) == ["b"], order


def test_equals_and_the_unknown_are_decided_the_same_way_everywhere() -> None:
    assert answers({room: (0.0, rank(12.0, -30.0, room)) for room in "abc"}) == ["c"]
    levels = {"a": -20.0, "b": -30.0, "c": None}
    assert answers({room: (0.0, rank(None, levels[room], room)) for room in "abc"}) == ["a"]


def test_who_comes_too_late_yields_to_who_has_answered() -> None:
    heard = {"a": (0.0, rank(5.0, None, "a")), "b": (0.5, rank(30.0, None, "b"))}
    assert answers(heard) == ["a"]
    # Another utterance is another matter.
    heard["b"] = (1.5, heard["b"][1])
    assert answers(heard) == ["a", "b"]


def test_a_room_that_has_gone_silent_keeps_nobody_from_answering() -> None:
    arbiter = Arbiter(WINDOW_S)
    arbiter.candidate("computer", rank(50.0, None, "gone"), now=0.0)
    mine = rank(10.0, None, "here")
    assert arbiter.winner("computer", mine, at=0.05) == "gone"
    assert arbiter.winner("computer", mine, at=0.2) == "here"
    assert arbiter.winner("alexa", mine, at=0.0) == "here"


def test_exactly_one_answers_whatever_comes_when() -> None:
    generator = random.Random(5)
    for _ in range(300):
        rooms = "abcde"[: generator.randint(1, 5)]
        heard = {
            room: (
                generator.uniform(0, 0.9),
                rank(generator.choice([None, 5.0, 10.0, generator.uniform(0, 40)]), None, room),
            )
            for room in rooms
        }
        found = answers(heard, delay_s=generator.uniform(0, 0.05))
        assert len(found) == 1, heard


def test_a_flood_of_candidates_is_bounded() -> None:
    arbiter = Arbiter(WINDOW_S)
    for n in range(10 * MAX_CLAIMS):
        arbiter.candidate(f"word {n}", rank(1.0, None, f"room {n}"), now=n / 1000)
    assert len(arbiter._claims) == MAX_CLAIMS
