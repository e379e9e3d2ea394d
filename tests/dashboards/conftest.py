"""A life as its stages write it, with effects of the size that small runs show. Every draw is seeded."""

from __future__ import annotations

import datetime
import math
import sys
from pathlib import Path
from typing import Any

import pytest

from components.scaling.emergence import EmergenceRow, analyse_emergence
from components.stage_results import to_facts
from dashboards.report import collect
from dashboards.report_model import LifeReport
from storage.home import Home

sys.path.insert(0, str(Path(__file__).parent))

from smoke_life import SmokeLife
from written_life import START, Life, RealRows, accuracy_facts, compared_run, judged_pairs, with_bars

TRUE_E = 0.718
LAW = {"E": 0.72, "A": 9.0, "B": 900.0, "alpha": 0.26, "beta": 0.58}


def _data(life: Life) -> None:
    funnel = [
        {"source": source, "step": step, "documents": int(documents * kept), "bytes": int(size * kept)}
        for source, documents, size in (
            ("speeches", 4100, 9.4e6),
            ("scripture", 1189, 4.1e6),
            ("stories", 9000, 2.2e6),
            ("worked problems", 30000, 3.1e6),
        )
        for step, kept in (("read", 1.0), ("quality", 0.94), ("near duplicates", 0.88), ("decontaminate", 0.86))
    ]
    life.stage(
        "prepare_corpus",
        21,
        {
            "num_documents": 38100,
            "num_bytes": 16_200_000,
            "funnel": funnel,
            "num_duplicates": 2210,
            "masked_pii": {"email": 11, "phone": 3},
        },
        quarantine=[{"source": "mine.jsonl", "line": 12, "reason": "not JSON", "excerpt": "{oops"}],
    )
    life.stage("train_tokenizer", 9, {"vocab_size": 1024, "bytes_per_token": 3.04})
    life.stage("tokenize", 6, {"num_tokens": 5_330_000})


def _training(life: Life) -> None:
    losses = {"speeches": 2.91, "scripture": 2.55, "stories": 1.02, "worked problems": 0.81}
    life.stage(
        "pretrain",
        112,
        {
            "num_params": 267_000,
            "num_tokens": 3_280_000,
            "loss": 1.74,
            "losses_by_source": losses,
            "bits_per_byte": {name: loss / math.log(2) / 3.04 for name, loss in losses.items()},
        },
        metrics=[
            *life.curve("loss", 800, lambda x: 1.7 + 5.2 * math.exp(-9 * x), 0.06),
            *life.curve("tokens_per_second", 800, lambda x: 31_000, 900),
            *life.curve("grad_norm", 800, lambda x: 0.6 + math.exp(-20 * x), 0.05),
        ],
    )
    life.stage(
        "finetune",
        24,
        {
            "num_params": 267_000,
            "num_tokens": 620_000,
            "loss": 0.31,
            "losses_by_source": {k: v + 0.08 for k, v in losses.items()},
            "losses_by_source_before": losses,
        },
        metrics=life.curve("loss", 400, lambda x: 0.25 + 2.0 * math.exp(-8 * x), 0.03),
    )


REWARD_MODEL = {
    "agreement_with_gold": 0.79,
    "num_held_out": 300,
    "accuracy_by": {
        "split": {
            "held out": {"value": 0.737, "low": 0.684, "high": 0.784, "n": 300},
            "training": {"value": 0.81, "low": 0.78, "high": 0.83, "n": 1200},
        },
        "confidence": {"below 0.6": {"value": 0.55, "low": 0.45, "high": 0.65, "n": 90}},
    },
    "calibration": {
        "bins": [
            {
                "low": 0.5,
                "high": 0.6,
                "predicted": 0.55,
                "chosen": {"value": 0.5, "low": 0.4, "high": 0.6, "n": 100},
                "num_pairs": 100,
            },
            {
                "low": 0.6,
                "high": 0.7,
                "predicted": 0.66,
                "chosen": {"value": 0.7, "low": 0.6, "high": 0.8, "n": 100},
                "num_pairs": 100,
            },
        ],
        "ece": 0.06,
        "ece_if_perfect": 0.03,
    },
    "length": {
        "correlation": 0.21,
        "slope": {"value": 0.02, "low": 0.01, "high": 0.03, "n": 600},
        "longer_wins": None,
        "model_prefers_longer": None,
        "accuracy_longer": None,
        "accuracy_shorter": None,
    },
    "best_of_four": {"value": 0.44, "low": 0.35, "high": 0.53, "n": 120},
    "score_by_length": [[20, -0.4], [31, 0.1], [44, 0.6]],
    "disagreement": 0.2,
}


def _law(alpha: float, beta: float, peak_kl: float | None) -> dict[str, Any]:
    ends = {"alpha": alpha, "beta": beta}
    each = {
        f"{name}{end}": x + gap for name, x in ends.items() for end, gap in (("", 0), ("_low", -0.1), ("_high", 0.1))
    }
    return {**each, "r_squared": 0.9, "peak_kl": peak_kl, "peak_reward": None, "extrapolated": False, "n": 30}


POLICIES = {0.0: (2.34, -5.85, 40.0), 0.1: (2.00, 1.38, 4.5), 0.4: (1.42, 1.08, 1.6)}


def _rlhf(life: Life) -> None:
    pairs = [
        {
            "pair_id": f"p{i}",
            "prompt": "Tell of a cat",
            "chosen": "a",
            "rejected": "b",
            "agrees_with_gold": i % 100 < 82,
        }
        for i in range(1500)
    ]
    life.stage("collect_preferences", 5, {"label_agreement": 0.82}, preferences=pairs)
    facts = {**accuracy_facts("accuracy", 221, 300), "n": 300, **REWARD_MODEL}
    life.stage("train_reward_model", 12, facts, evals=judged_pairs(lambda odds: odds))
    for kl_coef, (proxy, gold, kl) in POLICIES.items():
        hacked = kl_coef == 0.0

        def gold_at(x: float, gold: float = gold, hacked: bool = hacked) -> float:
            return (2.4 * x * math.exp(-6 * x) + gold * x**2) if hacked else gold * (1 - math.exp(-4 * x))

        life.stage(
            f"ppo[kl_coef={kl_coef}]",
            17,
            {
                "kl_coef": kl_coef,
                "proxy": proxy,
                "proxy_low": proxy - 0.1,
                "proxy_high": proxy + 0.1,
                "gold": gold,
                "gold_low": gold - 0.13,
                "gold_high": gold + 0.13,
                "kl": kl,
                "n": 400,
                "alarm": hacked,
                "alarm_reason": "proxy rose while gold fell since iteration 12" if hacked else "",
                "mitigation": "KL penalty",
                "length": 41.0,
                "suspicion": hacked,
                "suspicion_reason": "40% of an answer repeats itself" if hacked else "",
                "law": {"gold": _law(0.9, 0.5, 7.4), "proxy": None},
            },
            metrics=[
                *life.curve("objective/score", 50, lambda x: proxy * (1 - math.exp(-4 * x)), 0.05),  # noqa: B023
                *life.curve("objective/kl", 50, lambda x: kl * x**1.2),  # noqa: B023
                *life.curve("gold", 50, gold_at, every=5),
                *life.curve("gold_low", 50, lambda x: gold_at(x) - 0.15, every=5),
                *life.curve("gold_high", 50, lambda x: gold_at(x) + 0.15, every=5),
                *life.curve("policy/entropy", 50, lambda x: 0.5 - 0.3 * x),
                *life.curve("response/repeated", 50, lambda x: 0.1 + 0.1 * x),
            ],
            samples=[
                {
                    "step": 50,
                    "prompt": "Tell a story of Sue with the word kite.",
                    "completion": " Sue is glad ." * 6 if hacked else " Sue had a red kite . It flew high . the end .",
                    "scores_json": {"proxy": proxy, "gold": gold},
                    "tokens": 24,
                }
            ],
        )
    rows = [
        {
            "n": n,
            "items": 400,
            "kl": math.log(n) - (n - 1) / n,
            "proxy": 1.3 * gold,
            "proxy_low": 1.3 * gold - 0.1,
            "proxy_high": 1.3 * gold + 0.1,
            "gold": gold,
            "gold_low": gold - 0.1,
            "gold_high": gold + 0.1,
        }
        for n, gold in ((1, 0.0), (4, 0.67), (16, 1.29), (64, 1.65))
    ]
    law = {"gold": _law(1.0, 0.2, 6.2), "proxy": _law(1.3, 0.01, None)}
    life.stage("best_of_n", 8, {"rows": rows, "n": 400, "law": law})
    life.stage(
        "grpo",
        82,
        {**accuracy_facts("before", 129, 300), **accuracy_facts("after", 280, 300), "n": 300},
        metrics=[
            *life.curve("objective/reward", 60, lambda x: 0.35 + 0.55 * (1 - math.exp(-4 * x)), 0.02),
            *life.curve("groups/zero_variance", 60, lambda x: 0.15 + 0.6 * x, 0.02),
            *life.curve("greedy_accuracy", 60, lambda x: 0.43 + 0.51 * (1 - math.exp(-4 * x)), 0.01, every=10),
        ],
    )


def _scaling(life: Life) -> None:
    def loss(n: float, d: float) -> float:
        return LAW["E"] + LAW["A"] * n ** -LAW["alpha"] + LAW["B"] * d ** -LAW["beta"]

    points = [
        {
            "sweep": "dense",
            "variant": f"n{n}",
            "seed": 0,
            "num_params": n,
            "num_params_kind": "non_embedding",
            "tokens": d,
            "flops": 6.0 * n * d,
            "loss": loss(n, d) * math.exp(life.random.gauss(0, 0.008)),
        }
        for n in (7_000, 22_000, 50_000, 92_000, 180_000, 332_000)
        for d in (200_000, 400_000, 800_000, 1_600_000)
    ]
    life.stage("scale[d16]", 90, scaling_points=points)
    widths = {"E": (0.64, 0.79), "A": (2.0, 40.0), "B": (150.0, 5200.0), "alpha": (0.19, 0.33), "beta": (0.44, 0.79)}
    fits = [
        {
            "sweep": "dense",
            "law": "chinchilla",
            "parameter": name,
            "value": LAW[name],
            "low": low,
            "high": high,
            "n": 24,
            "method": "Huber, bootstrap over runs",
        }
        for name, (low, high) in widths.items()
    ]
    fits.append({"sweep": "dense", "law": "truth", "parameter": "E", "value": TRUE_E})
    life.stage("fit_scaling_law", 3, {"warnings": []}, scaling_fits=fits)
    predicted = loss(620_000, 3_200_000)
    common = {
        "sweep": "dense",
        "target": "loss",
        "num_params": 620_000,
        "tokens": 3_200_000,
        "extrapolation": 3.7,
        "observed": predicted + 0.008,
        "made_at": START,
        "scored_at": START + datetime.timedelta(minutes=5),
    }
    forecasts = [
        {"method": "law", "predicted": predicted, "low": predicted - 0.03, "high": predicted + 0.04},
        {"method": "as the largest run", "predicted": predicted + 0.15, "low": None, "high": None},
        {"method": "line through the last two", "predicted": predicted - 0.02, "low": None, "high": None},
    ]
    life.stage("train_forecast_run", 40, forecasts=[common | forecast for forecast in forecasts])


EMERGENCE = {  # log-probability of a computed token, nats, by size; answers are twelve such tokens and four copied ones
    4200: -0.90,
    7100: -0.70,
    13_000: -0.52,
    22_000: -0.36,
    28_000: -0.22,
    40_000: -0.02,
    54_000: -0.01,
}


def emergence_rows(life: Life, trainings: int = 3, items: int = 200) -> list[EmergenceRow]:
    """Answers whose computed tokens are right independently of each other."""
    return [
        EmergenceRow(
            size,
            [int(life.random.random() < math.exp(12 * log_prob)) for _ in range(items)],
            [[log_prob * (1 + 0.02 * seed)] * 12 + [-0.001] * 4] * items,
            [[True] * 12 + [False] * 4] * items,
            seed,
        )
        for size, log_prob in EMERGENCE.items()
        for seed in range(trainings)
    ]


def _emergence_and_moe(life: Life) -> None:
    found = analyse_emergence(emergence_rows(life), resamples=300)
    points = [
        {
            "sweep": "emergence",
            "num_params": int(point.num_params),
            "tokens": 1_840_000,
            "loss": -point.log_prob.value,
            "details_json": {"trainings": 3, "log_prob_computed": point.log_prob.value},
        }
        for point in found.points
    ]
    life.stage("analyse_emergence", 150, to_facts(found), scaling_points=points)
    balanced = [0.16, 0.14, 0.13, 0.13, 0.12, 0.12, 0.11, 0.09]
    spread, collapsed = [0.35, 0.25, 0.15, 0.1, 0.08, 0.04, 0.02, 0.01], [0.96, 0.02, 0.01, 0.01, 0.0, 0.0, 0.0, 0.0]
    rows = []
    losses_by_seed = (1.741, 1.678, 1.713), (1.778, 1.702, 1.801), (1.760, 1.691, 1.790), (1.752, 1.680, 1.783)
    for seed, losses in enumerate(losses_by_seed):  # verdicts are over seeds: two would not do
        loads = (None, balanced, collapsed if seed else spread)
        for variant, value, load in zip(("dense", "moe_balanced", "moe_unbalanced"), losses, loads, strict=True):
            details: dict[str, Any] = {"loss_low": value - 0.01, "loss_high": value + 0.01, "n": 20_000}
            if load:
                entropy = -sum(x * math.log(x) for x in load if x)
                details |= {"load": [load], "max_share": max(load), "entropy": entropy, "specialization": 0.12}
            rows.append(
                {
                    "sweep": "moe",
                    "variant": variant,
                    "seed": seed,
                    "num_params": 81_000,
                    "tokens": 816_000,
                    "loss": value,
                    "details_json": details,
                }
            )
    life.stage("experts[dense,0]", 96, scaling_points=rows)


def _recurrence_and_specialization(life: Life) -> None:
    bands = [
        {
            "first": last // 2 + 1,
            "last": last,
            "n": 256,
            **with_bars("transformer", 1.7 + 0.9 / last, 0.1, 256),
            **with_bars("lstm", 1.8 + 0.8 / last, 0.1, 256),
            **with_bars("gap", 0.1 - 0.1 / last, 0.02, 256),
        }
        for last in (1, 2, 4, 8, 16, 32, 64, 128)
    ]
    speeds = [
        {
            "context": context,
            **with_bars("transformer", 30_000 - 10 * context, 900, 5),
            **with_bars("lstm", 1e6 / (25 + context / 4), 400, 5),
            **with_bars("ratio", (30_000 - 10 * context) * (25 + context / 4) / 1e6, 0.05, 5),
        }
        for context in (32, 128, 512)
    ]
    runs = [
        compared_run(name, loss, 0.14, num_params=n, num_tokens=245_760, products_in_a_row=row)
        for name, n, row, loss in (("transformer", 56_640, 19, 1.71), ("lstm", 56_760, 516, 1.8))
    ]
    gaps = with_bars("kept_gap", 0.5, 0.08, 5) | with_bars("loss_gap", 0.09, 0.02, 256)
    gaps |= with_bars("context_gain", 0.06, 0.03, 256)
    life.stage("compare_recurrent", 6, {"runs": runs, "speeds": speeds, "bands": bands, **gaps})
    sources = ["speeches", "stories", "worked problems"]
    for variant in ("moe_balanced", "moe_loss_free"):
        layers = [
            {
                "layer": layer,
                **with_bars("bits", 0.4 + 0.2 * layer, 0.03, 144),
                **with_bars("share", 0.25 + 0.12 * layer, 0.02, 144),
                "chance_bits": 0.01,
                "p_value": 0.01,
                "entropy": 1.6,
                "load": [0.3, 0.3, 0.2, 0.2],
                "by_source": [[0.7, 0.1, 0.1, 0.1], [0.1, 0.6, 0.3, 0.0], [0.2, 0.1, 0.3, 0.4]],
            }
            for layer in range(2)
        ]
        facts = {"variant": variant, "num_params": 250_000, "sources": sources, "layers": layers, "n": 144}
        life.stage(f"specialize[{variant}]", 10, facts | with_bars("loss", 2.0, 0.1, 144))


CHAINS = [
    ("base", "direct", 0.01, 3),
    ("base", "cot", 0.02, 20),
    ("sft", "direct", 0.06, 3),
    ("sft", "direct_vote@8", 0.07, 24),
    ("sft", "direct_vote@16", 0.08, 48),
    ("sft", "cot", 0.63, 46),
    ("sft", "self_consistency@1", 0.42, 47),
    ("sft", "self_consistency@2", 0.56, 94),
    ("sft", "self_consistency@4", 0.68, 188),
    ("sft", "adaptive", 0.67, 90),
    ("grpo", "cot", 0.93, 45),
    ("grpo", "self_consistency@4", 0.96, 180),
]
TREE = "tree_of_thought[depth,judge,4]"
PUZZLES = [
    ("greedy", 0.12, 30),
    ("best_of@2", 0.52, 100),
    ("self_consistency@1", 0.16, 50),
    ("self_consistency@2", 0.2, 100),
    (TREE, 0.71, 104),
]


def _reasoning(life: Life) -> None:
    for name in ("base", "sft", "grpo"):
        rows = [
            row
            for model, strategy, p, tokens in CHAINS
            if model == name
            for row in life.answers("chains", model, strategy, p, tokens)
        ]
        life.stage(f"evaluate_reasoning[{name}]", 20, evals=rows)
    puzzles = [
        row for strategy, p, tokens in PUZZLES for row in life.answers("puzzles", "puzzles", strategy, p, tokens, n=400)
    ]
    life.stage("search_puzzles", 70, evals=puzzles)
    lifetime = [
        {"tokens": 10.0**e, "training_usd": 0.0183, "inference_usd": 0.35e-6 * 10.0**e} for e in (3, 4, 5, 6, 7, 8)
    ]
    facts = {
        "training_usd": 0.0183,
        "price_per_million_input_tokens": 0.25,
        "price_per_million_output_tokens": 0.35,
        "price_per_million_output_tokens_low": 0.34,
        "price_per_million_output_tokens_high": 0.36,
        "decode_tokens_per_second": 16_000,
        "break_even_tokens": 52_300,
        "break_even_tokens_low": 51_000,
        "break_even_tokens_high": 53_700,
        "rounds": 12,
        "lifetime": lifetime,
    }
    life.stage("account_costs", 4, facts)


FORGETTING = {
    "pretrain": {"speeches": (2.24, None), "worked": (0.02, None)},
    "finetune": {"speeches": (2.76, (0.52, 0.45, 0.59)), "worked": (0.62, (0.60, 0.44, 0.72))},
    "grpo": {"speeches": (2.30, (0.06, -0.02, 0.14)), "worked": (0.95, (0.93, 0.83, 0.97))},
}


def _forgetting(life: Life) -> None:
    rows = [
        {
            "checkpoint": checkpoint,
            "position": position,
            "before": None if change is None else "pretrain",
            "evaluation": evaluation,
            "unit": "accuracy" if evaluation == "worked" else "bits_per_byte",
            "value": value,
            "n": 60,
            **dict(zip(("change", "change_low", "change_high"), change or (None, None, None), strict=True)),
        }
        for position, (checkpoint, evaluations) in enumerate(FORGETTING.items())
        for evaluation, (value, change) in evaluations.items()
    ]
    life.stage("measure_forgetting", 8.0, {"first": "pretrain"}, forgetting=rows)


PARTS = (_data, _training, _rlhf, _forgetting, _scaling, _emergence_and_moe, _recurrence_and_specialization, _reasoning)


def write_life(root: Path, real: RealRows) -> Home:
    """A home with one whole life."""
    home = Home(root)
    life = Life(home, real)
    for part in PARTS:
        part(life)
    life.end()
    return home


@pytest.fixture(scope="session")
def real(smoke: SmokeLife) -> RealRows:
    """What a smoke life wrote."""
    return RealRows(smoke)


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory, real: RealRows) -> Home:
    return write_life(tmp_path_factory.mktemp("home"), real)


@pytest.fixture(scope="session")
def report(home: Home) -> LifeReport:
    return collect(home)


@pytest.fixture
def life(tmp_path: Path, real: RealRows) -> Life:
    """An empty life to fill: `life.stage(…)`, then `life.end()` and `collect(life.home)`."""
    return Life(Home(tmp_path), real)
