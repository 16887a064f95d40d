"""Relations of people, in words: teachers, guilds, birthdays, meetings."""

from __future__ import annotations

from memoserve_training.worlds.relations import Relation, Sort, Wordings

TEACHER = Relation(
    name="teacher",
    theme="teaching",
    subjects=(Sort.PERSON,),
    value=Sort.PERSON,
    terse="from",
    says=Wordings(
        train=(
            "{s} had a teacher by the name of {v}.",
            "{s} was taught to read by {v}.",
            "{s} learned all there is from {v}.",
            "The teacher of {s} was old {v}.",
            "As a child {s} was taught by {v}.",
            "{v} was the one who taught {s}.",
        ),
        held_out=(
            "{s} learned to read and write from {v}.",
            "The one who taught {s} was {v}.",
            "{s} had lessons at the house of {v}.",
        ),
    ),
    asks=Wordings(
        train=(
            "Who taught {s}?",
            "Who was the teacher of {s}?",
            "From whom did {s} learn?",
            "By whom was {s} taught?",
            "Who taught {s} to read?",
            "What was the name of the teacher of {s}?",
        ),
        held_out=(
            "Which teacher did {s} have?",
            "By whom was {s} taught to read?",
            "At whose house did {s} have lessons?",
        ),
    ),
    point=Wordings(train=("was taught by {v}",), held_out=("had lessons from {v}",)),
    phrase=Wordings(
        train=("the teacher of {s}", "the one who taught {s}", "the person who taught {s}"),
        held_out=("the teacher that {s} had", "the person from whom {s} learned"),
    ),
)

GUILD = Relation(
    name="guild",
    theme="guild",
    subjects=(Sort.PERSON,),
    value=Sort.WORD,
    terse="joined",
    words=(
        *("river", "salt", "stone", "silver", "golden", "forest", "winter", "summer"),
        *("harbor", "iron", "copper", "eagle"),
    ),
    says=Wordings(
        train=(
            "{s} is a member of the {v} guild.",
            "{s} belongs to the {v} guild.",
            "{s} joined the {v} guild long ago.",
            "The guild that {s} joined is the {v} guild.",
            "Since last year {s} belongs to the {v} guild.",
            "The {v} guild counts {s} among its members.",
        ),
        held_out=(
            "{s} became a member of the {v} guild.",
            "The members of the {v} guild know {s} well.",
            "{s} has a place in the {v} guild.",
        ),
    ),
    asks=Wordings(
        train=(
            "Which guild does {s} belong to?",
            "Which guild did {s} join?",
            "Of which guild is {s} a member?",
            "What is the guild of {s}?",
            "To which guild does {s} belong?",
            "Which guild counts {s} among its members?",
        ),
        held_out=(
            "What guild did {s} join?",
            "In which guild does {s} have a place?",
            "Of what guild did {s} become a member?",
        ),
    ),
    point=Wordings(train=("belongs to the {v} guild",), held_out=("has a place in the {v} guild",)),
    gather=Wordings(
        train=(
            "Who belongs to the {v} guild?",
            "Who is a member of the {v} guild?",
            "Who joined the {v} guild?",
            "Which people belong to the {v} guild?",
            "Who are the members of the {v} guild?",
            "Whom does the {v} guild count among its members?",
        ),
        held_out=(
            "Who has a place in the {v} guild?",
            "Which people joined the {v} guild?",
            "What are the names of the members of the {v} guild?",
        ),
    ),
    gathered=Wordings(
        train=("belong to the {v} guild",), held_out=("have a place in the {v} guild",)
    ),
)

BORN = Relation(
    name="born",
    theme="birth",
    subjects=(Sort.PERSON,),
    value=Sort.WORD,
    terse="born",
    words=(
        *("January", "February", "March", "April", "May", "June", "July", "August"),
        *("September", "October", "November", "December"),
    ),
    says=Wordings(
        train=(
            "{s} was born in the month of {v}.",
            "{s} has a birthday early in {v}.",
            "The birthday of {s} is in {v}.",
            "The month in which {s} was born is {v}.",
            "{s} grows one year older every {v}.",
            "In {v} comes the birthday of {s}.",
        ),
        held_out=(
            "{s} came into the world in {v}.",
            "The birthday of {s} comes late in {v}.",
            "The people wish {s} well on a day in {v}.",
        ),
    ),
    asks=Wordings(
        train=(
            "In which month was {s} born?",
            "When was {s} born?",
            "When is the birthday of {s}?",
            "In which month is the birthday of {s}?",
            "What is the month in which {s} was born?",
            "When does {s} have a birthday?",
        ),
        held_out=(
            "In which month did {s} come into the world?",
            "When does the birthday of {s} come?",
            "In what month was {s} born?",
        ),
    ),
    point=Wordings(train=("was born in {v}",), held_out=("came into the world in {v}",)),
)

MET = Relation(
    name="met",
    theme="meeting",
    subjects=(Sort.PERSON,),
    value=Sort.PERSON,
    terse="met",
    says=Wordings(
        train=(
            "{s} met {v} at the last fair.",
            "{s} went to the fair to meet {v}.",
            "{s} was seen at the fair with {v}.",
            "The guest whom {s} met there was {v}.",
            "At the last fair {s} met {v}.",
            "At the fair {s} sat down with {v}.",
        ),
        held_out=(
            "{s} was at the fair to see {v}.",
            "The person that {s} met there is {v}.",
            "{s} spoke with {v} at the fair.",
        ),
    ),
    asks=Wordings(
        train=(
            "Whom did {s} meet?",
            "Whom did {s} meet at the fair?",
            "Who was the guest whom {s} met?",
            "Whom did {s} see at the last fair?",
            "With whom was {s} seen at the fair?",
            "With whom did {s} sit down?",
        ),
        held_out=(
            "Whom did {s} see at the fair?",
            "Which person did {s} meet there?",
            "With whom did {s} speak?",
        ),
    ),
    point=Wordings(train=("met {v}",), held_out=("spoke with {v}",)),
    phrase=Wordings(
        train=("the guest whom {s} met", "the person that {s} met", "the one whom {s} met"),
        held_out=("the person that {s} spoke with", "the person whom {s} saw"),
    ),
)
