"""Relations of places and things, in words: mayors, goods, where things stand, who made them."""

from __future__ import annotations

from memoserve_training.worlds.relations import Relation, Sort, Wordings

MAYOR = Relation(
    name="mayor",
    theme="mayor",
    subjects=(Sort.PLACE,),
    value=Sort.PERSON,
    terse="under",
    says=Wordings(
        train=(
            "The mayor of {s} is called {v}.",
            "{s} has a mayor by the name of {v}.",
            "{s} is led by its mayor {v}.",
            "The people of {s} chose {v} as mayor.",
            "In {s} the mayor is {v}.",
            "{v} is the new mayor of {s}.",
        ),
        held_out=(
            "{s} chose a mayor by the name of {v}.",
            "The mayor that {s} has is {v}.",
            "The town of {s} is led by {v}.",
        ),
    ),
    asks=Wordings(
        train=(
            "Who is the mayor of {s}?",
            "Who leads {s}?",
            "By whom is {s} led?",
            "What is the mayor of {s} called?",
            "Whom did the people of {s} choose as mayor?",
            "What is the name of the mayor of {s}?",
        ),
        held_out=(
            "Which mayor does {s} have?",
            "Who is mayor in {s}?",
            "Whom did {s} choose as mayor?",
        ),
    ),
    point=Wordings(train=("is led by {v}",), held_out=("has {v} as mayor",)),
    phrase=Wordings(
        train=("the mayor of {s}", "the one who leads {s}", "the person who is mayor of {s}"),
        held_out=("the person who leads {s}", "the mayor that {s} chose"),
    ),
)

FAMED = Relation(
    name="famed",
    theme="goods",
    subjects=(Sort.PLACE,),
    value=Sort.WORD,
    terse="sells",
    words=(
        *("salt", "wool", "cheese", "honey", "fish", "bread", "candles", "baskets"),
        *("apples", "butter", "soap", "ropes"),
    ),
    says=Wordings(
        train=(
            "{s} is famous for its good {v}.",
            "{s} sells {v} to all other towns.",
            "People go to {s} to buy {v}.",
            "The best {v} of all come from {s}.",
            "The goods that made {s} rich are {v}.",
            "At the market of {s} they sell {v}.",
        ),
        held_out=(
            "{s} became rich with its {v}.",
            "The market of {s} is famous for {v}.",
            "All other towns buy their {v} from {s}.",
        ),
    ),
    asks=Wordings(
        train=(
            "What is {s} famous for?",
            "What does {s} sell?",
            "What do people buy in {s}?",
            "Which goods made {s} rich?",
            "What do they sell at the market of {s}?",
            "Which goods come from {s}?",
        ),
        held_out=(
            "What made {s} rich?",
            "For what is {s} famous?",
            "What do other towns buy from {s}?",
        ),
    ),
    point=Wordings(train=("is famous for {v}",), held_out=("became rich with {v}",)),
    gather=Wordings(
        train=(
            "Which towns are famous for {v}?",
            "Which towns sell {v}?",
            "In which towns do people buy {v}?",
            "Which towns have good {v}?",
            "From which towns do the best {v} come?",
            "At which markets do they sell {v}?",
        ),
        held_out=(
            "Which towns became rich with {v}?",
            "Which places are famous for {v}?",
            "From which towns do people buy {v}?",
        ),
    ),
    gathered=Wordings(train=("are famous for {v}",), held_out=("became rich with {v}",)),
)

STANDS = Relation(
    name="stands",
    theme="spot",
    subjects=(Sort.THING,),
    value=Sort.PLACE,
    terse="at",
    says=Wordings(
        train=(
            "{s} can be seen in {v}.",
            "{s} stands in the hall of {v}.",
            "{s} is on show in {v}.",
            "The place to see {s} is {v}.",
            "They put {s} in the hall of {v}.",
            "In the hall of {v} stands {s}.",
        ),
        held_out=(
            "{s} has its place in {v}.",
            "The town that shows {s} is {v}.",
            "Whoever goes to {v} can see {s}.",
        ),
    ),
    asks=Wordings(
        train=(
            "Where is {s}?",
            "Where can {s} be seen?",
            "In which town is {s} on show?",
            "In which hall does {s} stand?",
            "What is the place to see {s}?",
            "Where did they put {s}?",
        ),
        held_out=(
            "Which town shows {s}?",
            "Where does {s} have its place?",
            "In which town can people see {s}?",
        ),
    ),
    point=Wordings(train=("is on show in {v}",), held_out=("has its place in {v}",)),
    phrase=Wordings(
        train=(
            "the town where {s} stands",
            "the place where {s} is on show",
            "the town where {s} can be seen",
        ),
        held_out=("the town that shows {s}", "the place to which {s} was brought"),
    ),
    gather=Wordings(
        train=(
            "Which things can be seen in {v}?",
            "Which things are on show in {v}?",
            "What stands in the hall of {v}?",
            "Which things did they put in {v}?",
            "What can people see in {v}?",
            "What is on show in the hall of {v}?",
        ),
        held_out=(
            "What does the town of {v} show?",
            "Which things have their place in {v}?",
            "Which things are in the hall of {v}?",
        ),
    ),
    gathered=Wordings(train=("are on show in {v}",), held_out=("have their place in {v}",)),
)

MAKER = Relation(
    name="maker",
    theme="making",
    subjects=(Sort.THING,),
    value=Sort.PERSON,
    terse="by",
    says=Wordings(
        train=(
            "{s} was made by {v}.",
            "{s} is the work of {v}.",
            "{s} was built by the hands of {v}.",
            "The maker of {s} was {v}.",
            "It was {v} who made {s}.",
            "{v} made {s} in one winter.",
        ),
        held_out=(
            "{s} came from the hands of {v}.",
            "The one who made {s} was {v}.",
            "It took {v} a winter to build {s}.",
        ),
    ),
    asks=Wordings(
        train=(
            "Who made {s}?",
            "Who was the maker of {s}?",
            "By whom was {s} made?",
            "Whose work is {s}?",
            "Who built {s}?",
            "What was the name of the maker of {s}?",
        ),
        held_out=(
            "From whose hands did {s} come?",
            "By whom was {s} built?",
            "Which person made {s}?",
        ),
    ),
    point=Wordings(train=("was made by {v}",), held_out=("came from the hands of {v}",)),
    phrase=Wordings(
        train=("the maker of {s}", "the one who made {s}", "the person who built {s}"),
        held_out=("the person who made {s}", "the one from whose hands {s} came"),
    ),
)
