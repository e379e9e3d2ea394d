"""Settings: what a user writes arrives as it was meant, and each mistake is named where it was made."""

from __future__ import annotations

import contextlib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

import flows.settings
from components.model.config import ModelConfig, MoEConfig, linear_maps
from flows.config import late_mistakes, load_config
from flows.settings import ConfigError, merge, parse_overrides, parse_value, profile_names


@dataclass(frozen=True)
class Inner:
    lr: float = 0.1
    sizes: tuple[int, ...] = (1, 2)
    mode: Literal["cosine", "wsd"] = "wsd"
    label: str = "x"
    limit: int | None = None


@dataclass(frozen=True)
class Ppo:
    kl_coef: float = 0.1
    inner: Inner = field(default_factory=Inner)
    weights: dict[str, float] = field(default_factory=dict)
    many: tuple[Inner, ...] = ()

    def __post_init__(self) -> None:
        if self.kl_coef < 0:
            raise ValueError("kl_coef must be 0 or more")


class Settings(flows.settings.Settings):
    ppo: Ppo = Field(default_factory=Ppo)


def load(tmp_path: Path, text: str = "", *overrides: str) -> Settings:
    file = tmp_path / "mine.toml"
    file.write_text(text)
    return flows.settings.load(file, overrides, Settings)


def mistake(tmp_path: Path, text: str = "", *overrides: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, *overrides)
    return str(caught.value)


def test_types_arrive_as_the_dataclasses_say(tmp_path: Path) -> None:
    cfg = load(
        tmp_path, "[ppo]\nkl_coef = 1\n[ppo.inner]\nsizes = [3, 4]\n", "ppo.inner.mode=cosine", "ppo.weights.sotu=0.5"
    )
    assert cfg.ppo == Ppo(1.0, Inner(sizes=(3, 4), mode="cosine"), {"sotu": 0.5})
    assert isinstance(cfg.ppo.kl_coef, float)
    assert cfg.name == "mine"


def test_text_fields_take_text_that_looks_like_a_number(tmp_path: Path) -> None:
    assert load(tmp_path, "", "ppo.inner.label=12").ppo.inner.label == "12"
    assert load(tmp_path, "", 'ppo.inner.label="a b"').ppo.inner.label == "a b"
    assert load(tmp_path, "", "ppo.inner.limit=12").ppo.inner.limit == 12


def test_later_overrides_win_and_leave_their_neighbours(tmp_path: Path) -> None:
    cfg = load(tmp_path, "[ppo.inner]\nlr = 0.5\nlimit = 7\n", "ppo.inner.lr=0.6", "ppo.inner.lr=0.7")
    assert (cfg.ppo.inner.lr, cfg.ppo.inner.limit) == (0.7, 7)


def test_a_file_may_extend_another(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("seed = 3\n[ppo.inner]\nlr = 0.5\nlimit = 7\n")
    cfg = load(tmp_path, 'extends = "base.toml"\n[ppo.inner]\nlr = 0.9\n')
    assert (cfg.seed, cfg.ppo.inner.lr, cfg.ppo.inner.limit) == (3, 0.9, 7)


def test_a_circle_of_files_is_told(tmp_path: Path) -> None:
    assert "extends itself" in mistake(tmp_path, 'extends = "./mine.toml"')


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[ppo]\nkl_coeff = 1\n", ["mine.toml:2", "ppo.kl_coeff", "did you mean ppo.kl_coef?", "It takes: kl_coef"]),
        ("[ppo.inner]\n\nlrr = 2\n", ["mine.toml:3", "ppo.inner.lrr", "did you mean ppo.inner.lr?"]),
        ("pppo.kl_coef = 2\n", ["mine.toml:1", "pppo", "did you mean ppo?"]),
        ("[[ppo.many]]\nlr = 1\n[[ppo.many]]\nlearning = 1\n", ["ppo.many.learning", "no such setting"]),
        ('[ppo]\nkl_coef = "a"\n', ["mine.toml:2", "ppo.kl_coef", "takes number", 'found "a"']),
        ("[ppo.inner]\nsizes = [1, 2.5]\n", ["mine.toml:2", "ppo.inner.sizes.1", "whole number", "found 2.5"]),
        ('seed = "3"\n', ["mine.toml:1", "seed", "whole number", 'found "3"']),
        ("[compute]\nworkers = true\n", ["mine.toml:2", "compute.workers", "whole number", "found true"]),
        ('[ppo.inner]\nmode = "linear"\n', ["mine.toml:2", "'cosine' or 'wsd'", 'found "linear"']),
        ("[ppo]\nkl_coef = -1\n", ["mine.toml:1", "ppo: kl_coef must be 0 or more"]),
        ("ppo = 3\n", ["mine.toml:1", "ppo", "takes a section", "found 3"]),
        ("[ppo\nkl_coef = 1\n", ["mine.toml:1:5", "not valid TOML"]),
        ("name = life\n", ["mine.toml:1:8", "not valid TOML", "quotes"]),
    ],
)
def test_a_mistake_in_a_file_names_line_field_and_remedy(tmp_path: Path, text: str, expected: list[str]) -> None:
    message = mistake(tmp_path, text)
    for part in expected:
        assert part in message


def test_all_mistakes_are_told_at_once(tmp_path: Path) -> None:
    message = mistake(tmp_path, 'seed = "x"\n[ppo]\nkl_coef = "a"\n')
    assert "seed" in message
    assert "ppo.kl_coef" in message


def test_a_mistake_in_an_override_is_not_blamed_on_the_file(tmp_path: Path) -> None:
    message = mistake(tmp_path, "[ppo]\nkl_coef = 0.5\n", "ppo.kl_coef=high")
    assert message.startswith("--set: ppo.kl_coef:")
    assert "mine.toml" not in message
    assert "a value" in mistake(tmp_path, "", "seed")


def test_a_mistake_in_an_extended_file_is_blamed_on_it(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text("\n[ppo]\nkl = 0.5\n")
    assert "base.toml:3" in mistake(tmp_path, 'extends = "base.toml"\nseed = 1\n')


def test_a_wrong_profile_name_shows_the_right_one() -> None:
    with pytest.raises(ConfigError, match=r"did you mean laptop\?"):
        load_config("laptpo")
    with pytest.raises(ConfigError, match=r"nowhere\.toml: no such file"):
        load_config("nowhere.toml")


def test_a_binary_profile_is_told_as_such(tmp_path: Path) -> None:
    file = tmp_path / "x.toml"
    file.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="UTF-8"):
        load_config(file)


@pytest.mark.parametrize("name", profile_names())
def test_every_profile_that_we_ship_is_valid(name: str) -> None:
    assert load_config(name).name


plain_values = st.one_of(
    st.integers(-(10**12), 10**12),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.text("abc xyz_-", max_size=8),
)


@given(
    st.dictionaries(
        st.sampled_from("abcd"), st.one_of(plain_values, st.dictionaries(st.sampled_from("xyz"), plain_values))
    )
)
def test_merging_nothing_changes_nothing(data: dict[str, Any]) -> None:
    assert merge(data, {}) == data == merge({}, data) == merge(data, data)


@given(st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**18), 10**18) | st.booleans())
def test_a_number_on_the_command_line_is_exact(value: float) -> None:
    text = str(value).lower() if isinstance(value, bool) else repr(value)
    assert parse_value(text, float) == value


@given(st.text(max_size=20))
def test_no_override_ends_in_anything_but_a_config_error(text: str) -> None:
    with contextlib.suppress(ConfigError):
        parse_overrides([text], Settings)


def test_the_hub_is_reached_only_when_a_setting_names_it() -> None:
    def uses_hub(source: str) -> bool:
        return load_config("smoke", [f"data.sources=[{{ {source} }}]"]).uses_hub

    assert not uses_hub('name = "hub", kind = "text", path = "hub/*.txt"')
    assert uses_hub('name = "x", kind = "hub", path = "owner/name", revision = "main"')


def test_a_reason_for_a_setting_goes_when_the_setting_is_overridden(tmp_path: Path) -> None:
    (tmp_path / "base.toml").write_text(
        '[chosen]\n"ppo.kl_coef" = "why"\n"ppo.inner.lr" = "because"\n"ppo.inner" = "so"\n[ppo]\nkl_coef = 0.2\n'
    )
    extended = 'extends = "base.toml"\n[ppo.inner]\nlr = 0.5\n'
    assert set(load(tmp_path, extended).chosen) == {"ppo.kl_coef"}  # a part of ppo.inner is another one, too
    assert set(load(tmp_path, extended, "ppo.kl_coef=0.3").chosen) == set()
    assert set(load(tmp_path, 'extends = "base.toml"\n').chosen) == {"ppo.kl_coef", "ppo.inner.lr", "ppo.inner"}


def test_a_reason_for_a_setting_that_is_not_there_is_named_with_its_line(tmp_path: Path) -> None:
    text = '[chosen]\n"ppo.kl_coeff" = "why"\n'
    assert mistake(tmp_path, text).endswith("mine.toml:2: chosen: there is no setting ppo.kl_coeff")
    assert "chosen" in mistake(tmp_path, "chosen = 3\n")


def test_what_the_default_life_declares_is_what_it_sets() -> None:
    """A reason stands beside a setting that the profile or a default gives a value of its own."""
    chosen = load_config("laptop").chosen
    assert len(chosen) >= 5 and all(len(reason) > 20 for reason in chosen.values())
    # The report shows them whoever's preferences were learned: no gold, then.
    assert not [reason for reason in chosen.values() if "gold" in reason or "true preference" in reason]
    assert "alignment.free_iterations" not in load_config("laptop", ["alignment.free_iterations=5"]).chosen
    assert "alignment.free_iterations" not in load_config("smoke").chosen  # the reason speaks of another value


@pytest.mark.parametrize("text", ["nan", "inf", "-inf", "1e400"])
@pytest.mark.parametrize(
    "setting",
    [
        "ppo.kl_coef",
        "dpo.beta",
        "grpo.temperature",
        "finetune.max_grad_norm",
        "compute.usd_per_core_hour",
        "pretrain.z_loss",
    ],
)
def test_no_setting_takes_what_is_no_finite_number(setting: str, text: str) -> None:
    with pytest.raises(ConfigError, match=f"{setting}: takes a finite number"):
        load_config("smoke", [f"{setting}={text}"])


def test_nor_does_a_setting_within_a_list_or_a_table() -> None:
    for setting, value in (
        ("alignment.compare_kl_coefs", "[0.1, nan]"),
        ("pretrain.loss_weights", "{stories = inf}"),
        ("finetune.lora", "{alpha = nan}"),
        ("preferences.temperatures", "[inf]"),
    ):
        with pytest.raises(ConfigError, match=rf"{setting}.* takes a finite number"):
            load_config("smoke", [f"{setting}={value}"])


def test_a_vocabulary_too_small_for_all_bytes_is_refused_before_a_run() -> None:
    with pytest.raises(ConfigError, match="vocab_size is 100; it takes at least 262"):
        load_config("smoke", ["tokenizer.vocab_size=100"])


@pytest.mark.parametrize(
    ("overrides", "label", "told"),
    [
        (["pretrain.context_length=256"], "pretrain", "pretrain.context_length is 256: it takes at most 128"),
        (["model.context_length=64"], "finetune", "finetune.context_length is 128: it takes at most 64"),
        (["finetune_on_puzzles.context_length=129"], "finetune[puzzles]", "finetune_on_puzzles.context_length is 129"),
        (
            ["finetune.lora={targets=['q_proj']}"],
            "finetune",
            "no linear map is called 'q_proj'; it takes blocks.attention",
        ),
        (["dpo.lora={targets=['q_proj']}"], "dpo", "dpo.lora.targets: no linear map is called 'q_proj'"),
        (["grpo.lora={targets=['up']}"], "grpo", "grpo.lora.targets: no linear map is called 'up'"),
        (["ppo.lora={targets=['up']}", "ppo.kl_coef=0.2"], "ppo[kl_coef=0.2]", "ppo.lora.targets: no linear map"),
        (["reward_model.lora={targets=['up']}"], "train_reward_model", "reward_model.lora.targets: no linear map"),
        (
            ["recurrent.train.gradient_checkpointing=true"],
            "architecture[lstm]",
            "recurrent.train.gradient_checkpointing is true: an LSTM has no blocks",
        ),
        (
            ["pretrain.loss_weights={tales=2}"],
            "pretrain",
            "pretrain.loss_weights.tales: no such data source; there are",
        ),
        (["recurrent.train.optimizer.base_width=64"], "architecture[lstm]", "base_width is 64: an LSTM has no such"),
    ],
)
def test_settings_that_do_not_fit_together_are_told_before_the_stage_runs(
    overrides: list[str], label: str, told: str
) -> None:
    cfg = load_config("smoke", overrides)
    [found] = late_mistakes(cfg, {label}, cfg.model.context_length)
    assert told in found
    assert late_mistakes(cfg, {"prepare_corpus"}, cfg.model.context_length) == []  # whose stages are not there


@pytest.mark.parametrize("name", profile_names())
def test_in_no_profile_of_ours_is_there_such_a_mistake(name: str) -> None:
    cfg = load_config(name)
    labels = {"pretrain", "finetune", "finetune[puzzles]", "architecture[lstm]"}
    assert late_mistakes(cfg, labels, None if cfg.base.model else cfg.model.context_length) == []


def test_the_names_of_linear_maps_are_those_of_the_model() -> None:
    from torch import nn

    from components.model.transformer import Transformer

    for cfg in (
        ModelConfig(d_model=16),
        ModelConfig(d_model=16, tie_embeddings=False, moe=MoEConfig(2, 1, 8, shared_d_ff=8, shared_gate=True)),
        ModelConfig(d_model=16, moe=MoEConfig(2, 1, 8, first_dense=1)),
    ):
        maps = [name for name, part in Transformer(cfg).named_modules() if isinstance(part, nn.Linear)]
        found = {".".join(part for part in name.split(".") if not part.isdigit()) for name in maps}
        assert set(linear_maps(cfg)) == found
