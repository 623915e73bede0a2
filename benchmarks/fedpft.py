"""FedPFT against FedOT and no proxy: the paper's Tables 1 to 3 (arXiv:2404.11536), chosen on validation data.

    python benchmarks/fedpft.py --data FOLDER|hf [--seeds N] [--sets SET …] [--budget-minutes N]
    python benchmarks/fedpft.py --earlier

MiniLM on five text sets (100 clients, 10 a round, one local epoch in batches of 4, 4,000 training examples of 32 to 64
tokens, 800 test examples), and a small ViT on three image sets (20 clients, 5 a round, 1,000 images). Rates, rounds,
FedOT's form and, with strong compression, plug-in distillation are chosen on validation data with a seed of their own,
then frozen: `fedpft_choices.py` describes how. The test set is read only by runs whose settings are chosen. A seed
decides the proxy too, so no proxy serves two seeds. `fedpft_data.py` describes the formats of the folder, and names the
data sets of the hub that `--data hf` takes in its place.

Runs are made breadth first and kept at once: stopped at any time, it goes on where it was, and the tables show what is
missing. Several processes may measure at once, best as many as there are cores, with OMP_NUM_THREADS=1.
`--budget-minutes 0` prints the tables without any run; `--rounds 2 --train 200` is a small measurement with its own
results. `--earlier` prints all results of the earlier protocol, which chose on the test sets.
"""

from __future__ import annotations

import time

from fedpft_choices import pending
from fedpft_data import HUB, SETS
from fedpft_earlier import earlier_tables
from fedpft_runner import argument_parser, make_runs, measurements, read_arguments, scale_of
from fedpft_tables import TABLES, cells_of, everything, limited
from ledger import kept, measured_on

NAME = "fedpft"


def main() -> None:
    """Makes the runs that are missing, for as long as it may, then prints the tables."""
    parser = argument_parser(__doc__)
    parser.add_argument("--earlier", action="store_true", help="print the results of the earlier protocol only")
    options = parser.parse_args()
    if options.earlier:
        print("\n".join(earlier_tables()))
        return
    options = read_arguments(parser)
    try:
        tables = limited(TABLES, options.seeds, options.sets)
    except ValueError as error:
        parser.error(str(error))
    absent = [name for table in tables for name in table.subject.sets if SETS[name].hub is None]
    if options.data == HUB and absent:
        parser.error(f"{absent[0]} has no name on the hub that is known here; leave it out (--sets)")
    scale, cells = scale_of(options), list(cells_of(tables))
    make_runs(
        NAME,
        lambda: pending(measurements(NAME, tables, scale).protocols, cells),
        options.data,
        time.monotonic() + 60 * options.budget_minutes,
    )
    found = measurements(NAME, tables, scale)
    print("\n".join(everything(found, tables)))
    made, left = len(cells) - len(found.missing(cells)), len(list(pending(found.protocols, cells)))
    print(f"{made} of {len(cells)} runs of the tables measured; {left} runs can be made now", end="")
    print(f"; measured on {measured_on(NAME)}" if kept(NAME) else "")


if __name__ == "__main__":
    main()
