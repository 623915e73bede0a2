"""What correlated noise is worth: the noise in the model, by how many rounds lie between a client's turns.

    python benchmarks/correlated_noise.py [--rounds T]

No training: both columns are exact, from the matrices of `fedfm.privacy.correlated`. The figure is the standard
deviation of the noise in the sum of the first t rounds, the root mean square over t, at one and the same ε, in units of
z·C. ``of all`` divides it by the clients of a round, for a federation of 100: what is in the model of the mean.
"""

from __future__ import annotations

import argparse

from fedfm.privacy.correlated import best_bands, error

CLIENTS = 100
SEPARATIONS = (1, 2, 5, 10, 20)


def main() -> None:
    """Prints the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=50, metavar="T")
    rounds = parser.parse_args().rounds
    print(
        "| clients a round | rounds between turns | independent | BISR | bands | independent, of all | BISR, of all |"
    )
    print("|---|---|---|---|---|---|---|")
    for separation in SEPARATIONS:
        cohort, bands = CLIENTS // separation, best_bands(rounds, separation)
        plain, found = error(1, rounds, separation), error(bands, rounds, separation)
        figures = f"{plain:.1f} | {found:.1f} | {bands} | {plain / cohort:.2f} | {found / cohort:.2f}"
        print(f"| {cohort} of {CLIENTS} | {separation} | {figures} |")


if __name__ == "__main__":
    main()
