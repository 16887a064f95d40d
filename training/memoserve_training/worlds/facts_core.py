"""Relations of the first lessons, in words: codes, homes, trades, keepers, years."""

from __future__ import annotations

from memoserve_training.worlds.relations import NAMED_ORDER, Relation, Sort, Wordings

CODE = Relation(
    name="code",
    theme="code",
    subjects=NAMED_ORDER,
    value=Sort.CODE,
    terse="is",
    says=Wordings(
        train=(
            "The code of {s} is {v}.",
            "{s} has the secret code {v}.",
            "In the book, {s} has the code {v}.",
            "The number written down for {s} is {v}.",
            "{s} is known by the number {v}.",
            "The clerk wrote {v} as the code of {s}.",
            "For {s} the list gives the code {v}.",
        ),
        held_out=(
            "The list says that {s} has code {v}.",
            "The number of {s} in the book is {v}.",
            "{s} was given the secret number {v}.",
        ),
    ),
    asks=Wordings(
        train=(
            "What is the code of {s}?",
            "Which code does {s} have?",
            "What number is written down for {s}?",
            "By what number is {s} known?",
            "Which code does the list give for {s}?",
            "What did the clerk write as the code of {s}?",
        ),
        held_out=(
            "Which number does {s} have?",
            "What is the secret code for {s}?",
            "What code does the book give to {s}?",
        ),
    ),
    point=Wordings(train=("has the code {v}",), held_out=("has the number {v}",)),
)

LIVES = Relation(
    name="lives",
    theme="home",
    subjects=(Sort.PERSON,),
    value=Sort.PLACE,
    terse="in",
    says=Wordings(
        train=(
            "{s} lives in the town of {v}.",
            "{s} has a small house in {v}.",
            "The home of {s} is in {v}.",
            "The house where {s} lives is in {v}.",
            "{s} has always lived in old {v}.",
            "In {v} stands the house of {s}.",
            "Everyone knows that {s} lives in {v}.",
        ),
        held_out=(
            "The town where {s} has a house is {v}.",
            "{s} is at home in the town of {v}.",
            "{v} is the town in which {s} lives.",
        ),
    ),
    asks=Wordings(
        train=(
            "Where does {s} live?",
            "In which town does {s} live?",
            "Where is the home of {s}?",
            "In which town does {s} have a house?",
            "What is the home town of {s}?",
            "Where does the house of {s} stand?",
        ),
        held_out=(
            "Which town is the home of {s}?",
            "In what town is {s} at home?",
            "Where is the house in which {s} lives?",
        ),
    ),
    point=Wordings(train=("lives in {v}",), held_out=("is at home in {v}",)),
    phrase=Wordings(
        train=("the town where {s} lives", "the home town of {s}", "the town that {s} lives in"),
        held_out=("the town in which {s} is at home", "the place where {s} has a house"),
    ),
    gather=Wordings(
        train=(
            "Who lives in {v}?",
            "Who has a house in {v}?",
            "Which people live in {v}?",
            "Whose home is in {v}?",
            "Who are the people of {v}?",
            "Who has a home in {v}?",
        ),
        held_out=(
            "Who is at home in {v}?",
            "Which people have a house in {v}?",
            "What are the names of those who live in {v}?",
        ),
    ),
    gathered=Wordings(train=("live in {v}",), held_out=("are at home in {v}",)),
)

WORKS = Relation(
    name="works",
    theme="trade",
    subjects=(Sort.PERSON,),
    value=Sort.WORD,
    terse="does",
    words=(
        *("baker", "miller", "painter", "teacher", "weaver", "sailor", "doctor", "farmer"),
        *("smith", "tailor", "singer", "guard", "potter", "hunter", "cook", "gardener"),
    ),
    says=Wordings(
        train=(
            "{s} works as a {v} every day.",
            "{s} is a {v} by trade.",
            "{s} earns a living as a {v}.",
            "{s} learned the trade of a {v}.",
            "By trade {s} is a good {v}.",
            "People know {s} as a good {v}.",
            "The work of a {v} is done by {s}.",
        ),
        held_out=(
            "The trade of {s} is that of a {v}.",
            "{s} does the work of a {v}.",
            "For a living {s} works as a {v}.",
        ),
    ),
    asks=Wordings(
        train=(
            "What does {s} work as?",
            "What is the trade of {s}?",
            "How does {s} earn a living?",
            "What trade did {s} learn?",
            "What work does {s} do?",
            "What is {s} by trade?",
        ),
        held_out=(
            "Which trade does {s} have?",
            "What does {s} do for a living?",
            "As what do people know {s}?",
        ),
    ),
    point=Wordings(train=("works as a {v}",), held_out=("is a {v} for a living",)),
    gather=Wordings(
        train=(
            "Who works as a {v}?",
            "Who is a {v} by trade?",
            "Who earns a living as a {v}?",
            "Who learned the trade of a {v}?",
            "Which people work as a {v}?",
            "Who does the work of a {v}?",
        ),
        held_out=(
            "Whose trade is that of a {v}?",
            "Which people are known as a {v}?",
            "Who is a {v} for a living?",
        ),
    ),
    gathered=Wordings(train=("work as a {v}",), held_out=("do the work of a {v}",)),
)

KEEPS = Relation(
    name="keeps",
    theme="keeping",
    subjects=(Sort.PERSON,),
    value=Sort.THING,
    terse="has",
    says=Wordings(
        train=(
            "{s} keeps {v} at home.",
            "{s} has {v} in the house.",
            "{s} looks after {v} with care.",
            "The one who keeps {v} is {s}.",
            "In the care of {s} is {v}.",
            "{v} is in the hands of {s}.",
            "Every night {s} locks {v} away.",
        ),
        held_out=(
            "{s} takes good care of {v}.",
            "At home {s} has {v} locked away.",
            "{v} is looked after by {s}.",
        ),
    ),
    asks=Wordings(
        train=(
            "What does {s} keep?",
            "What does {s} keep at home?",
            "What is in the care of {s}?",
            "What does {s} look after?",
            "What does {s} have in the house?",
            "What is in the hands of {s}?",
        ),
        held_out=(
            "What does {s} take care of?",
            "Which thing is kept by {s}?",
            "What has {s} locked away?",
        ),
    ),
    point=Wordings(train=("keeps {v}",), held_out=("takes care of {v}",)),
    phrase=Wordings(
        train=(
            "the thing that {s} keeps",
            "the thing in the care of {s}",
            "the thing that {s} looks after",
        ),
        held_out=("the thing kept by {s}", "the thing that {s} takes care of"),
    ),
)

FOUNDED = Relation(
    name="founded",
    theme="year",
    subjects=(Sort.PLACE,),
    value=Sort.YEAR,
    terse="since",
    says=Wordings(
        train=(
            "{s} was founded in the year {v}.",
            "The town of {s} was founded in {v}.",
            "{s} has been a town since {v}.",
            "The first houses of {s} stood in {v}.",
            "In the year {v} people founded {s}.",
            "The history of {s} began in {v}.",
        ),
        held_out=(
            "{s} became a town in the year {v}.",
            "The year in which people founded {s} is {v}.",
            "Since the year {v} there are houses in {s}.",
        ),
    ),
    asks=Wordings(
        train=(
            "When was {s} founded?",
            "In which year was {s} founded?",
            "Since when has {s} been a town?",
            "In what year did people found {s}?",
            "When did the history of {s} begin?",
            "When did the first houses of {s} stand?",
        ),
        held_out=(
            "In which year did {s} become a town?",
            "What is the year in which {s} was founded?",
            "Since which year are there houses in {s}?",
        ),
    ),
    point=Wordings(train=("was founded in {v}",), held_out=("became a town in {v}",)),
)
