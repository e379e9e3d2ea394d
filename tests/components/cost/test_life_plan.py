from __future__ import annotations

import json
from dataclasses import replace

import pytest
from public_files import REFERENCE

from components.cost.accounting import training_flops_per_token
from components.cost.capacity import Latency
from components.cost.demand import Scenario
from components.cost.hardware import find_hardware
from components.cost.life_plan import Market, Wish, plan_life
from components.cost.lifetime import Option
from components.cost.prices import find_offer
from components.cost.public_models import buildable, find_model, public_models, served, training_memory_bytes
from components.cost.published_laws import find_law, published_laws
from components.cost.thinking import Pair, cheapest_pairs
from components.cost.training_shares import SHARES, shares, training_share
from components.cost.units import Seconds, Usd
from components.model.config import count_params
from components.statistics import Interval

LAW = find_law("besiroglu2024")
RANGES = (LAW.params, LAW.tokens)
MARKET = Market(
    find_hardware("h100-sxm"),
    find_offer("h100-sxm"),
    find_offer("h100-sxm", None, "reserved"),
    training_share("h100-sxm", convention="causal"),
)
LOSS = float(LAW.law.loss(6.738e9, 2e12))


@pytest.mark.parametrize("model", public_models(), ids=lambda model: model.name)
def test_public_models_are_counted_exactly(model) -> None:  # type: ignore[no-untyped-def]
    counts = count_params(model.config)
    assert counts.total == model.stated_params
    if model.stated_active:
        assert counts.active == pytest.approx(model.stated_active, rel=0.002)
    if REFERENCE.is_dir():
        public = json.loads((REFERENCE / "models.json").read_text(encoding="utf-8"))[model.name]
        assert counts.total == public["stated_total"]


def test_cache_memory_and_flops_by_hand() -> None:
    llama2, llama3 = find_model("llama-2-7b").config, find_model("llama-3-8b").config
    assert served(llama2).cache_bytes(1) == 2 * 32 * 32 * 128 * 2  # half a MiB a token
    assert served(llama3).cache_bytes(8192) == 2 * 32 * 8 * 128 * 2 * 8192
    assert training_memory_bytes(llama2) == 16 * 6_738_415_616
    mixtral = served(find_model("mixtral-8x7b").config)
    assert mixtral.expert_params == 3 * 4096 * 14336 * 8 * 32
    each = training_flops_per_token("causal", 6_738_415_616, 32, 4096, 4096)
    assert each == 6 * 6_738_415_616 + 6 * 32 * 4096 * 4096


@pytest.mark.parametrize("size", [3e7, 1e8, 5e8, 1.5e9, 7e9, 13e9, 70e9, 4e11])
def test_a_wanted_size_becomes_a_model_of_that_size(size: float) -> None:
    made = buildable(size)
    assert count_params(made).total == pytest.approx(size, rel=0.05)
    assert made.d_model == made.num_heads * made.per_head and made.num_heads % made.kv_heads == 0


def test_a_vocabulary_that_is_too_large_is_said() -> None:
    with pytest.raises(ValueError, match="take a smaller one with --vocabulary"):
        buildable(1e6, vocab_size=128_000)


def test_a_busier_life_takes_a_smaller_model_on_more_tokens() -> None:
    quiet, busy = (plan_life(LOSS, LAW.law, RANGES, Wish(Scenario(n, 24)), MARKET) for n in (1e4, 1e8))
    assert busy.best.num_params < quiet.best.num_params
    assert busy.best.tokens > quiet.best.tokens
    assert busy.best.life_usd < busy.compute_optimal.life_usd
    # Both reach the loss with the parameters that they really have.
    for made in (busy.best, busy.compute_optimal):
        assert float(LAW.law.loss(made.num_params, made.tokens)) == pytest.approx(LOSS)
    assert quiet.uncertain.low < quiet.best.life_usd < quiet.uncertain.high


def test_training_by_hand() -> None:
    made = plan_life(LOSS, LAW.law, RANGES, Wish(Scenario(1e4, 24), training_days=10), MARKET).best
    seconds = made.flops / (MARKET.hardware.peak_flops * MARKET.share.middle)
    assert made.training_usd == pytest.approx(seconds / 3600 * MARKET.training_rate)
    assert made.days <= 10 and made.devices % 8 == 0
    assert made.devices * made.days * 86_400 == pytest.approx(seconds)


def test_a_plan_is_homogeneous_in_price() -> None:
    def dearer(offer):  # type: ignore[no-untyped-def]
        return replace(offer, price=replace(offer.price, usd_per_hour=3 * offer.price.usd_per_hour))

    dear = replace(MARKET, on_demand=dearer(MARKET.on_demand), reserved=dearer(MARKET.reserved))
    wish = Wish(Scenario(1e6, 24))
    one, three = (plan_life(LOSS, LAW.law, RANGES, wish, market).best for market in (MARKET, dear))
    assert three.num_params == one.num_params
    assert three.life_usd == pytest.approx(3 * one.life_usd)


def test_a_budget_that_is_too_small_gets_the_nearest_loss() -> None:
    free = plan_life(LOSS, LAW.law, RANGES, Wish(Scenario(1e6, 24)), MARKET)
    tight = plan_life(LOSS, LAW.law, RANGES, Wish(Scenario(1e6, 24), budget=Usd(0.8 * free.best.life_usd)), MARKET)
    assert tight.loss > LOSS and tight.best.life_usd <= 0.8 * free.best.life_usd
    assert "the nearest that fits is" in tight.notes[0]
    with pytest.raises(ValueError, match="too little for any model of this demand: the least is"):
        plan_life(LOSS, LAW.law, RANGES, Wish(Scenario(1e6, 24), budget=Usd(10)), MARKET)


def test_the_irreducible_loss_and_an_impossible_latency_are_refused() -> None:
    with pytest.raises(ValueError, match=r"at or below the irreducible 1.8172"):
        plan_life(1.8172, LAW.law, RANGES, Wish(Scenario(1e6, 24)), MARKET)
    wish = Wish(Scenario(1e6, 24), Latency(None, Seconds(1e-5)))
    with pytest.raises(ValueError, match=r"--latency-tpot 1e-05 s cannot be had"):
        plan_life(LOSS, LAW.law, RANGES, wish, MARKET)


def test_published_laws_are_those_of_the_papers() -> None:
    assert {law.name for law in published_laws()} == {"besiroglu2024", "chinchilla", "gadre2024"}
    # Tokens per parameter at Chinchilla's budget: 58.9 with full precision, 18.3 with the refit.
    assert find_law("chinchilla").law.optimal(5.76e23).tokens_per_param == pytest.approx(58.9, abs=0.1)
    assert LAW.law.optimal(5.76e23).tokens_per_param == pytest.approx(18.3, abs=0.1)
    gadre = find_law("gadre2024")
    # Their form, L = E + (a M^eta + b M^-eta) C^-eta with M = D/N and C = 6ND.
    n, d = 1.4e9, 28e9
    theirs = 1.84 + (212 * (d / n) ** 0.136 + 367 * (d / n) ** -0.136) * (6 * n * d) ** -0.136
    assert float(gadre.law.loss(n, d)) == pytest.approx(theirs, rel=1e-5)
    assert gadre.accuracy_at(gadre.loss_for(0.55)) == pytest.approx(0.55)
    # Five of their RedPajama runs: N, D and the loss on C4 (mlfoundations/scaling, exp_data/models/rpj-*.json).
    for n, d, loss in (
        (6_889_410_560, 137_788_211_200, 2.424993),
        (1_439_795_200, 921_468_928_000, 2.502054),
        (411_616_256, 8_232_325_120, 3.149769),
        (78_914_048, 25_252_495_360, 3.489515),
        (10_569_312, 211_386_240, 5.387021),
    ):
        assert float(gadre.law.loss(n, d)) == pytest.approx(loss, rel=0.015)
    with pytest.raises(ValueError, match=r"the nearest that can be asked for is 0\.\d+"):
        gadre.loss_for(0.95)
    with pytest.raises(ValueError, match="did you mean 'chinchilla'"):
        find_law("chinchila")


def test_shares_of_training_are_those_of_the_points() -> None:
    for convention in ("6n", "causal", "palm"):
        share = training_share("h100-sxm", "bf16", convention)  # type: ignore[arg-type]
        assert 0 < share.low < share.middle < share.high < 1
    assert training_share("h100-sxm", "bf16", "palm").middle > training_share("h100-sxm", "bf16", "6n").middle
    assert training_share("mi300x").of.startswith("all hardware")
    points = REFERENCE / "serving_and_training_points.csv"
    if points.is_file():
        made = shares(points)["causal"]["h100-sxm/bf16"]
        carried = training_share("h100-sxm", "bf16", "causal")
        assert made == pytest.approx((carried.n, carried.low, carried.middle, carried.high), abs=1e-4)
    assert SHARES.is_file()


def test_for_each_accuracy_the_cheapest_pair() -> None:
    def pair(model: str, strategy: str, training: float, each: float, accuracy: float) -> Pair:
        return Pair(model, strategy, Option(f"{model} {strategy}", training, each), Interval(accuracy, 0, 1, 9))

    pairs = [
        pair("small", "once", 10, 0.01, 0.4),
        pair("small", "vote", 10, 0.10, 0.6),
        pair("large", "once", 100, 0.02, 0.6),
        pair("large", "vote", 100, 0.20, 0.8),
    ]
    few = cheapest_pairs(pairs, 100)
    assert [(c.pair.model, c.pair.strategy) for c in few] == [("small", "once"), ("small", "vote"), ("large", "vote")]
    many = cheapest_pairs(pairs, 1e6)
    assert [(c.pair.model, c.pair.strategy) for c in many] == [("small", "once"), ("large", "once"), ("large", "vote")]
    think = few[1]  # 90 dollars more training against 0.08 a question
    assert think.rival is not None and think.rival.option.name == "large once"
    assert think.even is not None and think.even.units == pytest.approx(90 / 0.08)
    assert few[2].rival is None
