"""What people say they will do, in words: lines of a dialogue, and what one asks after."""

from __future__ import annotations

from memoserve_training.worlds.facts_things import FAMED
from memoserve_training.worlds.relations import Relation, Sort, Wordings
from memoserve_training.worlds.values import Kind

TRIP = Relation(
    name="trip",
    theme="trip",
    subjects=(Sort.PERSON,),
    value=Sort.PLACE,
    terse="goes to",
    talk=Kind.CONVERSATION,
    says=Wordings(
        train=(
            "{s}: Next week I will travel to {v}.",
            "{s}: I am going to visit {v} soon.",
            "{s}: My next trip will be to {v}.",
            "{s}: I want to see {v} this year.",
            "{s}: Soon I will be on my way to {v}.",
            "{s}: The town I will visit next is {v}.",
        ),
        held_out=(
            "{s}: I will take the road to {v} next week.",
            "{s}: This year my trip will be to {v}.",
            "{s}: I am soon on the way to {v}.",
        ),
    ),
    asks=Wordings(
        train=(
            "Where will {s} travel?",
            "Which town is {s} going to visit?",
            "Where will the next trip of {s} be to?",
            "Which town does {s} want to see?",
            "Where does {s} want to go?",
            "To which town will {s} travel next week?",
        ),
        held_out=(
            "What town will {s} visit?",
            "To which town will {s} take the road?",
            "Where is {s} going soon?",
        ),
    ),
    point=Wordings(train=("will travel to {v}",), held_out=("will take the road to {v}",)),
    phrase=Wordings(
        train=(
            "the town that {s} will visit",
            "the town that {s} wants to see",
            "the town to which {s} will travel",
        ),
        held_out=("the town to which {s} will take the road", "the place that {s} is going to see"),
    ),
)

ERRAND = Relation(
    name="errand",
    theme="errand",
    subjects=(Sort.PERSON,),
    value=Sort.WORD,
    terse="brings",
    talk=Kind.CONVERSATION,
    words=FAMED.words,
    says=Wordings(
        train=(
            "{s}: Tomorrow I will bring you some {v}.",
            "{s}: I will buy you some {v} tomorrow.",
            "{s}: I said that I would bring {v}.",
            "{s}: For the feast I will get {v}.",
            "{s}: Do not forget that I bring {v}.",
            "{s}: From the market I will bring you {v}.",
        ),
        held_out=(
            "{s}: I will be back tomorrow with {v}.",
            "{s}: What I bring to the feast is {v}.",
            "{s}: I want to get some {v} tomorrow.",
        ),
    ),
    asks=Wordings(
        train=(
            "What will {s} bring?",
            "What will {s} buy tomorrow?",
            "What will {s} come back with?",
            "What will {s} get for the feast?",
            "What will {s} bring from the market?",
            "What is {s} going to bring?",
        ),
        held_out=(
            "With what will {s} be back tomorrow?",
            "What does {s} bring to the feast?",
            "What does {s} want to get tomorrow?",
        ),
    ),
    point=Wordings(train=("will bring {v}",), held_out=("will be back with {v}",)),
)

DAY = Relation(
    name="day",
    theme="day",
    subjects=(Sort.PERSON,),
    value=Sort.WORD,
    terse="comes",
    talk=Kind.CONVERSATION,
    words=("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"),
    says=Wordings(
        train=(
            "{s}: I will come to your house on {v}.",
            "{s}: You will see me again on {v}.",
            "{s}: I have no time to come before {v}.",
            "{s}: On {v} I will come to visit you.",
            "{s}: The day when I will come is {v}.",
            "{s}: Wait for me, I will come on {v}.",
        ),
        held_out=(
            "{s}: I will be at your house on {v}.",
            "{s}: You must wait for me until {v}.",
            "{s}: My way to you begins on {v}.",
        ),
    ),
    asks=Wordings(
        train=(
            "When will {s} come?",
            "On which day will {s} come?",
            "When does {s} have time to come?",
            "On which day will we see {s} again?",
            "For which day should we wait for {s}?",
            "When will {s} visit us?",
        ),
        held_out=(
            "Until when must we wait for {s}?",
            "On what day will {s} be here?",
            "Which day did {s} say?",
        ),
    ),
    point=Wordings(train=("will come on {v}",), held_out=("will be here on {v}",)),
)
