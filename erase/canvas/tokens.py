"""The canvas tokenizer: a compact byte-level BPE in CLIP's format, learned from the captions."""

import json

import numpy as np
import torch
from tokenizers import Tokenizer, pre_tokenizers, trainers
from transformers import CLIPTokenizer

from erase.canvas.captions import held_out_rows, sample, singular
from erase.canvas.world import OBJECT_NAMES, OBJECTS, STYLE_NAMES, STYLES


VOCABULARY = 1024  # 256 bytes, the same 256 at a word's end, merges, and the two special tokens
LENGTH = 77


def train_tokenizer(seed: int = 0) -> CLIPTokenizer:
    """Learn the merges from sampled captions; the end token has the largest id, as CLIP's pooling expects."""
    rng = np.random.default_rng(seed)
    corpus = [row["prompt"] for row in held_out_rows()]
    for _ in range(20_000):
        style, first = int(rng.integers(len(STYLE_NAMES))), int(rng.integers(len(OBJECT_NAMES)))
        corpus.append(sample(style, first, -1, rng).text)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    symbols = alphabet + [f"{letter}</w>" for letter in alphabet]
    specials = ["<|startoftext|>", "<|endoftext|>"]
    blank = CLIPTokenizer(vocab={symbol: index for index, symbol in enumerate(symbols + specials)}, merges=[])
    learner = Tokenizer.from_str(blank.backend_tokenizer.to_str())
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(specials),
        initial_alphabet=symbols[:256],
        end_of_word_suffix="</w>",
        show_progress=False,
    )
    learner.train_from_iterator(corpus, trainer)
    known = set(symbols)
    merges: list[tuple[str, str]] = []
    merged: list[str] = []
    for pair in learned_merges(learner):
        token = "".join(pair)
        if token not in known and len(symbols) + len(merged) < VOCABULARY - len(specials):
            known.add(token)
            merges.append(pair)
            merged.append(token)
    vocabulary = {symbol: index for index, symbol in enumerate(symbols + merged + specials)}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=LENGTH)


def learned_merges(tokenizer: Tokenizer) -> list[tuple[str, str]]:
    """The merge rules of a trained BPE in their order."""
    return [tuple(pair) for pair in json.loads(tokenizer.to_str())["model"]["merges"]]


def token_ids(tokenizer: CLIPTokenizer, texts: list[str], *, pad: bool) -> torch.Tensor:
    """Tokenise to (B, 77), or to the longest of the batch without ``pad``."""
    padding = "max_length" if pad else "longest"
    return tokenizer(texts, padding=padding, truncation=True, max_length=LENGTH, return_tensors="pt").input_ids


def noise_tokens(tokenizer: CLIPTokenizer) -> torch.Tensor:
    """Ids of tokens in no concept's words: put into captions, so that every token of the vocabulary is seen."""
    taken = set(tokenizer.all_special_ids)
    for name, words in (*STYLES.items(), *OBJECTS.items()):
        for text in (words.name, singular(name), words.alias, words.description, *words.translations):
            taken.update(tokenizer(text).input_ids)
    return torch.tensor([index for index in range(len(tokenizer)) if index not in taken])


def add_noise_tokens(ids: torch.Tensor, pool: torch.Tensor, share: float, generator: torch.Generator) -> torch.Tensor:
    """Insert one to four random tokens into a share of the captions, (B, L) to (B, L + 4)."""
    end = int(ids.max())
    result = torch.full((len(ids), ids.shape[1] + 4), end)
    for row, caption in enumerate(ids):
        length = int((caption == end).nonzero()[0])
        words = caption[1:length]
        if torch.rand((), generator=generator) < share:
            count = int(torch.randint(1, 5, (), generator=generator))
            extra = pool[torch.randint(len(pool), (count,), generator=generator)]
            front = torch.rand((), generator=generator) < 0.5
            words = torch.cat([extra, words] if front else [words, extra])
        words = words[: LENGTH - 2]
        result[row, 0] = caption[0]
        result[row, 1 : 1 + len(words)] = words
    return result[:, :LENGTH]
