"""How close silos come to one index, by the chunks that each returns and the further exchanges:
`python benchmarks/retrieval.py RUN`.

RUN is the folder of a run of `retrieval` with pairs that clients hold out, such as that of

    fedfm run pydoc-rag federation.holdout=0.2

Asked are held-out questions, whose passages are in the silos. Printed are, for each number of chunks that a client
returns in an exchange, and each number of further exchanges: recall@10 of the right passage, the share of the ten best
chunks of one index that are found, the share of the lists that say they are complete, and what a question costs.
"""

from __future__ import annotations

import argparse
from statistics import mean

from fedfm import Run, ask, build_experiment

MOST = 10
ASKED = ((MOST, 0), (5, 0), (5, 1), (3, 0), (3, 1), (3, 3), (1, 0), (1, 3), (1, 9))
"""Chunks that each client returns in an exchange, and further exchanges. The first gives the list of one index, as does
each whose chunks of all exchanges are as many as are listed."""

COLUMNS = (
    "chunks",
    "further",
    "recall@10",
    "of one index's ten",
    "complete",
    "exchanges a question",
    "texts a question",
    "kB up a question",
    "kB down in all",
)


def held_out(run: Run) -> list[tuple[str, str, str]]:
    """Client, question and passage of each pair that clients keep from training."""
    training = build_experiment(run.recipe).data.training
    if training is None:
        raise SystemExit("the clients of this run are not simulated")
    columns = [training.source.table[name] for name in run.recipe.data.text]
    sets = training.federation.holdout.items()
    return [(client, columns[0][row], columns[1][row]) for client, rows in sets for row in rows]


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", metavar="RUN", help="folder of a run of `retrieval`, with federation.holdout")
    parser.add_argument("--questions", type=int, default=300, help="how many are asked, at most")
    options = parser.parse_args()
    run = Run(options.run)
    pairs = held_out(run)
    pairs = pairs[:: max(1, len(pairs) // options.questions)]
    if not pairs:
        raise SystemExit("the clients of this run hold nothing out: set federation.holdout")
    print(f"{len(pairs)} held-out questions, {run.recipe.federation.clients} clients")
    print(" | ".join(COLUMNS))
    best: list[set[tuple[str, int | None]]] = []
    for each, further in ASKED:
        answered = ask(
            run.path,
            [question for _, question, _ in pairs],
            [f"ask.per_client={each}", f"ask.further={further}", "ask.answer=snippets"],
            most=MOST,
        )
        right = [
            any(found.client == client and found.text and found.text in passage for found in answer.passages)
            for answer, (client, _, passage) in zip(answered, pairs, strict=True)
        ]
        listed = [{(found.client, found.chunk) for found in answer.passages} for answer in answered]
        best = best or listed
        shared = [len(one & other) / MOST for one, other in zip(listed, best, strict=True)]
        figures = (
            f"{each}",
            f"{further}",
            f"{mean(right):.3f}",
            f"{mean(shared):.3f}",
            f"{mean(answer.complete for answer in answered):.3f}",
            f"{mean(answer.exchanges for answer in answered):.2f}",
            f"{mean(answer.snippets for answer in answered):.1f}",
            f"{answered[0].bytes['up'] / 1000:.1f}",
            f"{sum(answer.bytes['down'] for answer in answered) / 1000:.0f}",
        )
        print(" | ".join(text.rjust(len(name)) for text, name in zip(figures, COLUMNS, strict=True)), flush=True)


if __name__ == "__main__":
    main()
