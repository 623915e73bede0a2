"""The synthetic texts of a run, and what they are worth: ``synthetic.jsonl`` and ``synthetic.json``.

The scores use the test set and, where clients are simulated, their training examples. They are measurements of an
experiment, outside of any promise of privacy.
"""

from __future__ import annotations

import numpy as np
import torch

from fedfm.clients.readout import features_of, readout_of
from fedfm.randomness import numpy_generator
from fedfm.records import jsonl
from fedfm.records.folder import RunFolder
from fedfm.server.experiment.build import Experiment
from fedfm.server.rounds.state import RunState
from fedfm.synthetic.scores import distinct, kernel_distance, nearer_to_first

MOST = 2000
"""Examples of each split with which texts are compared, at most, drawn at random."""

REAL = "real examples"
"""The row of a head that is trained on the clients' own examples, as many as are compared."""

RIDGE = 1e-3


def write_synthetic(folder: RunFolder, experiment: Experiment, state: RunState) -> None:
    """Writes the texts that a protocol delivers, if it does, and the scores of each of its sets.

    Args:
        folder: the run's folder.
        experiment: the run; its tunable is overwritten.
        state: after the run.

    Raises:
        StorageError: a file cannot be written.
    """
    sets = experiment.recipe.protocol.synthetic(state.protocol)
    if not sets:
        return
    data, labels = experiment.recipe.data, experiment.evaluator.labels
    delivered = next(iter(sets.values()))
    rows = [{data.text[0]: text, data.label: labels[label]} for text, label in delivered.rows]
    folder.write_text(folder.synthetic, "".join(jsonl.dumps(row) + "\n" for row in rows))
    evaluator, student = experiment.evaluator, experiment.student
    test = _some(experiment, "test", len(experiment.data.test))
    real = features_of(evaluator, experiment.data.test, test)
    own, answers = _training(experiment)
    scores: dict[str, dict[str, float | None]] = {}
    for name, found in sets.items():
        texts = [text for text, _ in found.rows]
        features = features_of(evaluator, student.encode([texts]))
        experiment.plug_in(found.params)
        size = min(len(real), len(own))
        scores[name] = {
            **evaluator(experiment.data.test),
            "kernel_distance": kernel_distance(features, real) if len(texts) > 1 and len(real) > 1 else None,
            "distinct_1": distinct(texts, 1),
            "distinct_2": distinct(texts, 2),
            "nearer_to_train": nearer_to_first(features, own[:size], real[:size]) if size else None,
        }
    if len(own):
        start = experiment.start
        fitted = readout_of(experiment.tunable).fitted(start, torch.from_numpy(own), torch.from_numpy(answers), RIDGE)
        experiment.plug_in(fitted)
        scores[REAL] = {**evaluator(experiment.data.test)}
    content = {"metric": evaluator.metrics[0], "texts": len(delivered.rows), "sets": scores}
    folder.write_json(folder.synthetic_scores, content)


def _training(experiment: Experiment) -> tuple[np.ndarray, np.ndarray]:
    """Features and classes of some of the simulated clients' training examples; of none at sites."""
    training = experiment.data.training
    if training is None or training.train.labels is None:
        return np.empty((0, 0), dtype=np.float32), np.empty(0, dtype=np.int64)
    held = np.sort(np.concatenate(list(training.federation.train.values())))
    chosen = held[_some(experiment, "train", len(held))]
    return features_of(experiment.evaluator, training.train, chosen), training.train.labels[chosen]


def _some(experiment: Experiment, split: str, count: int) -> np.ndarray:
    """Places of `MOST` examples of a split in random order."""
    rng = numpy_generator(experiment.recipe.seed, f"synthetic scores, {split}")
    return rng.permutation(count)[:MOST]
