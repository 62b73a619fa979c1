"""Arrivals have the statistics that their docstrings state; costs are what their source and rules say."""

from __future__ import annotations

import statistics
from itertools import pairwise
from pathlib import Path

import msgspec
import pytest

from bench.arrivals import PROCESSES, Arrival, TraceUnreadable, arrivals, kinds_of, read_trace
from bench.costs import UnknownCost
from bench.costs_l20 import MODELS, USABLE_BYTES, l20
from bench.costs_measured import ProfileUnreadable, measured_costs
from planner.types import Shape
from tests.bench.small_costs import LARGE, SMALL, STEPS, small_costs

FLUX = l20("flux")
SPAN_S = 1800.0


def made(
    process: str, *, load: float = 1.0, seed: int = 0, models: tuple[str, ...] = ("flux",)
) -> list[Arrival]:
    return arrivals(l20(*models), process, load=load, n_gpus=128, span_s=SPAN_S, seed=seed)


def load_of(some: list[Arrival], span_s: float = SPAN_S) -> float:
    """In GPUs kept busy over 128."""
    work_s = {(k.model, k.shape): k.work_s for model in ("flux", "sd3") for k in kinds_of(l20(model), model)}
    return sum(work_s[arrival.model, arrival.shape] for arrival in some) / span_s / 128


def gaps_s(some: list[Arrival]) -> list[float]:
    return [later.at_s - earlier.at_s for earlier, later in pairwise(some)]


def spread(values: list[float]) -> float:
    """The coefficient of variation."""
    return statistics.pstdev(values) / statistics.mean(values)


@pytest.mark.parametrize("process", PROCESSES)
def test_every_process_brings_the_load_that_was_asked_for(process: str) -> None:
    some = [arrival for seed in range(5) for arrival in made(process, load=0.8, seed=seed)]
    assert load_of(some) / 5 == pytest.approx(0.8, rel=0.1)
    assert all(0 <= arrival.at_s < SPAN_S for arrival in some)


@pytest.mark.parametrize("process", PROCESSES)
def test_a_seed_gives_the_same_arrivals_and_another_one_others(process: str) -> None:
    assert made(process) == made(process)
    assert made(process) != made(process, seed=1)


def test_even_arrivals_are_evenly_spaced_and_their_shapes_uniform() -> None:
    some = made("even")
    assert spread(gaps_s(some)) < 1e-6
    counts = [sum(arrival.shape == shape for arrival in some) for shape in FLUX.models["flux"].mix]
    assert max(counts) - min(counts) <= 1
    runs = sum(a.shape == b.shape for a, b in pairwise(some)) / len(some)
    assert runs == pytest.approx(1 / 5, abs=0.03)


def test_poisson_gaps_vary_as_much_as_their_mean() -> None:
    assert spread(gaps_s(made("poisson"))) == pytest.approx(1.0, abs=0.05)


def test_bursts_have_gaps_of_variation_4_and_spikes_of_8_times_the_rate() -> None:
    some = [made("burst", seed=seed) for seed in range(8)]

    def is_spike(at_s: float) -> bool:
        return (at_s - 120.0) % 300.0 < 20.0 and at_s >= 120.0

    calm = [g for one in some for g, a in zip(gaps_s(one), one, strict=False) if not is_spike(a.at_s)]
    assert spread(calm) == pytest.approx(4.0, rel=0.1)
    n_spike = sum(is_spike(arrival.at_s) for one in some for arrival in one)
    n_calm = sum(len(one) for one in some) - n_spike
    assert (n_spike / (6 * 20.0)) / (n_calm / (1800.0 - 6 * 20.0)) == pytest.approx(8.0, rel=0.15)


def test_a_shift_goes_from_small_shapes_to_large_at_an_even_load() -> None:
    some = made("shift")
    thirds = [[a for a in some if 600.0 * n <= a.at_s < 600.0 * (n + 1)] for n in range(3)]
    large = {kind.shape for kind in kinds_of(FLUX, "flux")[3:]}
    shares = [sum(arrival.shape in large for arrival in third) / len(third) for third in thirds]
    assert shares == sorted(shares)
    assert shares[2] > 3 * shares[0]
    for third in thirds:
        assert load_of(third, 600.0) == pytest.approx(1.0, abs=0.2)


def test_a_day_is_low_at_both_ends_and_high_in_between() -> None:
    some = made("diurnal")
    n_ends = sum(arrival.at_s < 300.0 or arrival.at_s >= 1500.0 for arrival in some)
    n_noon = sum(600.0 <= arrival.at_s < 1200.0 for arrival in some)
    # of a wave of 1 -+ 0.6, the third around noon has 1 + 0.6 * 0.827 and the outer third 1 - 0.6 * 0.827
    assert n_noon / n_ends == pytest.approx(1.496 / 0.504, rel=0.1)


def test_two_models_share_the_load_equally() -> None:
    both = made("poisson", models=("flux", "sd3"))
    for model in ("flux", "sd3"):
        assert load_of([a for a in both if a.model == model]) == pytest.approx(0.5, rel=0.07)
    assert [a.at_s for a in both] == sorted(a.at_s for a in both)


def test_a_trace_file_is_read_in_order_of_time(tmp_path: Path) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text(
        '{"at_s": 3.5, "model": "small", "width_px": 256, "height_px": 256, "slo_s": 60}\n'
        '{"at_s": 1.0, "model": "small", "width_px": 128, "height_px": 128}\n'
    )
    costs = small_costs()
    assert read_trace(file, costs) == [
        Arrival(1.0, "small", SMALL, STEPS, 2.5 * 8.0),
        Arrival(3.5, "small", LARGE, STEPS, 60),
    ]


@pytest.mark.parametrize(
    "line",
    [
        "{",
        '{"at_s": 1.0, "model": "other", "width_px": 128, "height_px": 128}',
        '{"at_s": 1.0, "model": "small", "width_px": 128}',
        '{"at_s": 1.0, "model": "small", "width_px": 999, "height_px": 128}',
        "[]",
    ],
)
def test_a_trace_that_cannot_be_simulated_is_refused_with_its_line(tmp_path: Path, line: str) -> None:
    file = tmp_path / "trace.jsonl"
    file.write_text('{"at_s": 1.0, "model": "small", "width_px": 128, "height_px": 128}\n' + line + "\n")
    with pytest.raises(TraceUnreadable, match=r":2: "):
        read_trace(file, small_costs())


# costs


def test_the_deadline_is_two_and_a_half_times_the_latency_at_the_efficient_degree() -> None:
    """Small: 8 / 5 / 2 = 0.8 is efficient at degree 2, 1 + 5 + 2 s. The fastest degree is the same here."""
    table = small_costs().models["small"]
    assert table.efficient_degree(SMALL) == 2
    assert table.slo_s(SMALL) == table.slo_s(SMALL, fastest=True) == 2.5 * 8.0
    assert table.cheapest_s(SMALL, 11.0) == 11.0
    assert table.cheapest_s(SMALL, 10.9) == 3.0 + 2 * 5.0
    assert table.cheapest_s(SMALL, 1.0) == 3.0 + 2 * 5.0


def test_published_steps_are_taken_as_they_are_and_the_rest_follows_its_rules() -> None:
    flux = FLUX.models["flux"]
    large = Shape(2048, 2048)
    assert flux.stage_s("denoise", large, 28, degree=4) == pytest.approx(28 * 1.48)
    assert flux.efficient_degree(large) == 2
    assert flux.stage_s("decode", Shape(1024, 1024), 28) == pytest.approx(0.253 * 0.84034 / 0.243)
    assert flux.stage_s("text_encoder", large, 28) == flux.stage_s("text_encoder", Shape(128, 128), 28)
    for model in ("cogvideox", "hunyuanvideo"):
        table = l20(model).models[model]
        denoise_s = sum(table.stage_s("denoise", shape, table.steps) for shape in table.mix)
        decode_s = sum(table.stage_s("decode", shape, table.steps) for shape in table.mix)
        assert decode_s / denoise_s == pytest.approx(10 / 88)
    with pytest.raises(UnknownCost):
        flux.stage_s("denoise", Shape(777, 777), 28)


def test_in_48_gb_flux_and_hunyuanvideo_cannot_be_held_whole_at_their_largest_and_the_others_can() -> None:
    whole = {}
    for model in MODELS:
        costs = l20(model, view="48gb")
        table = costs.models[model]
        weights = sum(table.view.weight_bytes.values())
        peak = max(table.peak_bytes(stage, shape) for stage in table.view.stages for shape in table.mix)
        whole[model] = weights + peak <= USABLE_BYTES
        assert costs.memory_bytes == USABLE_BYTES
        for stage in table.view.stages:
            alone = max(table.peak_bytes(stage, shape) for shape in table.mix)
            assert table.view.weight_bytes[stage] + alone <= USABLE_BYTES
    assert whole == {"sd3": True, "flux": False, "cogvideox": True, "hunyuanvideo": False}


def test_a_profile_of_the_costs_says_what_they_say_or_is_wrong_as_asked() -> None:
    costs = small_costs()
    view = costs.models["small"].view
    exact = costs.profile()
    assert exact.stage_s("test", view, "denoise", LARGE, 4, degree=2) == pytest.approx(16.0)
    assert exact.peak_bytes("test", view, "denoise", LARGE, degree=2) == 3
    wrong = costs.profile(error=0.2, seed=1)
    ratios = {
        (stage, shape): (wrong.stage_s("test", view, stage, shape, 4) or 0.0)
        / costs.models["small"].stage_s(stage, shape, 4)
        for stage in view.stages
        for shape in (SMALL, LARGE)
    }
    assert all(0.8 <= ratio <= 1.2 for ratio in ratios.values())
    assert len({round(ratio, 6) for ratio in ratios.values()}) > 1


def test_scaled_costs_change_the_stages_named_and_nothing_else() -> None:
    table = small_costs().scaled({"decode": 6.0}).models["small"]
    assert table.stage_s("decode", SMALL, 4) == 12.0
    assert table.stage_s("denoise", SMALL, 4) == 8.0


def test_a_profile_that_a_worker_measured_is_a_table_of_costs(tmp_path: Path) -> None:
    """As a gateway keeps it: its key, which has the model's usual steps, and the measurements."""
    file = tmp_path / "small.json"
    measurements = small_costs(batches=True).models["small"].measurements
    key = {"entry": {"default_steps": 4}}
    file.write_bytes(msgspec.json.encode({"key": key, "measurements": measurements}))
    costs = measured_costs(file)
    table = costs.models["small"]
    assert (costs.device, costs.resume_s, table.steps, table.mix) == ("test", 0.5, 4, (SMALL, LARGE))
    assert table.view.stages == ("encode", "decode", "denoise")
    assert table.stage_s("denoise", LARGE, 4, degree=2) == 16.0


@pytest.mark.parametrize("text", ["", "{}", '{"key": {}, "measurements": {"device": "d", "model": "m"}}'])
def test_what_is_no_profile_is_refused(tmp_path: Path, text: str) -> None:
    file = tmp_path / "small.json"
    file.write_text(text)
    with pytest.raises(ProfileUnreadable):
        measured_costs(file)
    with pytest.raises(ProfileUnreadable):
        measured_costs(tmp_path / "none.json")
