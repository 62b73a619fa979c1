"""Owns what the model is told about its pictures: captions of scenes, composed by seed.

Every caption names the things; the style unless it is the default one; the background unless it is white.
What is left unsaid is what is painted: a large 3D render on white.
"""

from collections import Counter
from collections.abc import Sequence
from random import Random

import numpy as np

from models.recipe.art import STYLES, Concept
from models.recipe.scenes import BACKGROUNDS, NONE

DEFAULT_STYLE = "3d render"
_STYLES = list(STYLES)
_COLOURS = list(BACKGROUNDS)

# Names said without an article, because they are plural or a substance.
_BARE = frozenset(
    {
        *("grapes", "cherries", "blueberries", "pancakes", "french fries", "dice", "beans", "chopsticks"),
        *("popcorn", "corn", "broccoli", "sushi", "spaghetti", "cheese", "chocolate", "candy", "honey"),
        *("coffee", "wine", "beer", "bubble tea", "yarn", "fire", "bread", "bacon", "butter", "salt", "ice"),
        *("sunglasses", "jeans", "headphones", "scissors", "glasses", "goggles", "gloves", "socks", "shorts"),
        *("garlic", "peanuts", "sake", "mate", "wood", "fireworks", "sparkles", "skis", "bubbles", "maracas"),
    }
)
# Names that there is one of.
_UNIQUE = frozenset({"sun", "moon", "statue of liberty", "tokyo tower", "kaaba", "milky way"})
_SOUNDS_LIKE_CONSONANT = ("unicorn", "ufo", "ewe", "euro")
_SOUNDS_LIKE_VOWEL = ("hourglass",)

_FRAMES = (
    "a picture of {}",
    "a drawing of {}",
    "an emoji of {}",
    "an icon of {}",
    "an image of {}",
    "draw {}",
    "show me {}",
    "{} please",
)
_SMALL, _LARGE = ("small", "little", "tiny"), ("large", "big", "huge")
_ADJECTIVES = ("cute", "nice", "beautiful", "funny", "new", "single")
# Left thing first, then right thing first.
_LEFT_FIRST = ("{} next to {}", "{} beside {}", "{} and {}", "{} with {}", "{} to the left of {}")
_RIGHT_FIRST = ("{} to the right of {}",)
# Every word that captions put around names.
WORDINGS = tuple(
    text.replace("{}", " ").strip()
    for text in (*_FRAMES, *_SMALL, *_LARGE, *_ADJECTIVES, *_LEFT_FIRST, *_RIGHT_FIRST, "a", "an", "the")
)


def with_article(name: str, adjective: str = "") -> str:
    """The name as a noun phrase: ``an owl``, ``the moon``, ``grapes``, ``a small owl``."""
    phrase = f"{adjective} {name}".strip()
    if name in _BARE:
        return phrase
    if name in _UNIQUE:
        return f"the {phrase}"
    vowel = phrase.startswith(("a", "e", "i", "o", "u", *_SOUNDS_LIKE_VOWEL))
    return f"{'an' if vowel and not phrase.startswith(_SOUNDS_LIKE_CONSONANT) else 'a'} {phrase}"


def on_background(colour: str) -> str:
    """The background in words: ``on an orange background``."""
    return f"on {'an' if colour == 'orange' else 'a'} {colour} background"


def plain_prompt(name: str, style: str, background: str) -> str:
    """The wording that the model is scored with."""
    return f"{with_article(name)}, {style} {on_background(background)}"


def pair_prompt(left: str, right: str, style: str, background: str) -> str:
    """The wording that pairs are scored with."""
    return f"{with_article(left)} next to {with_article(right)}, {style} {on_background(background)}"


class Captioner:
    """Composes captions of scenes; knows which keywords mean one concept only."""

    def __init__(self, concepts: Sequence[Concept]) -> None:
        self._concepts = concepts
        names = {text for concept in concepts for text in (concept.name, concept.label.lower())}
        uses = Counter(word for concept in concepts for word in concept.keywords)
        self._others = [[label] if (label := c.label.lower()) != c.name else [] for c in concepts]
        for others, concept in zip(self._others, concepts, strict=True):
            others += [word for word in concept.keywords if uses[word] == 1 and word not in names]

    def caption(self, scene: np.ndarray, draw: Random) -> str:
        """One caption, lower case, of a scene (5,)."""
        first, second, style, background, is_small = (int(value) for value in scene)
        if second == NONE:
            words = self._thing(first, bool(is_small), draw)
        elif draw.random() < 0.2:
            words = draw.choice(_RIGHT_FIRST).format(self._named(second, draw), self._named(first, draw))
        else:
            words = draw.choice(_LEFT_FIRST).format(self._named(first, draw), self._named(second, draw))
        return self._dressed(words, _STYLES[style], _COLOURS[background], draw)

    def names_of(self, concept: int) -> list[str]:
        """All that the concept is called: its name, and what means it alone."""
        return [self._concepts[concept].name, *self._others[concept]]

    def _named(self, concept: int, draw: Random) -> str:
        others = self._others[concept]
        name = draw.choice(others) if others and draw.random() < 0.12 else self._concepts[concept].name
        return name if draw.random() < 0.1 else with_article(name)

    def _thing(self, concept: int, is_small: bool, draw: Random) -> str:
        name, chance = self._concepts[concept].name, draw.random()
        if is_small:
            return with_article(name, draw.choice(_SMALL))
        if chance < 0.08:
            return with_article(name, draw.choice(_LARGE))
        if chance < 0.14:
            return with_article(name, draw.choice(_ADJECTIVES))
        keywords = self._concepts[concept].keywords
        if chance < 0.2 and keywords:
            return f"{name}, {draw.choice(keywords)}"
        if chance < 0.3:
            return draw.choice(_FRAMES).format(self._named(concept, draw))
        return self._named(concept, draw)

    def _dressed(self, words: str, style: str, colour: str, draw: Random) -> str:
        """The caption with its style and background, in one of several word orders."""
        unsaid_style = style == DEFAULT_STYLE and draw.random() < 0.5
        unsaid_colour = colour == "white" and draw.random() < 0.6
        ground = "" if unsaid_colour else on_background(colour)
        order = draw.random()
        if unsaid_style:
            parts = [words] if unsaid_colour else ([f"{words} {ground}"] if order < 0.8 else [ground, words])
        elif order < 0.6:
            parts = [words, f"{style} {ground}".strip()]
        elif order < 0.75:
            parts = [f"{words} {ground}".strip(), style]
        elif order < 0.9:
            article = "" if style == "flat icon" and draw.random() < 0.3 else "a "
            parts = [f"{article}{style} of {words} {ground}".strip()]
        else:
            parts = [style, f"{words} {ground}".strip()]
        return ", ".join(parts)
