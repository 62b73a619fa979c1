"""Owns what the model is told about its pictures: many short captions of each taught thing."""

from collections.abc import Sequence

from models.recipe.art import Thing

# Names said without an article, because they are plural or a substance.
_BARE = frozenset(
    {
        *("grapes", "cherries", "blueberries", "pancakes", "french fries", "dice"),
        *("popcorn", "corn", "broccoli", "sushi", "spaghetti", "cheese", "chocolate", "candy", "honey"),
        *("coffee", "wine", "beer", "bubble tea", "yarn", "fire"),
        *("sunglasses", "jeans", "headphones", "scissors"),
    }
)
# Names that there is one of.
_UNIQUE = frozenset({"sun", "moon"})
_SOUNDS_LIKE_CONSONANT = ("unicorn", "ufo")
_SOUNDS_LIKE_VOWEL = ("hourglass",)

_FRAMES = (
    "a picture of {}",
    "a drawing of {}",
    "an emoji of {}",
    "an icon of {}",
    "an image of {}",
    "a photo of {}",
    "a painting of {}",
    "draw {}",
    "show me {}",
    "this is {}",
    "{} on a white background",
    "{} please",
)
_ADJECTIVES = ("small", "big", "cute", "nice", "little", "beautiful", "funny", "new")


def with_article(name: str, adjective: str = "") -> str:
    """The name as a noun phrase: ``an owl``, ``the moon``, ``grapes``, ``a small owl``."""
    phrase = f"{adjective} {name}".strip()
    if name in _BARE:
        return phrase
    if name in _UNIQUE:
        return f"the {phrase}"
    vowel = phrase.startswith(("a", "e", "i", "o", "u", *_SOUNDS_LIKE_VOWEL))
    return f"{'an' if vowel and not phrase.startswith(_SOUNDS_LIKE_CONSONANT) else 'a'} {phrase}"


def captions_of(thing: Thing, taken: frozenset[str]) -> list[str]:
    """All captions of one taught thing, lower case; repeats weigh the commonest forms.

    Words in ``taken`` are names of other things and are not used as keywords of this one.
    """
    if thing.name is None:
        raise ValueError(f"{thing.label} has no taught name")
    name, noun = thing.name, with_article(thing.name)
    label = thing.label.lower()
    captions = [name] * 8 + [noun] * 8 + [f"{name} emoji"] * 2
    captions += [frame.format(noun) for frame in _FRAMES]
    captions += [with_article(name, adjective) for adjective in _ADJECTIVES]
    captions += [f"the {name}", f"one {name}", f"my {name}", f"a picture of one {name}"]
    if label != name:
        captions += [label, f"a picture of {with_article(label)}"]
    keywords = [word.lower() for word in thing.keywords if word.lower() not in taken | {name, label}]
    captions += [f"{name}, {word}" for word in keywords[:6]]
    return captions


def all_captions(things: Sequence[Thing]) -> list[list[str]]:
    """The captions of every taught thing, in order."""
    taken = frozenset(thing.name for thing in things if thing.name is not None)
    return [captions_of(thing, taken) for thing in things if thing.name is not None]
