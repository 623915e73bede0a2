"""Reads the results of a run with transformers and peft, without fedfm."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from peft import PeftModel
from transformers import AutoModelForSequenceClassification, AutoTokenizer


def print_accuracy(folder: Path, test: Path, base: str | None) -> None:
    """Prints the accuracy on rows of text and label of a model, or of an adapter where a base is given."""
    if base is None:
        model = AutoModelForSequenceClassification.from_pretrained(folder)
    else:
        plain = AutoModelForSequenceClassification.from_pretrained(base, num_labels=2)
        model = PeftModel.from_pretrained(plain, folder)
    model.eval()
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = [json.loads(line) for line in test.read_text().splitlines()]
    right = 0
    with torch.inference_mode():
        for row in rows:
            inputs = tokenizer(row["text"], truncation=True, max_length=32, return_tensors="pt")
            right += model(**inputs).logits.argmax(-1).item() == int(row["label"])
    print(json.dumps(right / len(rows)))


if __name__ == "__main__":
    print_accuracy(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3])
    assert "fedfm" not in sys.modules
