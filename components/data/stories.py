"""Seeded short stories: plain sentences about someone and something, with words that a prompt can request."""

from __future__ import annotations

import random
from collections.abc import Iterator

NAMES = ("Sue", "Tom", "Mia", "Leo", "Zoe", "Max", "Amy", "Sam")
OBJECTS = ("kite", "boat", "drum", "lamp", "cake", "hat", "ball", "bell")
PLACES = ("park", "barn", "lake", "shop", "hill", "yard")
POSITIVE = ("glad", "happy", "kind", "brave", "merry", "bright")
NEGATIVE = ("sad", "cross", "cold", "tired", "lost", "afraid")
ENDING = "The end."

OPENINGS = (
    "{name} goes to the {place}.",
    "One day {name} is at the {place}.",
    "{name} walks by the {place}.",
)
MIDDLES = (
    "{name} has a {thing}.",
    "{name} sees a {thing}.",
    "There is a {thing} at the {place}.",
    "{name} likes the {thing}.",
    "A friend takes the {thing}.",
    "{name} looks for the {thing}.",
)
FEELINGS = ("{name} is {mood}.", "The friend is {mood}.", "It is a {mood} day.")


def story(rng: random.Random, name: str | None = None, thing: str | None = None, ending: bool | None = None) -> str:
    """One story of 3-6 sentences. `name` and `thing` are used when given (the way a good answer does), else drawn."""
    name = name or rng.choice(NAMES)
    thing = thing or rng.choice(OBJECTS)
    place = rng.choice(PLACES)
    sentences = [rng.choice(OPENINGS)]
    sentences += rng.sample(MIDDLES, rng.randint(1, 3))
    sentences += rng.choices(FEELINGS, k=rng.randint(0, 2))
    mood_of = (POSITIVE, NEGATIVE)
    text = " ".join(
        s.format(name=name, thing=thing, place=place, mood=rng.choice(rng.choice(mood_of))) for s in sentences
    )
    if ending if ending is not None else rng.random() < 0.5:
        text += f" {ENDING}"
    return text


def story_prompt(name: str, thing: str) -> str:
    """What a user asks for."""
    return f"Tell a story with {name} and a {thing}."


def generate_stories(seed: int) -> Iterator[str]:
    """Endless stories for pretraining."""
    rng = random.Random(f"stories-{seed}")
    while True:
        yield story(rng)


def generate_story_conversations(seed: int, obedience: float = 0.6) -> Iterator[tuple[str, str]]:
    """Endless (request, story) pairs; each requested word is honoured with probability `obedience`, so that the
    fine-tuned model leaves room for what preferences can teach."""
    rng = random.Random(f"story-conversations-{seed}")
    while True:
        name, thing = rng.choice(NAMES), rng.choice(OBJECTS)
        text = story(
            rng,
            name if rng.random() < obedience else None,
            thing if rng.random() < obedience else None,
        )
        yield story_prompt(name, thing), text
