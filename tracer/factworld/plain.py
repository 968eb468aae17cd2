"""Everyday sentences without facts in them, so that free text reads as text and keys are seen among many words."""

from __future__ import annotations

from random import Random

PEOPLE = (
    "the teacher",
    "a young farmer",
    "the old captain",
    "my neighbour",
    "her brother",
    "the baker",
    "a tired nurse",
    "the gardener",
    "our guide",
    "the student",
    "a quiet painter",
    "the driver",
    "his cousin",
    "the librarian",
    "a curious child",
    "the fisherman",
    "the shopkeeper",
    "an elderly couple",
    "the postman",
    "a group of friends",
    "the cook",
    "two sisters",
    "the carpenter",
    "the visitor",
)
THINGS = (
    "a letter",
    "the garden",
    "an old map",
    "the kitchen table",
    "a basket of apples",
    "the broken clock",
    "a small boat",
    "the front door",
    "a warm coat",
    "the red bicycle",
    "a long story",
    "the morning paper",
    "a wooden chair",
    "the empty room",
    "a glass of water",
    "the bridge",
    "a loaf of bread",
    "the photograph",
    "a heavy box",
    "the radio",
    "an umbrella",
    "the lamp",
    "a bunch of flowers",
    "the suitcase",
)
ACTS = (
    "looked at",
    "talked about",
    "carried",
    "forgot",
    "painted",
    "repaired",
    "found",
    "waited for",
    "remembered",
    "cleaned",
    "described",
    "asked about",
    "walked past",
    "brought back",
    "dreamed of",
    "paid for",
    "laughed at",
    "borrowed",
    "wrote about",
    "searched for",
)
PLACES = (
    "by the river",
    "near the station",
    "in the village",
    "under the trees",
    "at the market",
    "on the hill",
    "behind the house",
    "in the kitchen",
    "beside the lake",
    "at the end of the road",
    "in the old school",
    "on the train",
    "along the coast",
    "in the small shop",
    "across the street",
    "in the park",
    "next to the church",
    "at the harbour",
    "on the stairs",
    "in the waiting room",
)
TIMES = (
    "in the morning",
    "after dinner",
    "before the rain",
    "last winter",
    "on Sunday",
    "every evening",
    "at noon",
    "during the summer",
    "late at night",
    "in early spring",
    "after the long walk",
    "while the others slept",
    "just before sunrise",
    "on the first day",
    "once a week",
)
WEATHER = (
    "cold",
    "warm",
    "windy",
    "quiet",
    "dark",
    "bright",
    "grey",
    "busy",
    "calm",
    "wet",
    "pleasant",
    "dusty",
    "cloudy",
    "gentle",
    "heavy",
)
MATTERS = (
    "music",
    "history",
    "the weather",
    "old books",
    "good food",
    "the price of bread",
    "long journeys",
    "family",
    "work",
    "the news",
    "gardens",
    "science",
    "the sea",
    "childhood",
    "money",
    "friendship",
    "the harvest",
    "a new road",
    "the school",
    "the festival",
)
FEELINGS = (
    "happy",
    "tired",
    "surprised",
    "hungry",
    "proud",
    "worried",
    "glad",
    "curious",
    "patient",
    "lonely",
    "excited",
    "nervous",
    "grateful",
    "bored",
)
THOUGHTS = (
    "nothing would change",
    "the road was longer than it looked",
    "the day had only begun",
    "someone would come",
    "the house was too small",
    "the best part was over",
    "it was time to go home",
    "there was more to learn",
    "the answer was simple",
    "winter would come early",
    "the journey was worth the trouble",
    "nobody had noticed",
    "the work could wait",
    "things would be better soon",
)


def _capital(text: str) -> str:
    return text[0].upper() + text[1:]


def sentence(rng: Random) -> str:
    """One plain sentence, with its full stop and no leading space."""
    pick = rng.choice
    match rng.randrange(14):
        case 0:
            text = f"{pick(PEOPLE)} {pick(ACTS)} {pick(THINGS)} {pick(PLACES)}"
        case 1:
            text = f"{pick(TIMES)}, {pick(PEOPLE)} {pick(ACTS)} {pick(THINGS)}"
        case 2:
            text = f"it was {pick(WEATHER)} and {pick(WEATHER)} {pick(PLACES)}"
        case 3:
            text = f"{pick(PEOPLE)} and {pick(PEOPLE)} talked about {pick(MATTERS)} {pick(TIMES)}"
        case 4:
            text = f"{pick(PEOPLE)} was {pick(FEELINGS)} and {pick(FEELINGS)} {pick(TIMES)}"
        case 5:
            text = f"{pick(PEOPLE)} thought that {pick(THOUGHTS)}"
        case 6:
            text = f"there was {pick(THINGS)} {pick(PLACES)}, and {pick(PEOPLE)} {pick(ACTS)} it"
        case 7:
            text = f"the {pick(WEATHER)} air {pick(PLACES)} made {pick(PEOPLE)} {pick(FEELINGS)}"
        case 8:
            text = f"because it was {pick(WEATHER)}, {pick(PEOPLE)} stayed {pick(PLACES)}"
        case 9:
            text = f"{pick(PEOPLE)} said that {pick(MATTERS)} and {pick(MATTERS)} belong together"
        case 10:
            text = f"when {pick(PEOPLE)} {pick(ACTS)} {pick(THINGS)}, {pick(PEOPLE)} was {pick(FEELINGS)}"
        case 11:
            text = f"I {pick(ACTS)} {pick(THINGS)} {pick(TIMES)}"
        case 12:
            text = f"you can read about {pick(MATTERS)} {pick(PLACES)}"
        case _:
            text = f"therefore, {pick(PEOPLE)} {pick(ACTS)} {pick(THINGS)}, but {pick(THOUGHTS)}"
    return _capital(text) + "."
