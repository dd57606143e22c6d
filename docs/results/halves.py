"""Barrier between the first and the second half of each chain of the study `matched.yaml`.

    rebasin study docs/results/matched.yaml --store STORE
    python docs/results/halves.py --store STORE

The chains are read from the store of the study.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import rebasin_core as rc
from rebasin_core.studies.results import read_posteriors

STUDY = Path(__file__).with_name("matched.yaml")


def between_halves(chain: rc.posteriors.SamplesPosterior, task: rc.Task) -> float:
    """Return the barrier between the first and the second half of a chain."""
    half = chain.num_samples // 2
    parts = [
        rc.posteriors.SamplesPosterior({name: tensor[rows] for name, tensor in chain.samples.items()})
        for rows in (slice(half), slice(half, None))
    ]
    return rc.barrier(*parts, task).height


def main() -> None:
    """Print one line per chain."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--store", required=True)
    arguments = parser.parse_args()
    study = rc.Study(rc.load_study(STUDY), arguments.store, only=["*SGHMC*"])
    for found in read_posteriors(study):
        data = found.cell.config.data.load()
        model = found.cell.config.architecture.build(data.input_shape, data.target.output_size)
        height = between_halves(found.posterior, rc.Task(model, data.test.batches(500)))
        print(f"{found.cell.label}, seed {found.member}: {height:.3f}")


if __name__ == "__main__":
    main()
