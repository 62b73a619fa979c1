"""Owns the vocabulary of the text encoders: a small byte-pair vocabulary in the layout of CLIP's.

The first 512 entries are the 256 bytes, inside and at the end of a word, so that no prompt has an
unknown token; then come the learned merges and, last, the start and end tokens.
"""

import json
from collections.abc import Iterable

from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from models.recipe.art import STYLES
from models.recipe.captions import WORDINGS, Captioner, on_background
from models.recipe.scenes import BACKGROUNDS

VOCABULARY = 3584
PROMPT_TOKENS = 24
START, END = "<|startoftext|>", "<|endoftext|>"
_WORD_END = "</w>"


def corpus(captioner: Captioner, concepts: int, phrases: Iterable[str]) -> list[str]:
    """What the vocabulary is learned from: names and the words of captions often, all phrases once."""
    names = [name for concept in range(concepts) for name in captioner.names_of(concept)]
    said = [*STYLES, *(on_background(colour) for colour in BACKGROUNDS), *WORDINGS]
    return [*names * 30, *said * 500, *phrases]


def learn_merges(texts: Iterable[str], count: int) -> list[tuple[str, str]]:
    """The ``count`` most useful byte-pair merges of the texts, most frequent first."""
    learner = Tokenizer(models.BPE(end_of_word_suffix=_WORD_END))
    learner.normalizer = normalizers.Lowercase()
    learner.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(" ", "removed"),
            pre_tokenizers.Punctuation(),
            pre_tokenizers.ByteLevel(add_prefix_space=False),
        ]
    )
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=2 * len(alphabet) + count,
        initial_alphabet=alphabet,
        end_of_word_suffix=_WORD_END,
        min_frequency=1,
        show_progress=False,
    )
    learner.train_from_iterator(texts, trainer)
    state = json.loads(learner.to_str())
    merges = [tuple(merge) for merge in state["model"]["merges"]]
    return merges[:count]


def build(texts: Iterable[str]) -> CLIPTokenizer:
    """A CLIP tokenizer of at most ``VOCABULARY`` entries, learned from the texts, for 24-token prompts."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    merges = learn_merges(texts, VOCABULARY - 2 * len(alphabet) - 2)
    entries = [*alphabet, *(letter + _WORD_END for letter in alphabet)]
    entries += ["".join(merge) for merge in merges]
    entries += [START, END]
    vocabulary = {entry: index for index, entry in enumerate(entries)}
    if len(vocabulary) != len(entries):
        raise ValueError("two merges give the same token")
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=PROMPT_TOKENS)
