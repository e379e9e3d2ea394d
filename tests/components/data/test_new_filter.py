"""A filter that is added: one file with its settings and its function, and one field of `DataConfig`.

Both stand here, in a subclass of `DataConfig`, so that the shipped settings stay as they are. In the product the first
is a file in `components/data/filters/`, and the second a line in `components/data/data_config.py`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import pytest
from pydantic import Field

from components.data.filters.quality import quality_reasons
from components.data.pipeline import DataConfig, Filter, Prepared, prepare, steps_of
from flows.settings import ConfigError, Settings, load

# -- components/data/filters/shouting.py ------------------------------------------------------------------------------


@dataclass(frozen=True)
class ShoutingConfig:
    max_capitals: float = 0.5  # share of the letters

    def __post_init__(self) -> None:
        if not 0 <= self.max_capitals <= 1:
            raise ValueError(f"max_capitals is {self.max_capitals}: give a share from 0 to 1")


def shouting_reasons(texts: Sequence[str], config: ShoutingConfig, languages: Sequence[str]) -> list[str]:
    def reason(text: str) -> str:
        letters = [char for char in text if char.isalpha()]
        return "shouting" if sum(map(str.isupper, letters)) > config.max_capitals * len(letters) else ""

    return [reason(text) for text in texts]


# -- components/data/data_config.py, the line that registers it -------------------------------------------------------


@dataclass(frozen=True)
class WithShouting(DataConfig):
    shouting: Annotated[ShoutingConfig | None, Filter("shouting", shouting_reasons)] = field(
        default_factory=ShoutingConfig
    )


# ---------------------------------------------------------------------------------------------------------------------


class Profile(Settings):
    data: WithShouting = Field()


CALM = "The people of the village walked to the harbour in the morning, and they carried what they had found."
LOUD = "THE CHILDREN OF THE CASTLE OPENED THE GATE IN THE EVENING, AND THEY REMEMBERED THE SUMMER WITH THE BIRDS."
PROFILE = """
[[data.sources]]
name = "web"
kind = "jsonl"
path = "{path}"
"""


@pytest.fixture
def profile(tmp_path: Path) -> Path:
    texts = tmp_path / "web.jsonl"
    texts.write_text("\n".join(json.dumps({"text": text}) for text in (CALM, LOUD, "too short")))
    (tmp_path / "mine.toml").write_text(PROFILE.format(path=texts) + "[data.quality]\nmin_words = 10\n")
    return tmp_path / "mine.toml"


def funnel(prepared: Prepared) -> dict[str, tuple[int, dict[str, int]]]:
    return {row.step: (row.num_documents, dict(row.removed)) for row in prepared.funnel}


def test_a_new_filter_is_a_step_of_the_funnel_and_leaves_the_others_as_they_are(profile: Path) -> None:
    with_it = prepare(load(profile, [], Profile).data)
    without = prepare(
        DataConfig(load(profile, [], Profile).data.sources, quality=load(profile, [], Profile).data.quality)
    )
    assert steps_of(load(profile, [], Profile).data) == (
        "read", "normalise", "language", "quality", "shouting", "exact duplicates", "near duplicates", "decontaminate",
    )  # fmt: skip
    assert funnel(with_it)["shouting"] == (1, {"shouting": 1})
    assert [document.text for document in with_it.documents] == [CALM]
    before = ("read", "normalise", "language", "quality")
    assert {step: funnel(with_it)[step] for step in before} == {step: funnel(without)[step] for step in before}
    assert funnel(without)["quality"] == (2, {"too few words": 1}) and "shouting" not in funnel(without)


def test_its_settings_are_those_of_the_profile(profile: Path) -> None:
    assert load(profile, ["data.shouting.max_capitals=0.9"], Profile).data.shouting == ShoutingConfig(0.9)
    assert prepare(load(profile, ["data.shouting.max_capitals=1.0"], Profile).data).documents[1].text == LOUD
    with pytest.raises(ConfigError, match=r"data.shouting.max_capital: .*did you mean data.shouting.max_capitals"):
        load(profile, ["data.shouting.max_capital=0.9"], Profile)
    with pytest.raises(ConfigError, match=r"max_capitals is 7.0: give a share from 0 to 1"):
        load(profile, ["data.shouting.max_capitals=7.0"], Profile)


def test_a_filter_does_not_take_the_name_of_another_step() -> None:
    @dataclass(frozen=True)
    class Twice(DataConfig):
        again: Annotated[bool, Filter("quality", quality_reasons)] = True

    with pytest.raises(ValueError, match="two steps of the data funnel are called 'quality'"):
        steps_of(Twice())
