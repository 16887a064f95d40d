"""Sentences about nothing in particular: patterns and the words that fill their slots.

No pattern says anything of a person, place or thing that has a name; those of one split do not
occur in the other.
"""

from __future__ import annotations

WORDS: dict[str, tuple[str, ...]] = {
    "time": (
        *("in the morning", "in the evening", "at noon", "at night", "before sunrise"),
        *("after sunset", "in early spring", "in late summer", "in autumn", "in winter"),
        *("on market day", "late in the week", "on warm days", "after dinner"),
        *("before the storm", "during the harvest", "most of the day", "for many hours"),
        *("until midnight", "before breakfast", "all afternoon", "on a holiday"),
    ),
    "weather": (
        *("rain", "snow", "wind", "fog", "hail", "mist", "frost", "sunshine", "thunder", "heat"),
        *("dust", "smoke", "lightning", "drizzle"),
    ),
    "fell": ("came", "moved", "spread", "went", "drifted", "passed", "lay", "hung"),
    "over": ("over", "across", "along", "around", "above", "beyond"),
    "adj": (
        *("old", "quiet", "narrow", "wide", "green", "dusty", "broken", "empty", "long", "steep"),
        *("low", "cold", "warm", "dark", "bright", "busy", "small", "large", "wet", "dry"),
        *("muddy", "crooked", "lonely", "shady", "slippery", "crowded"),
    ),
    "ground": (
        *("road", "bridge", "field", "hill", "river", "forest", "valley", "square", "street"),
        *("garden", "harbor", "meadow", "path", "lake", "shore", "roof", "wall", "gate"),
        *("cliff", "orchard", "swamp", "island", "pond", "courtyard"),
    ),
    "people": (
        *("merchants", "children", "travelers", "workers", "neighbors", "women", "men"),
        *("guests", "students", "drivers", "shepherds", "fishermen", "carpenters", "soldiers"),
        *("pilgrims", "peddlers", "servants", "musicians", "cousins", "strangers"),
    ),
    "did": (
        *("talked about", "waited for", "asked for", "dreamed of", "laughed about"),
        *("looked for", "argued about", "paid for", "heard about", "thought of"),
        *("spoke of", "took", "brought", "needed"),
    ),
    "goods": (
        *("bread", "cheese", "apples", "wool", "salt", "fish", "honey", "wood", "grain", "eggs"),
        *("pears", "onions", "butter", "candles", "baskets", "ropes", "nails", "soap", "beans"),
        *("carrots", "blankets", "barrels", "bricks", "pepper", "nuts", "shoes"),
    ),
    "where": (
        *("near the fountain", "behind the mill", "at the crossroads", "under the trees"),
        *("beside the well", "by the fire", "on the stairs", "in the kitchen", "at the tavern"),
        *("along the canal", "behind the stable", "not far away", "in those places"),
        *("under the arch", "near the tower", "in the cellar"),
    ),
    "animal": (
        *("horses", "dogs", "cats", "geese", "goats", "sheep", "cows", "crows", "chickens"),
        *("pigeons", "donkeys", "ducks"),
    ),
    "act": (
        *("slept", "rested", "waited", "wandered", "gathered", "stood", "played", "walked"),
        *("stayed", "sat"),
    ),
    "how": ("slowly", "quietly", "calmly", "without hurry", "as usual", "once more", "for a while"),
    "meal": ("soup", "stew", "porridge", "pie", "roast", "cake", "salad", "broth", "pancakes"),
    "price": ("high", "fair", "low", "too high", "the same", "very low", "not bad"),
    "craft": ("mended", "cleaned", "painted", "measured", "closed", "opened", "repaired", "built"),
    "part": (
        *("door", "window", "fence", "barn", "ladder", "chimney", "oven", "cart", "pump", "bench"),
        *("shelf", "floor", "ceiling", "balcony"),
    ),
}

TRAIN = (
    "The {weather} {fell} {over} the {adj} {ground} {time}.",
    "{people} {did} {goods} {where} {time}.",
    "The {people} carried {goods} {over} the {adj} {ground} {time}.",
    "The {animal} {act} {how} {where} {time}.",
    "The price of {goods} was {price} {time}.",
    "There was {meal} with {goods} for all the {people} {time}.",
    "Some {people} {craft} the {adj} {part} {time}.",
    "The {adj} {ground} was full of {people} {time}.",
    "Nobody sold {goods} or {goods} {where} {time}.",
    "A few {people} {act} {how} near the {adj} {ground}.",
    "They cooked {meal} {where} and ate it {time}.",
    "The {ground} beyond the {ground} was {adj} and {adj} {time}.",
    "{animal} and {animal} {act} {over} the {adj} {ground}.",
    "Two carts with {goods} and {goods} stopped {where}.",
    "Those {people} got tired and took their {goods} home {time}.",
    "Whoever takes the {adj} {ground} goes home {how} in the end.",
    "The {people} earned some money and spent it on {goods} {time}.",
    "Nobody saw the {animal} that lay {where} {time}.",
    "These {people} never {craft} the {part} {where}.",
    "They say that the {adj} {part} was locked {time}.",
    "It was {adj} and {adj} {over} the {ground} {time}.",
    "The {people} find no place to build their {part} {time}.",
    "The {people} take {goods} and speak of the names of {animal}.",
    "The {people} gave lessons {where} {time}.",
    "Whoever waits must hear where the {adj} {ground} begins {time}.",
    "Nobody says until when the {people} kept the {animal} {where}.",
    "It shows that the world must need {goods} and {goods} {time}.",
)

HELD_OUT = (
    "{time} the {adj} {ground} lay under {weather} and {weather}.",
    "{time} the {people} sold {goods} and {goods} {where}.",
    "Many {animal} {act} {how} on the {adj} {ground}.",
    "The {people} ate {meal} and {meal} {where} {time}.",
    "All the {goods} and the {goods} came by the {adj} {ground}.",
    "The {people} and the {people} {did} the {weather} {time}.",
    "{time} the price of {goods} and {goods} was {price}.",
    "{where} the {people} {act} {how} {time}.",
    "{weather} and {weather} {fell} {over} the {ground} {time}.",
    "The {adj} {part} was {craft} by {people} {time}.",
    "With {goods} and {goods} the {people} {act} {where}.",
    "A {adj} {part} and a {adj} {part} stood {where}.",
    "{how} the {animal} and the {people} left the {ground}.",
    "Not many {people} {did} the {adj} {part} {time}.",
)

CHAT: dict[str, tuple[str, ...]] = {
    "train": (
        "Good evening to all of you, my friends.",
        "Tell me what you think about it.",
        "I am glad that you came to see me.",
        "Come in and sit down by the fire.",
        "That is good to know, thank you.",
        "I will not forget what you said.",
        "Please tell us more about that.",
        "We have not talked for a long time.",
    ),
    "held_out": (
        "It is good to see all of you here.",
        "Sit down and tell me more, my friends.",
        "Thank you, I will think about that.",
        "You know that I am glad to hear it.",
    ),
}
