"""Membership inference: can one tell from the loss whether the model was trained on an example?

The loss attack (Yeom et al., arXiv:1709.01604) scores an example by −loss of the delivered model. The reference attack
scores it by what the run has lowered its loss by; the reference is the model before round 1, which is known to everyone
(difficulty calibration, Watson et al., arXiv:2111.08440). Rates at few false positives say what an attacker can be sure
of (Carlini et al., arXiv:2112.03570, §2). LiRA's shadow models would need many runs on other splits of the same data.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fedfm.audit.base import Audit, Audited, AuditedLosses, NotMeasuredError
from fedfm.audit.figures import CONFIDENCE, area, area_with_interval, true_positives
from fedfm.randomness import numpy_generator

LEAST = 10
"""Members, and others, below which no figure means anything."""
RATES = {"1%": 0.01, "0.1%": 0.001}


class Membership(Audit):
    """Loss attack and reference attack, on all examples and on those of each client."""

    def measure(self, run: Audited) -> dict[str, Any]:
        """``loss`` and ``reference`` (``auc``, ``interval``, ``true_positives``), and ``clients``."""
        members, others = run.members, run.others
        if min(len(members), len(others)) < LEAST:
            raise NotMeasuredError(
                f"{len(members)} members and {len(others)} other examples are too few: {LEAST} of each are needed"
            )
        attacks = {"loss": (-members.final, -others.final), "reference": (members.fall, others.fall)}
        found: dict[str, Any] = {"members": len(members), "others": len(others)}
        for name, (inside, outside) in attacks.items():
            found[name] = {
                **area_with_interval(inside, outside, numpy_generator(run.seed, f"audit {name}")),
                "true_positives": {text: true_positives(inside, outside, rate) for text, rate in RATES.items()},
            }
        return found | {"clients": _clients(members, others, run.seed)}


def _clients(members: AuditedLosses, others: AuditedLosses, seed: int) -> dict[str, Any] | None:
    """The reference attack on each client's members; on what it held out, where that suffices, else on all others."""
    by_client: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for client in sorted(set(members.clients.tolist())):
        inside, outside = members.at(members.clients == client), others.at(others.clients == client)
        if len(inside) >= LEAST:
            by_client[client] = inside.fall, (outside if len(outside) >= LEAST else others).fall
    if not by_client:
        return None
    areas = {client: float(area(*scores)) for client, scores in by_client.items()}
    worst = max(areas, key=lambda client: areas[client])
    confidence = 1 - (1 - CONFIDENCE) / len(areas)  # the worst of many is high by chance
    generator = numpy_generator(seed, "audit worst client", client=worst)
    return {
        "measured": len(areas),
        "mean_auc": float(np.mean(list(areas.values()))),
        "worst": {
            "client": worst,
            "members": len(by_client[worst][0]),
            **area_with_interval(*by_client[worst], generator, confidence),
        },
        "auc": areas,
    }
