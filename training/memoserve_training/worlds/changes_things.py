"""What was so and is so no longer, in words: owners and codes."""

from __future__ import annotations

from memoserve_training.worlds.relations import NAMED_ORDER, Change, Relation, Sort, Wordings

PASSED = Change(
    name="passed",
    first=Relation(
        name="passed_from",
        theme="keeping",
        subjects=(Sort.THING,),
        value=Sort.PERSON,
        terse="was with",
        says=Wordings(
            train=(
                "At first {s} belonged to {v}.",
                "{s} once belonged to {v}.",
                "{s} was with {v} for years.",
                "The first owner of {s} was {v}.",
                "Years ago {v} was the owner of {s}.",
                "For some years {v} had {s}.",
            ),
            held_out=(
                "Long ago {v} had {s} at home.",
                "{s} spent years in the house of {v}.",
                "In the first years {s} was with {v}.",
            ),
        ),
        asks=Wordings(
            train=(
                "Who had {s} before?",
                "To whom did {s} belong at first?",
                "Who was the first owner of {s}?",
                "Who was the owner of {s} years ago?",
                "Who had {s} at first?",
                "With whom was {s} before?",
            ),
            held_out=(
                "Who had {s} long ago?",
                "In whose house did {s} spend years?",
                "Who had {s} in the first years?",
            ),
        ),
        point=Wordings(train=("once belonged to {v}",), held_out=("was with {v} long ago",)),
    ),
    then=Relation(
        name="passed_to",
        theme="keeping",
        subjects=(Sort.THING,),
        value=Sort.PERSON,
        terse="now with",
        says=Wordings(
            train=(
                "Later {s} was sold to {v}.",
                "{s} was then given to {v}.",
                "{s} now belongs to {v}.",
                "The new owner of {s} is {v}.",
                "Since then {v} is the owner of {s}.",
                "Now {v} has {s} at home.",
            ),
            held_out=(
                "In the end {v} got {s}.",
                "These days {s} is with {v}.",
                "{s} found a new owner in {v}.",
            ),
        ),
        asks=Wordings(
            train=(
                "Who has {s} now?",
                "To whom does {s} belong now?",
                "Who is the new owner of {s}?",
                "To whom was {s} given?",
                "To whom was {s} sold?",
                "Who is the owner of {s} now?",
            ),
            held_out=(
                "Who has {s} these days?",
                "Who got {s} in the end?",
                "In whom did {s} find a new owner?",
            ),
        ),
        point=Wordings(train=("now belongs to {v}",), held_out=("is now with {v}",)),
    ),
)

RECODED = Change(
    name="recoded",
    first=Relation(
        name="code_before",
        theme="code",
        subjects=NAMED_ORDER,
        value=Sort.CODE,
        terse="was",
        says=Wordings(
            train=(
                "At first the code of {s} was {v}.",
                "{s} once had the code {v}.",
                "The old code of {s} was {v}.",
                "For some years {s} had the code {v}.",
                "In the old book {s} has the number {v}.",
                "The clerk first wrote {v} for {s}.",
            ),
            held_out=(
                "Long ago {s} had the number {v}.",
                "The first number of {s} was {v}.",
                "The code {v} was the old one of {s}.",
            ),
        ),
        asks=Wordings(
            train=(
                "What was the old code of {s}?",
                "What was the code of {s} at first?",
                "Which code did {s} have before?",
                "What number has {s} in the old book?",
                "What did the clerk first write for {s}?",
                "Which code did {s} once have?",
            ),
            held_out=(
                "What was the first number of {s}?",
                "Which number did {s} have long ago?",
                "What was the code of {s} long ago?",
            ),
        ),
        point=Wordings(train=("once had the code {v}",), held_out=("had the first number {v}",)),
    ),
    then=Relation(
        name="code_now",
        theme="code",
        subjects=NAMED_ORDER,
        value=Sort.CODE,
        terse="now",
        says=Wordings(
            train=(
                "Later the code of {s} became {v}.",
                "{s} now has the code {v}.",
                "The new code of {s} is {v}.",
                "Since then {s} has the code {v}.",
                "In the new book {s} has the number {v}.",
                "The clerk then wrote {v} for {s}.",
            ),
            held_out=(
                "These days {s} has the number {v}.",
                "In the end {s} got the number {v}.",
                "The code {v} is the new one of {s}.",
            ),
        ),
        asks=Wordings(
            train=(
                "What is the new code of {s}?",
                "What is the code of {s} now?",
                "Which code does {s} have now?",
                "What number has {s} in the new book?",
                "What did the clerk then write for {s}?",
                "What did the code of {s} become?",
            ),
            held_out=(
                "What number does {s} have these days?",
                "Which number did {s} get in the end?",
                "What is the new number of {s}?",
            ),
        ),
        point=Wordings(train=("now has the code {v}",), held_out=("got the number {v}",)),
    ),
)
