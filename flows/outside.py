"""What a life takes from outside, hashed once: the user's files, a base model, people's judgements, code of rewards."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from components.data.instruction import conversation_digests
from components.data.prompt_files import prompt_digests
from components.data.sources import raw_digests
from components.model.hub.errors import UnsupportedModel
from components.model.hub.source import digests
from components.reasoning.evaluation_sets import evaluation_digests
from components.rlhf.rewards.kinds import RewardConfig, files_of
from components.rlhf.rewards.python_function import PythonReward
from components.rlhf.rewards.sequence_classifier import ClassifierReward
from flows.config import RunConfig
from flows.settings import ConfigError
from flows.stages import preferences
from storage.code import file_fingerprint
from storage.home import Home


@dataclass(frozen=True)
class Outside:
    """What a life takes from outside, by its bytes: with other bytes it is another life. Empty: nothing is there.

    Attributes:
        sources: digests of the user's own files, by data source and file.
        base: digests of the files of `[base]`.
        preferences: digest of the file of `preferences.path`.
        prompts, evaluations: digests of the user's own files, by source and file.
        rewards: digests of the code and files that rewards and gold read, by name.
        judgements: marks of the annotators' journals, by the key of the answers that they judge.
        conversations: digests of the user's own conversations, by instruction source and file.
    """

    sources: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    base: Mapping[str, str] = field(default_factory=dict)
    preferences: Mapping[str, str] = field(default_factory=dict)
    judgements: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    conversations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    prompts: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    evaluations: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    rewards: Mapping[str, str] = field(default_factory=dict)


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
        prompts={one.called: prompt_digests(one) for one in cfg.prompts},
        evaluations={one.called: evaluation_digests(one) for one in cfg.evaluations},
        rewards={name: digest for one in (*cfg.rewards, *cfg.gold) for name, digest in reward_digests(one).items()},
    )


def reward_digests(reward: RewardConfig) -> dict[str, str]:
    """Digests of the code and files that a reward reads. Raises ConfigError for what is not there or does not parse."""
    try:
        if isinstance(reward, PythonReward):
            return {str(reward.file.parent / name): digest for name, digest in file_fingerprint(reward.file).items()}
        if isinstance(reward, ClassifierReward):
            return {f"{reward.model}: {name}": digest for name, digest in digests(reward.base).items()}
        return {file: hashlib.sha256(Path(file).read_bytes()).hexdigest() for file in files_of(reward)}
    except UnsupportedModel as error:
        raise ConfigError(f"rewards: {error}") from None
    except SyntaxError as error:
        raise ConfigError(f"rewards: {error.filename}:{error.lineno}: {error.msg}") from None
    except OSError as error:
        raise ConfigError(f"rewards: {error.filename}: {error.strerror}; paths are relative to {Path.cwd()}") from None
