"""What a site says of its classes: their counts under randomised response, drawn once and then said again.

A second draw from the same examples would spend ε again, and many would average the noise away. So the answers are kept
in the site's folder; for other data, other classes or another ε, none are drawn while they are there.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from fedfm.errors import StorageError
from fedfm.privacy.randomized_response import responded
from fedfm.records.disk import replace_text

FILE = "label-counts.json"


def label_answers(folder: Path, counts: Mapping[str, int], data: str, epsilon: float) -> list[int] | None:
    """The answers of a site's examples, by class; None where answers about something else were drawn before.

    Args:
        folder: of the site.
        counts: class → number of examples.
        data: digest of the site's data.
        epsilon: ε of each example.

    Raises:
        StorageError: the answers cannot be kept, or what was kept is damaged; none leave.
    """
    file, about = folder / FILE, {"data": data, "classes": list(counts), "epsilon": epsilon}
    if not file.exists():
        replace_text(file, json.dumps({"about": about, "answers": responded(list(counts.values()), epsilon)}) + "\n")
    try:
        kept = json.loads(file.read_text(encoding="utf-8"))
        answers = [int(number) for number in kept["answers"]]
        return answers if kept["about"] == about else None
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise StorageError(f"{file} is damaged: what was said of the classes is not known") from error
