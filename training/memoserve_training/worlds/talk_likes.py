"""What people say they like, in words: lines of a dialogue, and what one asks after."""

from __future__ import annotations

from memoserve_training.worlds.relations import Relation, Sort, Wordings
from memoserve_training.worlds.values import Kind

DRINK = Relation(
    name="drink",
    theme="drink",
    subjects=(Sort.PERSON,),
    value=Sort.WORD,
    terse="drinks",
    talk=Kind.PREFERENCE,
    words=("tea", "milk", "cider", "coffee", "wine", "beer", "water", "juice", "cocoa", "lemonade"),
    says=Wordings(
        train=(
            "{s}: I like to drink {v} most of all.",
            "{s}: My favorite drink has always been {v}.",
            "{s}: Give me a cup of {v}, please.",
            "{s}: I could drink {v} all day long.",
            "{s}: There is no better drink than {v}.",
            "{s}: For me it must be {v}, thank you.",
        ),
        held_out=(
            "{s}: The drink I like best is {v}.",
            "{s}: Please bring me a large cup of {v}.",
            "{s}: A cup of {v} is all I need.",
        ),
    ),
    asks=Wordings(
        train=(
            "What does {s} like to drink?",
            "What is the favorite drink of {s}?",
            "Which drink should we offer to {s}?",
            "What would {s} like in a cup?",
            "Which drink does {s} like most of all?",
            "What should we pour for {s}?",
        ),
        held_out=(
            "Which drink does {s} like best?",
            "What should we bring {s} to drink?",
            "What drink would make {s} happy?",
        ),
    ),
    point=Wordings(train=("likes to drink {v}",), held_out=("likes {v} best as a drink",)),
)

FOOD = Relation(
    name="food",
    theme="food",
    subjects=(Sort.PERSON,),
    value=Sort.WORD,
    terse="eats",
    talk=Kind.PREFERENCE,
    words=("soup", "stew", "porridge", "pie", "roast", "cake", "salad", "pancakes", "fish", "eggs"),
    says=Wordings(
        train=(
            "{s}: I like {v} better than any other food.",
            "{s}: My favorite meal has always been {v}.",
            "{s}: For dinner I want {v} and nothing else.",
            "{s}: I could eat {v} every day.",
            "{s}: Nothing tastes as good as {v}.",
            "{s}: When there is {v}, I am happy.",
        ),
        held_out=(
            "{s}: The meal I like best is {v}.",
            "{s}: I never say no to {v}.",
            "{s}: A good dinner for me is {v}.",
        ),
    ),
    asks=Wordings(
        train=(
            "What does {s} like to eat?",
            "What is the favorite meal of {s}?",
            "What should we cook for {s}?",
            "What does {s} want for dinner?",
            "Which food does {s} like better than any other?",
            "What could {s} eat every day?",
        ),
        held_out=(
            "Which meal does {s} like best?",
            "What food would make {s} happy?",
            "What is a good dinner for {s}?",
        ),
    ),
    point=Wordings(train=("likes to eat {v}",), held_out=("never says no to {v}",)),
)

PASTIME = Relation(
    name="pastime",
    theme="pastime",
    subjects=(Sort.PERSON,),
    value=Sort.WORD,
    terse="enjoys",
    talk=Kind.PREFERENCE,
    words=(
        *("fishing", "dancing", "reading", "painting", "singing", "swimming", "riding", "cooking"),
        *("hunting", "writing"),
    ),
    says=Wordings(
        train=(
            "{s}: In my free time I enjoy {v}.",
            "{s}: I like {v} more than anything else.",
            "{s}: Nothing makes me as happy as {v}.",
            "{s}: On a free day I go {v}.",
            "{s}: The thing I love most is {v}.",
            "{s}: I spend all my evenings with {v}.",
        ),
        held_out=(
            "{s}: My free days are all for {v}.",
            "{s}: What I enjoy most of all is {v}.",
            "{s}: I am never tired of {v}.",
        ),
    ),
    asks=Wordings(
        train=(
            "What does {s} enjoy?",
            "What does {s} do on a free day?",
            "What makes {s} happy?",
            "What does {s} love most?",
            "What does {s} like to do?",
            "How does {s} spend the evenings?",
        ),
        held_out=(
            "What does {s} enjoy most of all?",
            "What is {s} never tired of?",
            "For what are the free days of {s}?",
        ),
    ),
    point=Wordings(train=("enjoys {v}",), held_out=("is never tired of {v}",)),
)

SEASON = Relation(
    name="season",
    theme="season",
    subjects=(Sort.PERSON,),
    value=Sort.WORD,
    terse="loves",
    talk=Kind.PREFERENCE,
    words=("spring", "summer", "autumn", "winter"),
    says=Wordings(
        train=(
            "{s}: Of all the seasons I like {v} best.",
            "{s}: The best time of the year is {v}.",
            "{s}: All year long I wait for {v}.",
            "{s}: I am happy when {v} is here.",
            "{s}: My favorite season has always been {v}.",
            "{s}: I wish it were {v} all the year.",
        ),
        held_out=(
            "{s}: No season is as good as {v}.",
            "{s}: The season I wait for is {v}.",
            "{s}: I love every day of {v}.",
        ),
    ),
    asks=Wordings(
        train=(
            "Which season does {s} like best?",
            "What is the favorite season of {s}?",
            "For which season does {s} wait?",
            "What is the best time of the year for {s}?",
            "Which season makes {s} happy?",
            "In which season should we visit {s}?",
        ),
        held_out=(
            "What season does {s} love?",
            "Of which season does {s} love every day?",
            "Which time of the year does {s} like?",
        ),
    ),
    point=Wordings(train=("likes {v} best of all seasons",), held_out=("waits for {v} all year",)),
)
