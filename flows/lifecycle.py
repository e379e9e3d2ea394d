"""The whole life as an assembly, and its run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any

from components.data.instruction import conversation_digests
from components.data.sources import raw_digests
from components.model.hub.errors import UnsupportedModel
from components.model.hub.source import digests, is_hub_name, locate
from components.scaling.text_runs import LSTM, TRANSFORMER
from flows.config import RunConfig, late_mistakes
from flows.engine.device import usable
from flows.engine.graph import Graph, assemble
from flows.runs.run import RunResult, run_graph
from flows.runs.showcase import showcase
from flows.runs.start import Start, starting
from flows.services import hermetic
from flows.settings import ConfigError
from flows.stages import cost, data, forgetting, preferences, reasoning, recurrence, scaling, training
from flows.stages.best_of_n import best_of_n
from flows.stages.dpo import dpo
from flows.stages.expert_specialization import specialize_experts
from flows.stages.grpo import grpo
from flows.stages.imported import base_graph
from flows.stages.ppo import ppo
from flows.stages.reward_model import train_reward_model
from storage.artifacts import Artifact
from storage.home import Home
from storage.redaction import masked

if TYPE_CHECKING:
    from rich.console import Console

    from dashboards.report_model import LifeReport
    from flows.engine.runner import Runner


@dataclass(frozen=True)
class Outside:
    """What a life takes from outside, by its bytes: with other bytes it is another life. Empty: nothing is there.

    Attributes:
        sources: digests of the user's own files, by data source and file.
        base: digests of the files of `[base]`.
        preferences: digest of the file of `preferences.path`.
        judgements: marks of the annotators' journals, by the key of the answers that they judge.
        conversations: digests of the user's own conversations, by instruction source and file.
    """

    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    base: Mapping[str, str] = field(default_factory=dict)
    preferences: Mapping[str, str] = field(default_factory=dict)
    judgements: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    conversations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)


def read_outside(cfg: RunConfig, home: Home) -> Outside:
    """Read and hash it: gigabytes, when a user's files are. Raises ConfigError for what is not there."""
    try:
        base = digests(cfg.base) if cfg.base.model else {}
    except UnsupportedModel as error:
        raise ConfigError(f"base.model: {error}") from None
    return Outside(
        sources={source.name: found for source in cfg.data.all_sources if (found := raw_digests(source))},
        conversations={one.name: found for one in cfg.instruction.read if (found := conversation_digests(one))},
        base=base,
        preferences=preferences.file_digest(cfg.preferences),
        judgements=preferences.judgement_marks(cfg.preferences, home),
    )


def life(cfg: RunConfig, home: Home, only: Sequence[str] | None = None) -> Graph:
    """The graph of a life in a home: what lies outside is read once, then it is assembled once.

    Args:
        only: labels, stage names or groups: these and what they need.
    """
    outside = read_outside(cfg, home)
    graph = assemble(partial(lifecycle_graph, outside=outside), cfg)
    graph = graph.only(only) if only else graph
    if mistakes := late_mistakes(cfg, graph.nodes, _context_length(cfg)):
        raise ConfigError("\n".join(mistakes))
    return graph


def _context_length(cfg: RunConfig) -> int | None:
    """Of the model that trains; None for one of the hub, which is not fetched to look at it."""
    if not cfg.base.model:
        return cfg.model.context_length
    if is_hub_name(cfg.base.model):
        return None
    from components.model.hub.imports import read_config  # brings torch

    try:
        return read_config(locate(cfg.base.model), cfg.base.context_length).context_length
    except UnsupportedModel as error:
        raise ConfigError(f"base.model: {error}") from None


def lifecycle_graph(cfg: RunConfig, run: Graph, outside: Outside) -> None:
    """Every stage from raw text to what it all cost; see `flows/engine/stage.py` for how to write one."""
    seed = cfg.seed

    # Data, and the model itself.
    corpus = data.prepare_corpus.submit(run, config=cfg.data, suite=cfg.suite, raw=outside.sources)
    if cfg.base.model:
        tokenizer, base = base_graph(cfg.base, run, outside.base)
        shards = data.tokenize.submit(run, corpus=corpus, tokenizer=tokenizer)
    else:
        tokenizer = data.train_tokenizer.submit(run, config=cfg.tokenizer, corpus=corpus)
        shards = data.tokenize.submit(run, corpus=corpus, tokenizer=tokenizer)
        base = training.pretrain.submit(
            run,
            model=cfg.model,
            config=cfg.pretrain,
            weights=cfg.data.weights_by_source,
            seed=seed,
            shards=shards,
            tokenizer=tokenizer,
        )
    conversations = data.make_conversations.submit(
        run,
        config=cfg.instruction,
        suite=cfg.suite,
        seed=seed,
        raw=outside.conversations,
        context_length=cfg.finetune.context_length if cfg.instruction.read else 0,
        tokenizer=[tokenizer] if cfg.instruction.read else [],
    )
    finetune = partial(
        training.finetune.submit,
        run,
        weights=cfg.data.weights_by_source,
        seed=seed,
        base=base,
        shards=shards,
        tokenizer=tokenizer,
    )
    sft = finetune(config=cfg.finetune, conversations=conversations)

    alignment_graph(cfg, run, outside, base, sft, tokenizer, shards)
    practised = grpo.submit(
        run, config=cfg.grpo, task=cfg.practice, suite=cfg.suite, seed=seed, sft=sft, tokenizer=tokenizer
    )

    puzzles = data.make_puzzles.submit(run, config=cfg.puzzles, seed=seed)
    solver = finetune(label="finetune[puzzles]", config=cfg.finetune_on_puzzles, conversations=puzzles)
    reasoning.search_puzzles.submit(run, config=cfg.puzzles, model=solver, tokenizer=tokenizer)

    for share in cfg.forgetting.compare_replay:
        config = replace(cfg.finetune, replay=share)
        finetune(label=f"finetune[replay={share:g}]", config=config, conversations=conversations)

    checkpoints, before = forgetting.trained_checkpoints(run)
    forgetting.measure_forgetting.submit(
        run,
        config=cfg.forgetting,
        suite=cfg.suite,
        before=before,
        checkpoints=checkpoints,
        shards=shards,
        tokenizer=tokenizer,
    )

    scaling_graph(cfg, run)
    architecture_graph(cfg, run, shards)
    emergence_graph(cfg, run)

    evaluated = [
        reasoning.evaluate_reasoning.submit(
            run,
            label=f"evaluate_reasoning[{name}]",
            config=replace(cfg.reasoning, num_samples=1, num_direct_samples=1) if name == "base" else cfg.reasoning,
            adaptive=None if name == "base" else cfg.adaptive,
            suite=cfg.suite,
            name=name,
            model=model,
            tokenizer=tokenizer,
        )
        for name, model in {"base": base, "sft": sft, "grpo": practised}.items()
    ]
    serving = cost.measure_serving.submit(run, config=cfg.cost, model=practised, tokenizer=tokenizer)
    cost.account_costs.submit(
        run,
        config=cfg.cost,
        usd_per_core_hour=cfg.compute.usd_per_core_hour,
        spent=[corpus, tokenizer, shards, conversations, base, sft],
        aligned=practised,
        reasoning=evaluated,
        serving=serving,
    )


def alignment_graph(
    cfg: RunConfig,
    run: Graph,
    outside: Outside,
    base: Artifact,
    sft: Artifact,
    tokenizer: Artifact,
    shards: Artifact,
) -> None:
    """Preferences, reward model, one PPO a KL coefficient or mitigation, DPO if asked for, best-of-n."""
    seed, config, models = cfg.seed, cfg.preferences, {"base": base, "sft": sft}
    answers = preferences.sample_answers.submit(
        run,
        config=config.answers,
        seed=seed,
        models={name: models[name] for name in config.models},
        tokenizer=tokenizer,
    )
    pairs = preferences.collect_preferences.submit(
        run,
        config=config,
        seed=seed,
        judgements=outside.judgements.get(answers.key, {}),
        raw=outside.preferences,
        answers=answers,
        judge={config.judge: models[config.judge]} if config.source == "model" and not config.judge_url else {},
        tokenizer=tokenizer,
    )
    reward_model = train_reward_model.submit(
        run, config=cfg.reward_model, seed=seed, sft=sft, preferences=pairs, tokenizer=tokenizer
    )
    judged: dict[str, Any] = {
        "sft": sft,
        "reward_model": reward_model,
        "preferences": pairs,
        "tokenizer": tokenizer,
    }
    alignment = cfg.alignment
    variants = {
        f"kl_coef={kl_coef}": alignment.held(cfg.ppo, kl_coef)
        for kl_coef in sorted({cfg.ppo.kl_coef, *alignment.compare_kl_coefs})
    } | {name: alignment.mitigated(cfg.ppo, name) for name in alignment.mitigations}
    for name, variant in variants.items():
        ppo.submit(
            run,
            label=f"ppo[{name}]",
            config=variant,
            watch=cfg.watch,
            judging=cfg.judging,
            mitigation="KL penalty" if name.startswith("kl_coef") else name,
            seed=seed,
            replay=[shards] if variant.replay_coef else [],
            **judged,
        )
    if alignment.dpo:
        dpo.submit(run, config=cfg.dpo, judging=cfg.judging, seed=seed, **judged)
    best_of_n.submit(run, best_of=alignment.best_of, judging=cfg.judging, seed=seed, **judged)


def scaling_graph(cfg: RunConfig, run: Graph) -> None:
    """The dense sweep, its law, the forecast and its score; experts against dense."""
    sweep, seed = cfg.scaling, cfg.seed
    runs = [
        scaling.train_on_facts.submit(
            run, label=f"scale[d{width}]", config=replace(sweep.run, d_model=width), facts=sweep.facts, seed=seed
        )
        for width in sweep.widths
    ]
    fit = scaling.fit_scaling_law.submit(
        run, facts=sweep.facts, steps=sweep.steps, resamples=sweep.resamples, seed=seed, runs=runs
    )
    larger = sweep.forecast_run()
    forecast = scaling.forecast_loss.submit(run, config=larger, facts=sweep.facts, seed=seed, fit=fit, runs=runs)
    scaling.train_forecast_run.submit(run, config=larger, facts=sweep.facts, seed=seed, forecast=forecast)
    for variant, config in cfg.moe.variants().items():
        for moe_seed in cfg.moe.seeds(seed):
            scaling.train_experts.submit(
                run,
                label=f"experts[{variant},{moe_seed}]",
                variant=variant,
                config=config,
                facts=sweep.facts,
                seed=moe_seed,
            )


def architecture_graph(cfg: RunConfig, run: Graph, shards: Artifact) -> None:
    """A recurrent net beside the transformer, and experts by source; on the life's own text."""
    on_text: dict[str, Any] = {"weights": cfg.data.weights_by_source, "seed": cfg.seed, "shards": shards}
    trained = {
        name: recurrence.train_architecture.submit(
            run, label=f"architecture[{name}]", architecture=name, config=cfg.recurrent, **on_text
        )
        for name in (TRANSFORMER, LSTM)
    }
    recurrence.compare_recurrent.submit(run, config=cfg.recurrent, trained=trained, **on_text)
    for variant in cfg.specialization.variants():
        specialize_experts.submit(
            run, label=f"specialize[{variant}]", variant=variant, config=cfg.specialization, **on_text
        )


def emergence_graph(cfg: RunConfig, run: Graph) -> None:
    """Several trainings a size, and the comparison of the sharp with the smooth metric."""
    trained = [
        scaling.train_on_chains.submit(
            run, label=f"emerge[d{width},{seed}]", config=cfg.emergence, width=width, seed=seed
        )
        for width in cfg.emergence.widths
        for seed in cfg.emergence.seeds(cfg.seed)
    ]
    scaling.analyse_emergence.submit(run, config=cfg.emergence, runs=trained)


def run_lifecycle(
    cfg: RunConfig,
    start: Start | None = None,
    *,
    home: Home | None = None,
    console: Console | None = None,
    profile: str = "",
    only: Sequence[str] | None = None,
    prefect: bool = True,
    mlflow: bool = True,
    show: Callable[[Runner], Any] | None = None,
) -> RunResult:
    """Run the life, or a part of it, and write its report: the result's `report` is a
    `dashboards.report_model.LifeReport`.

    Args:
        start: the live view and the server, if they are there already; else they are started, for `home` (by default
            the one of LIFESPAN_HOME) on `console`.
        profile, prefect, mlflow, show: as in `flows.runs.run.run_graph`.
        only: labels, stage names or groups: these and what they need.
    """
    with contextlib.ExitStack() as stack:
        start = start or stack.enter_context(starting(masked(cfg.name), console, home=home, prefect=prefect))
        hermetic.apply(start.home.local, hub=cfg.uses_hub)
        if cfg.compute.device != "cpu":
            usable(cfg.compute.device)  # told now, not when the first model is to be trained
        start.board.say("reading the graph")
        return run_graph(
            life(cfg, start.home, only),
            cfg,
            start,
            profile=profile,
            prefect=prefect,
            mlflow=mlflow,
            show=show,
            conclude=write_report,
            showcase=showcase,
        )


def write_report(home: Home, run_id: str) -> LifeReport:
    """Collect a run's report from the tables and write its page."""
    from dashboards import report  # here: matplotlib costs a second
    from dashboards.annotate.table import write_judgements
    from dashboards.claims import write_claims

    write_judgements(home)
    life = report.collect(home, run_id)
    report.write_page(life, home.report(run_id))
    write_claims(home, life)
    return life
