"""`lifespan scale optimum`: what to train for a budget, or for a loss and what will be served, in FLOPs or dollars."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from flows.commands.scale_fits import AsJson, FitFile, given, interval_json, print_json, range_words, read_fit, told

if TYPE_CHECKING:
    from components.cost.lifetime import Traffic
    from components.cost.planning import Deployment
    from components.scaling.table_fit import TableFit


def optimum(
    file: FitFile,
    flops: Annotated[float | None, typer.Option(help="Training budget C.")] = None,
    usd: Annotated[float | None, typer.Option(help="Training budget in dollars, on --train-on.")] = None,
    loss: Annotated[float | None, typer.Option(help="Loss to reach.")] = None,
    tokens_served: Annotated[
        float | None, typer.Option(help="Tokens to serve over the lifetime: least training plus serving FLOPs.")
    ] = None,
    requests: Annotated[
        float | None, typer.Option(help="Requests over the lifetime: least training plus serving dollars.")
    ] = None,
    input_tokens: Annotated[float, typer.Option(help="Of a request.")] = 500.0,
    output_tokens: Annotated[float, typer.Option(help="Of a request.")] = 200.0,
    train_on: Annotated[str, typer.Option(metavar="HARDWARE", help="Device to train on, for dollars.")] = "h100-sxm",
    serve_on: Annotated[
        str | None, typer.Option(metavar="HARDWARE", help="Device to serve on; by default that of training.")
    ] = None,
    train_mfu: Annotated[
        float | None, typer.Option(help="Share of the peak in training; by default that of public runs.")
    ] = None,
    prefill_mfu: Annotated[
        float | None, typer.Option(help="Of reading prompts; with --decode-mfu, else by the serving model.")
    ] = None,
    decode_mfu: Annotated[float | None, typer.Option(help="Of writing answers.")] = None,
    unique: Annotated[float | None, typer.Option(help="Unique tokens that there are, for the law repeated.")] = None,
    granularity: Annotated[float | None, typer.Option(help="Hold it; by default the best is searched.")] = None,
    sparsity: Annotated[float | None, typer.Option(help="Hold it; by default the best is searched.")] = None,
    batch: Annotated[float | None, typer.Option(help="Tokens of a batch, for Kaplan's laws of steps.")] = None,
    vocab: Annotated[
        int | None, typer.Option(min=2, help="Vocabulary: round N to a decoder that can be built.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """The best N and D for a training budget; with requests or tokens to serve, the cheapest life of equal loss."""
    with told():
        from components.scaling.table_fit import best_at_budget, reach_words

        fitted = read_fit(file)
        if [flops, usd, loss].count(None) != 2:
            raise ValueError("give one of --flops or --usd (a training budget) and --loss (a target)")
        dollars = usd is not None or requests is not None
        paid = _deployments(train_on, serve_on or train_on, train_mfu, prefill_mfu, decode_mfu) if dollars else None
        said: dict[str, Any] = {}
        lines: list[str] = []
        if usd is not None:
            assert paid is not None
            flops = usd * paid[0].train_mfu / paid[0].usd_per_flop
            lines.append(f"${usd:,.6g} buy {flops:.4g} training FLOPs on {paid[2]}")
            said["usd"] = usd
        held = given(unique=unique, granularity=granularity, sparsity=sparsity, batch=batch)
        best = best_at_budget(fitted, flops, held) if flops is not None else {}
        said |= {"flops": flops, "best": {name: interval_json(value) for name, value in best.items()}}
        if best and flops is not None:
            lines.append(f"compute-optimal at C = {flops:.4g} FLOPs, by the law {fitted.law}:")
            lines += [f"  {name:16} {value.value:.4g}  {range_words(value, '.3g')}" for name, value in best.items()]
            at = {name: value.value for name, value in best.items() if name in fitted.ranges}
            lines += [f"  {words}" for words in reach_words(fitted, at | held)]
            if vocab is not None:
                lines += _built(fitted, best["params"].value, flops, held, vocab, said)
        target = loss if loss is not None else best["loss"].value if "loss" in best else None
        if requests is not None:
            assert paid is not None
            from components.cost.lifetime import Traffic

            traffic = Traffic(requests, input_tokens, output_tokens)
            lines += _dollars(fitted, _known(target, fitted), traffic, paid, vocab, said)
        elif tokens_served is not None or loss is not None:
            lines += _flops(fitted, _known(target, fitted), tokens_served or 0.0, vocab, said)
        if as_json:
            print_json(said)
        else:
            typer.echo("\n".join(lines))


def _known(target: float | None, fitted: TableFit) -> float:
    if target is None:
        raise ValueError(f"the law {fitted.law} knows no loss to hold while serving: fit chinchilla or another")
    return target


def _flops(fitted: TableFit, target: float, served: float, vocab: int | None, said: dict[str, Any]) -> list[str]:
    """The life of least FLOPs, in lines and in `said`."""
    from components.scaling.table_fit import best_when_served, flops_of_life, reach_words

    life, found = best_when_served(fitted, target, flops_of_life(fitted, served))
    said["served"] = {
        "tokens_served": served,
        "loss": target,
        **{name: interval_json(found[name]) for name in ("params", "tokens", "saving")},
        "lifetime_flops": life.cost,
        "compute_optimal_params": life.compute_optimal_params,
        "compute_optimal_tokens": life.compute_optimal_tokens,
        "compute_optimal_lifetime_flops": life.compute_optimal_cost,
    }
    return [
        f"cheapest life at a loss of {target:.4f} with {served:.4g} tokens served:",
        *(f"  {name:16} {found[name].value:.4g}  {range_words(found[name], '.3g')}" for name in ("params", "tokens")),
        f"  lifetime FLOPs   {life.cost:.4g}, {life.saving:.1%} {range_words(found['saving'], '.1%')} less than the "
        "compute-optimal model's",
        *(f"  {w}" for w in reach_words(fitted, {"params": life.num_params, "tokens": life.tokens})),
        *(_rounded(fitted, life.num_params, vocab, said) if vocab is not None else ()),
    ]


def _dollars(
    fitted: TableFit,
    target: float,
    traffic: Traffic,
    paid: tuple[Deployment, Deployment, str, str],
    vocab: int | None,
    said: dict[str, Any],
) -> list[str]:
    """The life of least dollars, in lines and in `said`.

    Of measured shares a parameter's serving costs the same at every N. By the serving model it does not, so the optimum
    is looked for at the price of the model that it gives, until that no longer moves; the cheapest on the way counts.
    """
    from components.scaling.optimum import LifetimeCosts
    from components.scaling.table_fit import best_when_served, flops_of_life, reach_words

    train_on, serve_on, trained, served = paid
    per_flop = fitted.flops_per_param_token * train_on.usd_per_flop / train_on.train_mfu
    size = best_when_served(fitted, target, flops_of_life(fitted, 0.0))[0].num_params
    tried = []
    for _ in range(1 if serve_on.measured is not None else 12):
        costs = LifetimeCosts(per_flop, serve_on.serving_usd(size, traffic) / size)
        from components.scaling.law_forms import cheapest, is_loss_law

        if not is_loss_law(fitted.law):
            raise ValueError(f"the law {fitted.law} is none of loss over N and D alone: fit chinchilla or another")
        life = cheapest(fitted.law, fitted.values, target, costs)
        real = life.training_cost + serve_on.serving_usd(life.num_params, traffic)
        tried.append((real, costs))
        if abs(life.num_params / size - 1) < 1e-4:
            break
        size = life.num_params
    real, costs = min(tried, key=lambda one: one[0])
    life, found = best_when_served(fitted, target, costs)
    serving = serve_on.serving_usd(life.num_params, traffic)
    optimal = per_flop * life.compute_optimal_params * life.compute_optimal_tokens + serve_on.serving_usd(
        life.compute_optimal_params, traffic
    )
    said["served_usd"] = {
        "requests": traffic.requests,
        "loss": target,
        **{name: interval_json(found[name]) for name in ("params", "tokens")},
        "training_usd": life.training_cost,
        "serving_usd": serving,
        "compute_optimal_params": life.compute_optimal_params,
        "compute_optimal_usd": optimal,
        "trained_on": trained,
        "served_on": served,
    }
    return [
        f"cheapest life at a loss of {target:.4f} with {traffic.requests:.4g} requests of {traffic.input_tokens:.4g} "
        f"and {traffic.output_tokens:.4g} tokens:",
        *(f"  {name:16} {found[name].value:.4g}  {range_words(found[name], '.3g')}" for name in ("params", "tokens")),
        f"  dollars          {life.training_cost:,.4g} to train + {serving:,.4g} to serve; the compute-optimal model "
        f"({life.compute_optimal_params:.4g}) {optimal:,.4g} in all",
        f"  trained on {trained}; served on {served}",
        *(f"  {w}" for w in reach_words(fitted, {"params": life.num_params, "tokens": life.tokens})),
        *(_rounded(fitted, life.num_params, vocab, said) if vocab is not None else ()),
    ]


def _deployments(
    train_on: str, serve_on: str, train_mfu: float | None, prefill: float | None, decode: float | None
) -> tuple[Deployment, Deployment, str, str]:
    """What trains and what serves, with both in words."""
    from components.cost.advice import training_share
    from components.cost.hardware import find_hardware
    from components.cost.planning import Deployment
    from components.cost.prices import find_offer
    from flows.runs.prices import home_prices
    from storage.home import Home

    if (prefill is None) != (decode is None):
        raise ValueError("give both of --prefill-mfu and --decode-mfu, or neither")
    for name, share in (("train-mfu", train_mfu), ("prefill-mfu", prefill), ("decode-mfu", decode)):
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"--{name} must lie in (0, 1], got {share}")
    prices = home_prices(Home.from_env())
    trains, serves = find_offer(train_on, prices), find_offer(serve_on, prices)
    reached = training_share(train_on).middle if train_mfu is None else train_mfu
    measured = None if prefill is None or decode is None else (prefill, decode)
    how = "by the serving model" if measured is None else f"at {prefill:.0%} and {decode:.0%} of its peak"
    return (
        Deployment(find_hardware(train_on), trains.price, train_mfu=reached),
        Deployment(find_hardware(serve_on), serves.price, measured=measured),
        f"{train_on}, {trains.basis}, at {reached:.0%} of its peak by 6N",
        f"{serve_on}, {serves.basis}, {how}",
    )


def _rounded(fitted: TableFit, num_params: float, vocab: int, said: dict[str, Any]) -> list[str]:
    """The decoder near N, in lines and in `said`."""
    from components.scaling.buildable import buildable

    found = buildable(num_params, vocab, fitted.convention)
    m = found.model
    said["built"] = {
        "params": found.num_params,
        "d_model": m.d_model,
        "num_layers": m.num_layers,
        "num_heads": m.num_heads,
        "head_dim": m.per_head,
        "vocab_size": m.vocab_size,
    }
    return [f"  as a decoder: {found.words}: N = {found.num_params:.4g}, {found.off:+.1%}"]


def _built(
    fitted: TableFit, num_params: float, flops: float, held: dict[str, float], vocab: int, said: dict[str, Any]
) -> list[str]:
    """The same with the tokens that the budget leaves it, and the loss there."""
    from components.scaling.law_forms import is_loss_law
    from components.scaling.table_fit import predict

    lines = _rounded(fitted, num_params, vocab, said)
    if not is_loss_law(fitted.law):
        return lines
    size = said["built"]["params"]
    tokens = flops / (fitted.flops_per_param_token * size)
    found = predict(fitted, {"params": size, "tokens": tokens}).law
    said["built"] |= {"tokens": tokens, "loss": interval_json(found)}
    return [
        *lines,
        f"  with the {tokens:.4g} tokens that the budget leaves it: loss {found.value:.4f} {range_words(found, '.4f')}",
    ]
