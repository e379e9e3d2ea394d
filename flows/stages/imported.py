"""A base model that somebody else trained, in place of a tokenizer and a pretraining of our own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from components.model.config import count_params
from components.model.hub.results import ImportedModelResult, ImportedTokenizerResult
from components.model.hub.source import BaseConfig
from flows.engine.stage import stage
from flows.engine.work import Work
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from collections.abc import Callable

    from flows.engine.graph import Graph
    from storage.home import Home


def import_source(
    home: Home,
    source: str,
    revision: str = "main",
    context_length: int = 0,
    show: Callable[[str], None] = print,
    adapter: str = "",
    keep_adapter: bool = False,
) -> tuple[Artifact, Artifact]:
    """Bring a model into the store, without a run: its tokenizer and its checkpoint, the same artifacts that a run with
    this `[base]` uses.

    Raises ConfigError for a source that is no model, or one that cannot be read.
    """
    from components.model.hub.errors import UnsupportedModel
    from components.model.hub.source import digests, locate
    from flows.engine.graph import Graph
    from flows.engine.jobs import run_here
    from flows.settings import ComputeConfig, ConfigError

    try:
        commit = locate(source, revision).commit
        if commit:
            show(f"{source} is at commit {commit}")
        graph = Graph()
        config = BaseConfig(source, commit, context_length, adapter, keep_adapter)
        base_graph(config, graph, digests(config))
        made: dict[str, Artifact] = {}
        for node in graph.nodes.values():
            sealed = home.store.find(node.key)
            made[node.key] = sealed or run_here(node.job("import", home, ComputeConfig(), made), lambda event: None)
    except UnsupportedModel as error:
        raise ConfigError(str(error)) from None
    tokenizer, model = made.values()
    return tokenizer, model


def base_graph(config: BaseConfig, run: Graph, raw: Mapping[str, str]) -> tuple[Artifact, Artifact]:
    """The tokenizer and the base model of `[base]`. `raw`: digests of the model's files."""
    tokenizer = import_tokenizer.submit(run, config=config, raw=raw)
    return tokenizer, import_model.submit(run, config=config, raw=raw, tokenizer=tokenizer)


@stage(produces="tokenizer", group="pretraining", seconds=4, exact=True)
def import_tokenizer(work: Work, *, config: BaseConfig, raw: Mapping[str, str]) -> ImportedTokenizerResult:
    """The tokenizer that a model came with, its special tokens and its chat template.

    `raw`: digests of the model's files; only there so that other bytes make another artifact.
    """
    from components.model.hub import imports
    from components.model.hub.source import locate

    tokenizer = imports.import_tokenizer(locate(config.model, config.revision))
    tokenizer.save(work.out)
    own = tokenizer.conventions is None or bool(tokenizer.conventions.chat_template)
    return ImportedTokenizerResult(
        source=config.model,
        vocab_size=tokenizer.vocab_size,
        end_of_turn=tokenizer.token(tokenizer.end_id),
        chat_template="its own" if own else "plain: the model brings none",
    )


@stage(produces="checkpoint", group="pretraining", seconds=15, exact=True)
def import_model(work: Work, *, config: BaseConfig, raw: Mapping[str, str], tokenizer: Artifact) -> ImportedModelResult:
    """A model's weights and configuration as a checkpoint of ours. `tokenizer`: the one that it came with."""
    from components.model.hub import imports
    from components.model.hub.source import locate
    from components.training.checkpoints import save_model
    from components.training.lora import attach_lora

    source = locate(config.model, config.revision)
    adapter = Path(config.adapter).expanduser() if config.adapter else None
    kept = adapter if config.keep_adapter else None
    network = imports.import_model(source, context_length=config.context_length, adapter=None if kept else adapter)
    if kept is not None:
        attach_lora(network, *imports.import_adapter(source, kept, network))
    save_model(work.out, network)
    counts = count_params(network.cfg)
    return ImportedModelResult(
        source=config.model,
        revision=source.commit,
        num_params=counts.total,
        num_params_active=counts.active,
        num_params_non_embedding=counts.non_embedding,
        context_length=network.cfg.context_length,
    )
