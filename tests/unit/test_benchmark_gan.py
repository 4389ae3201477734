"""The GAN's benchmark: its penalty, which runs it asks for, and which it counts as failed."""

import math

import pandas as pd
import pytest
import torch
from torch import nn

from tests.benchmarks import gan

BEST = {("non-saturating GAN", 1, 2e-3), ("WGAN-GP", 1, 3e-3), ("diffusion", 0, 6e-3)}


def tuned():
    """A table after the tuning, in which one rate of each method is the best."""
    runs = list(gan.tuning_runs())
    keys = [(run["method"], run["critic_steps"], run["rate"]) for run in runs]
    return pd.DataFrame([run | {"frechet": 3.0 if key in BEST else 9.0} for run, key in zip(runs, keys)])


def test_penalty_of_a_critic_whose_gradient_is_known():
    critic = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    nn.init.constant_(critic[1].weight, 1.5)  # a gradient of norm 3 everywhere
    real, fake = torch.randn(2, 5, 1, 2, 2)
    assert gan.gradient_penalty(critic, real, fake).item() == pytest.approx(4)


def test_tuning_comes_first_and_then_a_third_and_three_times_the_best_rate():
    assert gan.next_run(pd.DataFrame(), 1) == next(gan.tuning_runs())
    table, finals = tuned(), list(gan.final_runs(tuned(), 2))
    assert gan.next_run(table, 2) == finals[0] and len(finals) == 2 * 3 * 3
    assert {(run["method"], run["critic_steps"], run["rate"]) for run in finals if run["factor"] == "as tuned"} == BEST
    rates = {run["factor"]: run["rate"] for run in finals if run["method"] == "diffusion"}
    assert rates == {"a third": 0.002, "as tuned": 0.006, "three times": 0.018}
    done = pd.concat([table, pd.DataFrame([run | {"frechet": 3.0} for run in finals])], ignore_index=True)
    assert gan.next_run(done, 2) is None and gan.next_run(done.drop(index=len(done) - 1), 2) == finals[-1]


def test_a_run_whose_last_distance_is_no_number_or_too_large_has_failed():
    ends = {"a third": [4.0, math.nan, 7.0], "as tuned": [3.0, 3.5, 2.5], "three times": [6.1, 5.9, math.nan]}
    rows = [
        dict(method="diffusion", factor=factor, seed=seed, frechet=value, ms_per_image=1.0)
        for factor, values in ends.items()
        for seed, end in enumerate(values)
        for value in (4.0, end)  # after half of the time each was well
    ]
    lines = gan.report(pd.DataFrame(rows), 1.0).splitlines()[2:5]
    assert [line.split(" | ")[3] for line in lines] == ["2 of 3", "0 of 3", "2 of 3"]
