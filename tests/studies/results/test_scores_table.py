"""Mean scores of posteriors: means and errors are those of numpy over the replicates."""

from __future__ import annotations

import math

import numpy as np
import pytest

from rebasin_core.errors import UnknownNameError
from rebasin_core.studies.results import Results, ScoresRow
from rebasin_core.studies.results.row import Scalar


def scored(
    member: str, value: float, *, train_seconds: float = 2.0, split: str = "test", **factors: Scalar
) -> ScoresRow:
    scores = {"nll": value, "nll_stderr": 0.1, "rmse": 2 * value}
    return ScoresRow(factors=factors, member=member, split=split, scores=scores, train_seconds=train_seconds)


def results(*rows: ScoresRow) -> Results:
    return Results((), tuple(rows[0].factors), rows)


def test_with_one_posterior_per_cell_the_error_is_over_the_cells() -> None:
    values = {("map", 0): 0.5, ("map", 1): 0.7, ("map", 2): 1.2, ("swag", 0): 0.4, ("swag", 1): 0.4, ("swag", 2): 0.1}
    rows = [scored("1", nll, method=method, fold=fold) for (method, fold), nll in values.items()]
    table = results(*rows).scores_by("method")
    assert [dict(group.keys) for group in table.groups] == [
        {"method": "map", "split": "test"},
        {"method": "swag", "split": "test"},
    ]
    for group in table.groups:
        nll = np.array([value for (method, _), value in values.items() if method == group.keys["method"]])
        assert group.means["nll"].mean == pytest.approx(nll.mean())
        assert group.means["nll"].stderr == pytest.approx(nll.std(ddof=1) / math.sqrt(3))
        assert group.means["rmse"].stderr == pytest.approx(2 * nll.std(ddof=1) / math.sqrt(3))
        assert (group.num_cells, group.num_posteriors, group.means["nll"].num_values) == (3, 1, 3)
        assert group.means["train_seconds"].mean == 2.0


def test_with_several_posteriors_the_error_is_over_their_means_over_the_cells() -> None:
    values = np.random.default_rng(0).normal(size=(2, 3))
    rows = [scored(str(seed), values[cell, seed], width=cell) for cell in range(2) for seed in range(3)]
    (group,) = results(*rows).scores_by("split").groups
    assert group.means["nll"].mean == pytest.approx(values.mean())
    assert group.means["nll"].stderr == pytest.approx(values.mean(0).std(ddof=1) / math.sqrt(3))
    # Without a name, rows are grouped by all factors.
    assert len(results(*rows).scores_by().groups) == 2
    assert len(results(*rows).scores_by("member", "width").groups) == 6


def test_splits_are_never_averaged() -> None:
    table = results(scored("1", 0.5, width=1), scored("1", 0.7, width=1, split="train")).scores_by("width")
    assert [(group.keys["split"], group.means["nll"].mean) for group in table.groups] == [("test", 0.5), ("train", 0.7)]


def test_incomplete_groups_and_single_values_have_no_error_and_unknown_scores_no_mean() -> None:
    rows = [scored("1", 0.5, width=1), scored("2", 0.7, width=1), scored("1", 0.9, width=2, train_seconds=math.nan)]
    (group,) = results(*rows).scores_by("split").groups
    assert group.means["nll"].mean == pytest.approx(0.7)
    assert math.isnan(group.means["nll"].stderr)
    assert "train_seconds" not in group.means
    assert math.isnan(results(*rows).scores_by("member", "width").groups[0].means["nll"].stderr)


def test_columns_and_text() -> None:
    rows = [scored(seed, 0.5 + 0.2 * int(seed), nll=level) for seed in ("0", "1") for level in ("a", "b")]
    table = results(*rows).scores_by("nll")
    columns = table.columns()
    assert columns["nll"] == ["a", "b"]
    assert columns["nll_score"] == pytest.approx([0.6, 0.6])
    assert columns["rmse_mean_stderr"] == pytest.approx([0.2, 0.2])
    assert (columns["num_cells"], columns["num_posteriors"]) == ([1, 1], [2, 2])
    text = table.text()
    assert text.startswith("split: test")
    assert "0.6000 ± 0.1000" in text
    assert "1.2000 ± 0.2000" in text
    assert "standard error over posteriors, or over cells" in text
    assert max(map(len, table.text(width=40).splitlines()[2:-2])) <= 40
    assert Results(()).scores_by().text() == "There are no results yet."


def test_names_of_pairs_do_not_group_scores() -> None:
    found = results(scored("1", 0.5, width=1))
    for name in ("alignment", "matcher", "reference"):
        with pytest.raises(UnknownNameError, match=f"no factor or column '{name}' to group by"):
            found.scores_by(name)
