"""Relations of things, in words: what they are made of, and their color."""

from __future__ import annotations

from memoserve_training.worlds.relations import Relation, Sort, Wordings

COLOR = Relation(
    name="color",
    theme="color",
    subjects=(Sort.THING,),
    value=Sort.WORD,
    terse="looks",
    words=("red", "blue", "green", "white", "black", "yellow", "brown", "gray", "golden", "pink"),
    says=Wordings(
        train=(
            "{s} is all {v} on the outside.",
            "{s} was painted {v} last year.",
            "{s} has a bright {v} color.",
            "The color of {s} is {v}.",
            "Somebody painted {s} {v} from top to bottom.",
            "A bright {v} is the color of {s}.",
        ),
        held_out=(
            "{s} is {v} from top to bottom.",
            "The outside of {s} was painted {v}.",
            "Somebody gave {s} a {v} color.",
        ),
    ),
    asks=Wordings(
        train=(
            "What color is {s}?",
            "Which color does {s} have?",
            "What is the color of {s}?",
            "In which color was {s} painted?",
            "Which color has {s} on the outside?",
            "What color did somebody paint {s}?",
        ),
        held_out=(
            "Of which color is {s}?",
            "What color does {s} have?",
            "What color was {s} painted?",
        ),
    ),
    point=Wordings(train=("is {v}",), held_out=("has a {v} color",)),
)

MATERIAL = Relation(
    name="material",
    theme="material",
    subjects=(Sort.THING,),
    value=Sort.WORD,
    terse="of",
    words=("oak", "iron", "silver", "glass", "copper", "gold", "clay", "bone", "brass", "leather"),
    says=Wordings(
        train=(
            "{s} is made of old {v}.",
            "{s} was made out of fine {v}.",
            "{s} is nothing but {v} inside.",
            "Every part of {s} is {v}.",
            "Good {v} went into {s}.",
            "They used only {v} to make {s}.",
        ),
        held_out=(
            "{s} is made of nothing but {v}.",
            "For {s} they used fine old {v}.",
            "The inside of {s} is {v}.",
        ),
    ),
    asks=Wordings(
        train=(
            "What is {s} made of?",
            "Out of what was {s} made?",
            "What went into {s}?",
            "What did they use to make {s}?",
            "What is every part of {s} made of?",
            "Of what is {s} made?",
        ),
        held_out=(
            "What is inside of {s}?",
            "What did they use for {s}?",
            "Of what did they make {s}?",
        ),
    ),
    point=Wordings(train=("is made of {v}",), held_out=("is {v} inside",)),
    gather=Wordings(
        train=(
            "Which things are made of {v}?",
            "What is made of {v}?",
            "Which things were made out of {v}?",
            "For which things did they use {v}?",
            "What did they make out of {v}?",
            "Which things are nothing but {v}?",
        ),
        held_out=(
            "Which things have {v} inside?",
            "What was made of {v}?",
            "Into which things went {v}?",
        ),
    ),
    gathered=Wordings(train=("are made of {v}",), held_out=("are {v} inside",)),
)
