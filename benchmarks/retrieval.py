"""How close silos come to one index, by the chunks that each returns: `python benchmarks/retrieval.py RUN`.

RUN is the folder of a run of `retrieval` with pairs that clients hold out, such as that of

    fedfm run pydoc-rag federation.holdout=0.2

Asked are held-out questions, whose passages are in the silos. Printed are, for each number of chunks a client returns:
recall@10 of the right passage, the share of the ten best chunks of one index that are found, and what a question costs.
"""

from __future__ import annotations

import argparse

from fedfm import Run, ask, build_experiment

MOST = 10
EACH = (MOST, 5, 3, 1)
"""Chunks that each client returns; as many as are listed give the list of one index."""


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
    print("chunks a client | recall@10 | of one index's ten | texts a question | kB up a question | kB down in all")
    best: list[set[tuple[str, int | None]]] = []
    for each in EACH:
        answered = ask(
            run.path,
            [question for _, question, _ in pairs],
            [f"ask.per_client={each}", "ask.answer=snippets"],
            most=MOST,
        )
        right = [
            any(found.client == client and found.text and found.text in passage for found in answer.passages)
            for answer, (client, _, passage) in zip(answered, pairs, strict=True)
        ]
        listed = [{(found.client, found.chunk) for found in answer.passages} for answer in answered]
        best = best or listed
        shared = [len(one & other) / MOST for one, other in zip(listed, best, strict=True)]
        texts, up = answered[0].snippets, answered[0].bytes["up"] / 1000
        down = sum(answer.bytes["down"] for answer in answered) / 1000
        shares = f"{sum(right) / len(right):9.3f} | {sum(shared) / len(shared):18.3f}"
        print(f"{each:15} | {shares} | {texts:16} | {up:16.1f} | {down:14.0f}", flush=True)


if __name__ == "__main__":
    main()
