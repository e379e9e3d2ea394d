"""The whole life as an assembly, and its run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from components.model.config import ModelConfig
from components.model.hub.errors import UnsupportedModel
from components.model.hub.source import is_hub_name, locate
from components.reasoning.reasoning_config import ReasoningConfig
from components.rlhf.rewards.settings import RewardSettings
from components.scaling.text_runs import LSTM, TRANSFORMER
from flows.config import RunConfig, late_mistakes
from flows.engine.device import check_hardware, usable
from flows.engine.graph import Graph, assemble
from flows.engine.ray_seats import check_ray
from flows.outside import Outside, read_outside
from flows.parts import POLICIES, needs_pairs, needs_reward_model
from flows.runs.run import RunResult, run_graph
from flows.runs.showcase import showcase
from flows.runs.start import Start, starting
from flows.services import hermetic
from flows.settings import ConfigError
from flows.stages import cost, data, forgetting, in_context, preferences, reasoning, recurrence, scaling, training
from flows.stages import evaluations as evaluation_sets
from flows.stages import prompts as own_prompts
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


def life(cfg: RunConfig, home: Home, only: Sequence[str] | None = None) -> Graph:
    """The graph of a life in a home: what lies outside is read once, then it is assembled once.

    Args:
        only: labels, stage names or groups: these and what they need.
    """
    outside = read_outside(cfg, home)
    graph = assemble(partial(lifecycle_graph, outside=outside), cfg)
    if cfg.life.parts:
        graph = graph.only(wanted_of(cfg, graph))
    graph = graph.only(only) if only else graph
    if mistakes := late_mistakes(cfg, graph.nodes, _context_length(cfg)):
        raise ConfigError("\n".join(mistakes))
    return graph


def _context_length(cfg: RunConfig) -> int | None:
    model = trained_model(cfg)
    return None if model is None else model.context_length


def trained_model(cfg: RunConfig) -> ModelConfig | None:
    """The model that a life trains, as far as it is known before a run: the vocabulary may come out smaller than the
    tokenizer's setting. None for one of the hub, which is not fetched to look at it."""
    if not cfg.base.model:
        return replace(cfg.model, vocab_size=cfg.tokenizer.vocab_size)
    if is_hub_name(cfg.base.model):
        return None
    from components.model.hub.imports import read_config  # brings torch

    try:
        return read_config(locate(cfg.base.model), cfg.base.context_length)
    except UnsupportedModel as error:
        raise ConfigError(f"base.model: {error}") from None


def wanted_of(cfg: RunConfig, graph: Graph) -> list[str]:
    """Labels of the stages that the parts of a life ask for; what those need comes on top."""
    shared = {"prepare_corpus", "train_tokenizer", "tokenize", "make_conversations", "prepare_prompts"}
    shared |= {"prepare_evaluations", "sample_answers", "collect_preferences", "import_tokenizer"}
    if not cfg.life.has("pretrain"):
        shared |= {"pretrain", "import_model"}
    return [label for label, node in graph.nodes.items() if node.stage.name not in shared]


def lifecycle_graph(cfg: RunConfig, run: Graph, outside: Outside) -> None:
    """Every stage from raw text to what it all cost; see `flows/engine/stage.py` for how to write one."""
    seed, has = cfg.seed, cfg.life.has

    # Data, and the model itself. Text is a list: with somebody else's base there may be none.
    evaluations: list[Artifact] = []
    if cfg.evaluations:
        raw = outside.evaluations
        evaluations = [evaluation_sets.prepare_evaluations.submit(run, config=cfg.evaluations, raw=raw)]
    corpus: list[Artifact] = []
    if cfg.data.all_sources:
        settings: dict[str, Any] = {"config": cfg.data, "suite": cfg.suite, "evaluations": evaluations}
        corpus = [data.prepare_corpus.submit(run, raw=outside.sources, **settings)]
    if cfg.base.model:
        tokenizer, base = base_graph(cfg.base, run, outside.base)
        shards = [data.tokenize.submit(run, corpus=text, tokenizer=tokenizer) for text in corpus]
    else:
        tokenizer = data.train_tokenizer.submit(run, config=cfg.tokenizer, corpus=corpus[0])
        shards = [data.tokenize.submit(run, corpus=text, tokenizer=tokenizer) for text in corpus]
        base = training.pretrain.submit(
            run,
            model=cfg.model,
            config=cfg.pretrain,
            weights=cfg.data.weights_by_source,
            seed=seed,
            shards=shards[0],
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
        evaluations=evaluations,
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
    sft = finetune(config=cfg.finetune, conversations=conversations) if has("sft") else base
    models = {"base": base, **({"sft": sft} if has("sft") else {})}

    policies = alignment_graph(cfg, run, outside, base, sft, tokenizer, shards, evaluations)
    # Our chains are what GRPO alone practises; sets of one's own are for every policy.
    models |= {name: policy for name, policy in policies.items() if evaluations or name == "grpo"}
    practised = next((policies[name] for name in ("grpo", "ppo", "dpo") if name in policies), None)

    if has("puzzles"):
        puzzles = data.make_puzzles.submit(run, config=cfg.puzzles, seed=seed)
        solver = finetune(label="finetune[puzzles]", config=cfg.finetune_on_puzzles, conversations=puzzles)
        reasoning.search_puzzles.submit(run, config=cfg.puzzles, model=solver, tokenizer=tokenizer)

    if has("forgetting"):
        for share in cfg.forgetting.compare_replay:
            config = replace(cfg.finetune, replay=share)
            finetune(label=f"finetune[replay={share:g}]", config=config, conversations=conversations)
        checkpoints, before = forgetting.trained_checkpoints(run)
        forgetting.measure_forgetting.submit(
            run,
            config=cfg.forgetting,
            suite=cfg.suite,
            sets=cfg.evaluations,
            before=before,
            checkpoints=checkpoints,
            shards=shards,
            evaluations=evaluations,
            tokenizer=tokenizer,
        )

    scaling_graph(cfg, run)
    architecture_graph(cfg, run, shards)
    if has("emergence"):
        emergence_graph(cfg, run)
    if "in_context" in cfg.life.parts:
        in_context_graph(cfg, run)

    evaluated = reasoning_graph(cfg, run, models, tokenizer, evaluations) if has("reasoning") else []
    if has("cost"):
        serving = cost.measure_serving.submit(run, config=cfg.cost, model=practised or sft, tokenizer=tokenizer)
        cost.account_costs.submit(
            run,
            config=cfg.cost,
            usd_per_core_hour=cfg.compute.usd_per_core_hour,
            spent=[*corpus, tokenizer, *shards, *([conversations, base, sft] if has("sft") else [base])],
            aligned=[practised] if practised else [],
            reasoning=evaluated,
            serving=serving,
        )


def reasoning_graph(
    cfg: RunConfig, run: Graph, models: Mapping[str, Artifact], tokenizer: Artifact, evaluations: list[Artifact]
) -> list[Artifact]:
    """Every model on the user's evaluation sets, or without any on our chains; of several models the base answers
    once."""

    def thought(name: str) -> ReasoningConfig:
        once = name == "base" and len(models) > 1
        return replace(cfg.reasoning, num_samples=1, num_direct_samples=1) if once else cfg.reasoning

    if not evaluations:
        return [
            reasoning.evaluate_reasoning.submit(
                run,
                label=f"evaluate_reasoning[{name}]",
                config=thought(name),
                adaptive=None if name == "base" and len(models) > 1 else cfg.adaptive,
                suite=cfg.suite,
                name=name,
                model=model,
                tokenizer=tokenizer,
            )
            for name, model in models.items()
        ]
    return [
        evaluation_sets.evaluate_set.submit(
            run,
            label=f"evaluate_set[{one.called},{name}]",
            config=one,
            reasoning=thought(name),
            name=name,
            model=model,
            tokenizer=tokenizer,
            evaluations=evaluations[0],
        )
        for one in cfg.evaluations
        for name, model in models.items()
    ]


def alignment_graph(
    cfg: RunConfig,
    run: Graph,
    outside: Outside,
    base: Artifact,
    sft: Artifact,
    tokenizer: Artifact,
    shards: list[Artifact],
    evaluations: list[Artifact],
) -> dict[str, Artifact]:
    """Preferences, reward model, one PPO a KL coefficient or mitigation, DPO if asked for, best-of-n, and GRPO. Returns
    the policies by name; of PPO's that of `ppo.kl_coef`."""
    seed, life, alignment = cfg.seed, cfg.life, cfg.alignment
    with_dpo = "dpo" in life.parts or (not life.parts and alignment.dpo)
    kinds = [reward.kind for reward in cfg.rewards]
    prompts: list[Artifact] = []
    if cfg.prompts and any(life.has(part) for part in POLICIES):
        raw = outside.prompts
        prompts = [
            own_prompts.prepare_prompts.submit(run, config=cfg.prompts, seed=seed, raw=raw, evaluations=evaluations)
        ]
    pairs: list[Artifact] = []
    if needs_pairs(life, kinds, with_dpo):
        pairs = [preference_graph(cfg, run, outside, {"base": base, "sft": sft}, prompts, tokenizer)]
    reward_model = [
        train_reward_model.submit(
            run, config=cfg.reward_model, seed=seed, sft=sft, preferences=pair, tokenizer=tokenizer
        )
        for pair in pairs
        if needs_reward_model(life, kinds)
    ]
    judged: dict[str, Any] = {
        "reward": RewardSettings(cfg.rewards, cfg.gold, cfg.reward_limits, outside.rewards),
        "sft": sft,
        "prompts": prompts,
        "tokenizer": tokenizer,
    }
    paid: dict[str, Any] = {
        "reward_model": reward_model if "reward_model" in kinds or not kinds else [],
        "preferences": pairs,
    }
    policies = {}
    if variants := ppo_graph(cfg, run, shards, judged | paid):
        policies["ppo"] = variants[f"kl_coef={cfg.ppo.kl_coef}"]
    if with_dpo:
        policies["dpo"] = dpo.submit(run, config=cfg.dpo, judging=cfg.judging, seed=seed, **judged, **paid)
    if life.has("best_of_n"):
        best_of_n.submit(run, best_of=alignment.best_of, judging=cfg.judging, seed=seed, **judged, **paid)
    if life.has("grpo"):
        model = reward_model if "reward_model" in kinds else []
        policies["grpo"] = grpo.submit(
            run, config=cfg.grpo, task=cfg.practice, suite=cfg.suite, seed=seed, reward_model=model, **judged
        )
    return policies


def preference_graph(
    cfg: RunConfig,
    run: Graph,
    outside: Outside,
    models: Mapping[str, Artifact],
    prompts: list[Artifact],
    tokenizer: Artifact,
) -> Artifact:
    """Answers to compare, unless a file has them, and what is said of them."""
    config = cfg.preferences
    answers = [
        preferences.sample_answers.submit(
            run,
            config=config.answers,
            seed=cfg.seed,
            models={name: models[name] for name in config.models},
            tokenizer=tokenizer,
            prompts=prompts,
        )
        for _ in range(config.source != "file")
    ]
    return preferences.collect_preferences.submit(
        run,
        config=config,
        seed=cfg.seed,
        judgements=outside.judgements.get(answers[0].key, {}) if answers else {},
        raw=outside.preferences,
        answers=answers,
        judge={config.judge: models[config.judge]} if config.source == "model" and not config.judge_url else {},
        sft=models["sft"],
        tokenizer=tokenizer,
    )


def ppo_graph(cfg: RunConfig, run: Graph, shards: list[Artifact], judged: Mapping[str, Any]) -> dict[str, Artifact]:
    """One PPO a KL coefficient or mitigation, by its name."""
    if not cfg.life.has("ppo"):
        return {}
    alignment = cfg.alignment
    # Of rewards there is one opinion, and nothing for an ensemble to disagree on.
    mitigations = [name for name in alignment.mitigations if name == "length" or not cfg.rewards]
    variants = {
        f"kl_coef={kl_coef}": alignment.held(cfg.ppo, kl_coef)
        for kl_coef in sorted({cfg.ppo.kl_coef, *alignment.compare_kl_coefs})
    } | {name: alignment.mitigated(cfg.ppo, name) for name in mitigations}
    return {
        name: ppo.submit(
            run,
            label=f"ppo[{name}]",
            config=variant,
            watch=cfg.watch,
            judging=cfg.judging,
            mitigation="KL penalty" if name.startswith("kl_coef") else name,
            seed=cfg.seed,
            replay=shards if variant.replay_coef else [],
            **judged,
        )
        for name, variant in variants.items()
    }


def scaling_graph(cfg: RunConfig, run: Graph) -> None:
    """The dense sweep, its law, the forecast and its score; experts against dense."""
    if cfg.life.has("scaling"):
        sweep_graph(cfg, run)
    for variant, config in cfg.moe.variants().items() if cfg.life.has("experts") else ():
        for moe_seed in cfg.moe.seeds(cfg.seed):
            scaling.train_experts.submit(
                run,
                label=f"experts[{variant},{moe_seed}]",
                variant=variant,
                config=config,
                facts=cfg.scaling.facts,
                seed=moe_seed,
            )


def sweep_graph(cfg: RunConfig, run: Graph) -> None:
    """The dense sweep, its law, the forecast and its score."""
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


def architecture_graph(cfg: RunConfig, run: Graph, shards: list[Artifact]) -> None:
    """A recurrent net beside the transformer, and experts by source; on the life's own text."""
    if not shards:
        return
    on_text: dict[str, Any] = {"weights": cfg.data.weights_by_source, "seed": cfg.seed, "shards": shards[0]}
    if cfg.life.has("recurrent"):
        trained = {
            name: recurrence.train_architecture.submit(
                run, label=f"architecture[{name}]", architecture=name, config=cfg.recurrent, **on_text
            )
            for name in (TRANSFORMER, LSTM)
        }
        recurrence.compare_recurrent.submit(run, config=cfg.recurrent, trained=trained, **on_text)
    for variant in cfg.specialization.variants() if cfg.life.has("specialization") else ():
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


def in_context_graph(cfg: RunConfig, run: Graph) -> None:
    """Every task, size and architecture, and what they show together."""
    config = cfg.in_context
    trained = [
        in_context.train_in_context.submit(
            run,
            label=f"in_context[{task},{name},d{width}]",
            task=task,
            architecture=name,
            config=config,
            width=width,
            seed=cfg.seed,
        )
        for task in config.tasks
        for width in config.widths
        for name in (TRANSFORMER, LSTM)
    ]
    in_context.compare_in_context.submit(run, runs=trained)


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
        check_hardware(cfg.compute)
        if cfg.compute.device != "cpu":
            usable(cfg.compute.device)  # told now, not when the first model is to be trained
        if cfg.compute.engine == "ray":
            check_ray(cfg.compute)
        if start.home.is_remote:
            start.home.check_store()
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
