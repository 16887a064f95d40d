"""What was so and is so no longer, in words: homes and trades."""

from __future__ import annotations

from memoserve_training.worlds.facts_core import WORKS
from memoserve_training.worlds.relations import Change, Relation, Sort, Wordings

MOVED = Change(
    name="moved",
    first=Relation(
        name="moved_from",
        theme="home",
        subjects=(Sort.PERSON,),
        value=Sort.PLACE,
        terse="was in",
        says=Wordings(
            train=(
                "At first {s} lived in {v}.",
                "{s} lived in {v} for some years.",
                "{s} grew up in the town of {v}.",
                "Years ago {s} had a house in {v}.",
                "{s} once had a home in {v}.",
                "{v} was the first home of {s}.",
            ),
            held_out=(
                "{s} spent the first years in {v}.",
                "Long ago {s} was at home in {v}.",
                "The house where {s} grew up is in {v}.",
            ),
        ),
        asks=Wordings(
            train=(
                "Where did {s} live before?",
                "Where did {s} live at first?",
                "What was the first home of {s}?",
                "In which town did {s} grow up?",
                "Where did {s} have a house years ago?",
                "Where did {s} live before moving away?",
            ),
            held_out=(
                "Where was {s} at home long ago?",
                "Where did {s} spend the first years?",
                "Which town did {s} move away from?",
            ),
        ),
        point=Wordings(train=("once lived in {v}",), held_out=("spent the first years in {v}",)),
    ),
    then=Relation(
        name="moved_to",
        theme="home",
        subjects=(Sort.PERSON,),
        value=Sort.PLACE,
        terse="now in",
        says=Wordings(
            train=(
                "Some time later {s} moved to {v}.",
                "{s} then moved to the town of {v}.",
                "{s} left and now lives in {v}.",
                "Since then {s} has moved to {v}.",
                "Now {s} has a new house in {v}.",
                "The new home of {s} is {v}.",
            ),
            held_out=(
                "In the end {s} moved to {v}.",
                "These days {s} is at home in {v}.",
                "{s} found a new home in {v}.",
            ),
        ),
        asks=Wordings(
            train=(
                "Where does {s} live now?",
                "Where did {s} move to?",
                "What is the new home of {s}?",
                "In which town does {s} live now?",
                "Where does {s} now have a house?",
                "To which town did {s} move?",
            ),
            held_out=(
                "Where is {s} at home these days?",
                "Where did {s} find a new home?",
                "Which town did {s} move to?",
            ),
        ),
        point=Wordings(train=("now lives in {v}",), held_out=("found a new home in {v}",)),
    ),
)

RETRAINED = Change(
    name="retrained",
    first=Relation(
        name="trade_before",
        theme="trade",
        subjects=(Sort.PERSON,),
        value=Sort.WORD,
        terse="was",
        words=WORKS.words,
        says=Wordings(
            train=(
                "At first {s} worked as a {v}.",
                "{s} was once a good {v}.",
                "For some years {s} was a {v}.",
                "{s} began to work as a {v}.",
                "The first trade of {s} was {v}.",
                "Years ago people knew {s} as a {v}.",
            ),
            held_out=(
                "Long ago {s} did the work of a {v}.",
                "{s} spent the first years as a {v}.",
                "As a {v} {s} earned the first money.",
            ),
        ),
        asks=Wordings(
            train=(
                "What was {s} before?",
                "What did {s} work as at first?",
                "What was the first trade of {s}?",
                "As what did people know {s} years ago?",
                "What was {s} for some years?",
                "As what did {s} begin to work?",
            ),
            held_out=(
                "Which work did {s} do long ago?",
                "As what did {s} spend the first years?",
                "As what did {s} earn the first money?",
            ),
        ),
        point=Wordings(train=("was once a {v}",), held_out=("was long ago a {v}",)),
    ),
    then=Relation(
        name="trade_now",
        theme="trade",
        subjects=(Sort.PERSON,),
        value=Sort.WORD,
        terse="now",
        words=WORKS.words,
        says=Wordings(
            train=(
                "Some time later {s} became a {v}.",
                "{s} now works as a {v}.",
                "Now the trade of {s} is {v}.",
                "{s} then learned to be a {v}.",
                "Since then {s} works as a {v}.",
                "The new work of {s} is that of a {v}.",
            ),
            held_out=(
                "In the end {s} became a {v}.",
                "These days {s} is a {v}.",
                "{s} found new work as a {v}.",
            ),
        ),
        asks=Wordings(
            train=(
                "What does {s} work as now?",
                "What did {s} become?",
                "What is the trade of {s} now?",
                "What is the new work of {s}?",
                "What did {s} then learn to be?",
                "How does {s} earn a living now?",
            ),
            held_out=(
                "What is {s} these days?",
                "As what did {s} find new work?",
                "What did {s} become in the end?",
            ),
        ),
        point=Wordings(train=("now works as a {v}",), held_out=("became a {v}",)),
    ),
)
