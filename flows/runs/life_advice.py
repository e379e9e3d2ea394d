"""What `lifespan advise --like …` is asked, put together from published laws, the catalogue, and a run's own law."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

from components.cost.accounting import AVERAGE_PUE
from components.cost.capacity import ApiComparison, Latency, against_api
from components.cost.demand import LifeOverTime, Scenario, break_even_verdict, life_over_time
from components.cost.hardware import find_hardware
from components.cost.inference import TokenPrices
from components.cost.life_plan import Design, LifePlan, Market, Wish, plan_life
from components.cost.lifetime import Option, break_even
from components.cost.mixture import LIMITS, Mixture, equal_mixture
from components.cost.prices import find_offer
from components.cost.public_models import find_model, served
from components.cost.published_laws import DEFAULT, WITH_ACCURACY, PublishedLaw, find_law, published_laws
from components.cost.serving_model import expected_error
from components.cost.training_shares import training_share
from components.cost.units import Seconds, Usd
from components.model.config import count_params
from components.scaling.laws import ChinchillaLaw
from flows.runs.measured import measured_law
from flows.runs.prices import home_api_prices, home_prices
from flows.settings import ConfigError
from storage.home import Home


@dataclass(frozen=True)
class LifeAsk:
    """The command's options, as typed; None where an option was not given."""

    scenario: Scenario
    like: str | None = None
    target_loss: float | None = None
    target_accuracy: float | None = None
    law: str | None = None
    hardware: str = "h100-sxm"
    price: str = ""
    budget: float | None = None
    ttft: float | None = None
    tpot: float | None = None
    training_days: float = 30.0
    vocabulary: int | None = None
    context_length: int = 4096
    api: str | None = None
    run: str = "newest"


@dataclass(frozen=True)
class LifeAnswer:
    """A plan with what it stands on. `over_time`: of the best; `even`: the best against the compute-optimal one;
    `mixture`: of experts, of the best's loss, None where none can be had."""

    plan: LifePlan
    wish: Wish
    over_time: LifeOverTime
    even: str
    api: ApiComparison | None
    mixture: Mixture | None
    assumptions: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """All of it, as JSON values; infinities as text."""
        found = {
            "loss": self.plan.loss,
            "best": _design(self.plan.best),
            "compute_optimal": _design(self.plan.compute_optimal),
            "saving": self.plan.saving,
            "mixture": _mixture(self.mixture),
            "outside": self.plan.outside,
            "notes": self.plan.notes,
            "life_usd": dataclasses.asdict(self.plan.uncertain),
            "crossing_months": self.over_time.crossing_months,
            "months": self.over_time.months.tolist(),
            "inference_usd_by_month": self.over_time.inference.tolist(),
            "inference_share": self.over_time.inference_share,
            "break_even": self.even,
            "api": dataclasses.asdict(self.api) if self.api else None,
            "scenario": dataclasses.asdict(self.wish.scenario),
            "assumptions": self.assumptions,
        }
        return {name: _finite(value) for name, value in found.items()}


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _finite(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return "infinity" if isinstance(value, float) and math.isinf(value) else value


def _design(made: Design) -> dict[str, Any]:
    cfg, serving = made.config, made.serving
    return {
        "num_params": made.num_params,
        "d_model": cfg.d_model,
        "num_layers": cfg.num_layers,
        "num_heads": cfg.num_heads,
        "num_kv_heads": cfg.kv_heads,
        "d_ff": cfg.hidden,
        "vocab_size": cfg.vocab_size,
        "tokens": made.tokens,
        "training_flops": made.flops,
        "training_devices": made.devices,
        "training_days": made.days,
        "training_usd": made.training_usd,
        "serving_devices_a_copy": serving.on.num_devices,
        "batch": serving.batch,
        "copies_at_peak": serving.copies,
        "ttft_seconds": serving.ttft,
        "tpot_seconds": serving.tpot,
        "on_demand_usd": serving.on_demand_usd,
        "reserved_usd": serving.reserved_usd,
        "usd_per_million": {"used": vars(serving.used), "every_copy_full": vars(serving.busy)},
        "life_usd": made.life_usd,
    }


def _mixture(found: Mixture | None) -> dict[str, Any] | None:
    if found is None:
        return None
    moe = found.design.config.moe
    assert moe is not None
    return {
        **_design(found.design),
        "num_experts": moe.num_experts,
        "active_params": found.active,
        "saving": found.saving,
        "outside": found.outside,
        "limits": LIMITS,
    }


def answer_life(home: Home, ask: LifeAsk) -> LifeAnswer:
    """The plan. Raises ConfigError in one line for what cannot be asked."""
    try:
        return _answer(home, ask)
    except ValueError as error:
        raise ConfigError(str(error)) from None


def _answer(home: Home, ask: LifeAsk) -> LifeAnswer:
    targets = [name for name in ("like", "target_loss", "target_accuracy") if getattr(ask, name) is not None]
    if len(targets) != 1:
        raise ValueError(f"takes one of --like, --target-loss and --target-accuracy, got {len(targets)}")
    if ask.target_loss is not None and not 0 < ask.target_loss < math.inf:
        raise ValueError(f"--target-loss is {ask.target_loss:g}: takes nats per token, a finite number above 0")
    if ask.target_accuracy is not None and not 0 < ask.target_accuracy < 1:
        raise ValueError(f"--target-accuracy is {ask.target_accuracy:g}: takes a share between 0 and 1, such as 0.6")
    for option, value, what in (
        ("--budget", ask.budget, "dollars"),
        ("--latency-ttft", ask.ttft, "seconds"),
        ("--latency-tpot", ask.tpot, "seconds"),
    ):
        if value is not None and not 0 < value < math.inf:
            raise ValueError(f"{option} is {value:g}: takes {what}, a finite number above 0")
    try:
        hardware = find_hardware(ask.hardware)
    except ValueError as error:
        raise ValueError(f"--hardware: {error}") from None
    law, ranges, draws, published, words = _law(home, ask)
    prices = home_prices(home)
    on_demand, reserved = find_offer(ask.hardware, prices, ask.price), None
    if not ask.price:
        try:
            reserved = find_offer(ask.hardware, prices, "reserved")
        except ValueError:
            reserved = None
    share = training_share(ask.hardware, convention="causal")
    market = Market(hardware, on_demand, reserved, share)
    vocabulary, asked = 32_000 if ask.vocabulary is None else ask.vocabulary, ""
    others: tuple[tuple[ChinchillaLaw, float], ...] = ()
    if ask.like is not None:
        model = find_model(ask.like)
        if model.train_tokens is None:
            raise ValueError(f"--like {model.name}: nobody says on how many tokens it was trained; take --target-loss")
        if model.config.moe is not None:
            raise ValueError(f"--like {model.name}: it is a mixture of experts, and the laws are of dense models")
        size = float(count_params(model.config).total)
        loss = float(law.loss(size, model.train_tokens))
        vocabulary = model.config.vocab_size if ask.vocabulary is None else ask.vocabulary
        asked = (
            f"as good as {model.name}: {size:.4g} parameters on {model.train_tokens:.3g} tokens "
            f"({model.tokens_source}) have a loss of {loss:.4f} by this law"
        )
        others = tuple(_by_other(one.law, size, model.train_tokens) for one in published_laws()) if published else ()
    elif ask.target_accuracy is not None:
        if published is None:
            raise ValueError("--target-accuracy goes with a published law: --law gadre2024")
        loss = published.loss_for(ask.target_accuracy)
        asked = f"an accuracy of {ask.target_accuracy:.1%} is a loss of {loss:.4f} by {published.name}"
    else:
        assert ask.target_loss is not None
        loss = ask.target_loss
        asked = f"a loss of {loss:g} nats per token on the text of this law"
    if vocabulary < 2:
        raise ValueError(f"--vocabulary is {vocabulary}: takes a number of at least 2")
    if loss >= math.log(vocabulary):
        raise ValueError(
            f"a loss of {loss:g} nats per token is that of a model that has learnt nothing: over {vocabulary:,} tokens "
            f"guessing loses {math.log(vocabulary):.2f}; ask for less"
        )
    wish = Wish(
        ask.scenario,
        Latency(
            None if ask.ttft is None else Seconds(ask.ttft),
            None if ask.tpot is None else Seconds(ask.tpot),
        ),
        ask.training_days,
        vocabulary,
        ask.context_length,
        None if ask.budget is None else Usd(ask.budget),
    )
    ratios: tuple[float, ...] = ()
    if others:
        ratios = _ratios(others, loss, law, wish, market)
    plan = plan_life(loss, law, ranges, wish, market, draws, ratios)
    requests = ask.scenario.requests(ask.scenario.months)
    best, reference = plan.best, plan.compute_optimal
    options = [Option(d.name, d.training_usd, d.serving.usd / requests) for d in (reference, best)]
    even = "the compute-optimal model is the cheapest over this life"
    if best.num_params != reference.num_params:
        even = break_even_verdict(break_even(*options), ask.scenario)
    api_price, api_words = _api(home, ask.api)
    api = None
    if api_price is not None:
        api = against_api(
            best.serving, best.training_usd, served(best.config), ask.scenario, api_price, market.rates, wish.latency
        )
    mixture = equal_mixture(best, wish, market)
    assumed = [
        f"quality: {asked}",
        f"law: {words}",
        f"training on {ask.hardware}, {on_demand.basis}, at {share.middle:.0%} of the dense bf16 peak by the causal "
        f"convention, 6N + 6LHQT ({share.of}: {share.low:.0%} to {share.high:.0%}, n={share.n}), in at most "
        f"{ask.training_days:g} days, 16 bytes a parameter; failed runs, data, staff and evaluation cost nothing here",
        f"serving in 16 bits by the serving model (mean error {expected_error():.0%} on models it had not seen)"
        + (f", reserved at {reserved.basis}" if reserved else "; no reserved price is known"),
        f"demand: {_demand(ask.scenario)}",
        f"model: vocabulary of {vocabulary:,}, context of {ask.context_length:,}; dense, beside a mixture of experts",
        f"no electricity, network or storage beside the rent (PUE {AVERAGE_PUE:g} counts for energy alone)",
        *([api_words] if api_words else []),
    ]
    return LifeAnswer(
        plan,
        wish,
        life_over_time(ask.scenario, best.training_usd, Usd(best.serving.usd / requests)),
        even,
        api,
        mixture,
        tuple(assumed),
    )


def _demand(s: Scenario) -> str:
    growth = f", {s.growth:+.0%} a month" if s.growth else ", without growth"
    cached = f", {s.cached_share:.0%} of prompts from the cache" if s.cached_share else ""
    return (
        f"{s.requests_per_day:,.0f} requests a day{growth} for {s.months:g} months, {s.prompt_tokens:g} tokens read "
        f"and {s.answer_tokens:g} written by each of {s.samples} answers{cached}; the busiest hour has "
        f"{s.peak_factor:g} times the mean"
    )


_Law = tuple[
    ChinchillaLaw, tuple[tuple[float, float], tuple[float, float]], list[ChinchillaLaw], PublishedLaw | None, str
]


def _law(home: Home, ask: LifeAsk) -> _Law:
    """The law, the N and D behind it, draws of its fit, the published one if it is, and what it is in words."""
    name = ask.law or (WITH_ACCURACY if ask.target_accuracy is not None else DEFAULT)
    if name == "run":
        fit, sweep, run_id = measured_law(home, ask.run)
        words = f"the run's own, {run_id} ({fit.num_runs} runs); its losses are on its own corpus and vocabulary"
        warned = "".join(f"; the fit warns: {warning}" for warning in fit.warnings)
        ranges = ((sweep.min_params, sweep.max_params), (sweep.min_tokens, sweep.max_tokens))
        return fit.law, ranges, fit.sample_laws() if len(fit.samples) else [], None, words + warned
    published = find_law(name)
    words = f"{published.name} ({published.source}); limits: {published.limits}"
    return published.law, (published.params, published.tokens), [], published, words


def _by_other(law: ChinchillaLaw, num_params: float, tokens: float) -> tuple[ChinchillaLaw, float]:
    return law, float(law.loss(num_params, tokens))


def _ratios(
    others: tuple[tuple[ChinchillaLaw, float], ...], loss: float, law: ChinchillaLaw, wish: Wish, market: Market
) -> tuple[float, ...]:
    """Tokens that each published law asks of the best model for the same quality, over those that this one asks."""
    best = plan_life(loss, law, ((1, 1e30), (1, 1e30)), wish, market).best
    found = [other.tokens_for_loss(best.num_params, its) / best.tokens for other, its in others]
    return tuple(x for x in found if math.isfinite(x) and x > 0)


def _api(home: Home, text: str | None) -> tuple[TokenPrices | None, str]:
    """A hosted model's prices: IN/OUT in dollars per million, or the name of one that the home has imported."""
    if text is None:
        return None, ""
    read, slash, written = text.partition("/")
    try:
        if slash:
            prices = TokenPrices(float(read), float(written))
            if min(prices.input, prices.output) >= 0 and math.isfinite(prices.input + prices.output):
                return prices, f"hosted: {prices.input:g} $ a million tokens read, {prices.output:g} $ written"
    except ValueError:
        pass
    known = [one for one in home_api_prices(home) if one.model.casefold() == text.casefold()]
    if not known:
        raise ValueError(
            f"--api {text}: takes dollars a million tokens read and written, such as 0.1/0.4, or a model of "
            "`lifespan prices list --model NAME`"
        )
    one = min(known, key=lambda price: price.usd_per_million_output)
    words = f"hosted: {one.model} at {one.provider}, {one.date}"
    return TokenPrices(one.usd_per_million_input, one.usd_per_million_output), words
