"""Who judges: gold, people, a model, a file; on answers of tiny untrained models."""

from __future__ import annotations

import json
import random
import statistics
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from components.data.stories import story
from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.rlhf import judge
from components.rlhf.gold import gold_score
from components.rlhf.judgements import Item, judged
from components.rlhf.preferences import read_preferences
from components.rlhf.preferences_config import PreferencesConfig
from components.stage_results import to_facts
from components.training.checkpoints import save_model
from flows.engine.work import Waiting, Work
from flows.settings import ConfigError
from flows.stages import files, preferences
from storage.annotations import Annotations
from storage.artifacts import Artifact


@dataclass(frozen=True)
class Folders:
    """Stands in for the store: an artifact's key is the name of its folder."""

    root: Path

    def path(self, artifact: Artifact) -> Path:
        return self.root / artifact.key


CONFIG = PreferencesConfig(num_prompts=6, num_answers=4, max_tokens=12, temperatures=(0.7, 1.3), models=("sft", "base"))
FIXED: dict[str, Any] = {
    "seed": 3,
    "judge": {},
    "tokenizer": Artifact("tokenizer", "words"),
    "raw": {},
    "judgements": {},
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tokenizer, two models, and answers of theirs."""
    root = tmp_path_factory.mktemp("life")
    rng = random.Random(0)
    words = Tokenizer.train([story(rng) for _ in range(60)], 320)
    words.save(root / "words")
    for seed, name in enumerate(("sft", "base")):
        torch.manual_seed(seed)
        (root / name).mkdir()
        cfg = ModelConfig(vocab_size=320, d_model=16, num_layers=1, num_heads=1, context_length=128)
        save_model(root / name, Transformer(cfg))
    sample(root, "answers", CONFIG)
    return root


def work_in(root: Path, out: str) -> Work:
    (root / out).mkdir()
    return Work(root / out, root / "state", store=Folders(root), local=root)  # type: ignore[arg-type]


def sample(root: Path, out: str, config: PreferencesConfig) -> dict[str, Any]:
    models = {name: Artifact("checkpoint", name) for name in config.models}
    work = work_in(root, out)
    result = preferences.sample_answers.fn(
        work, config=config.answers, seed=3, models=models, tokenizer=FIXED["tokenizer"], prompts=[]
    )
    facts = to_facts(result)
    (root / out / "facts.json").write_text(json.dumps(facts))
    return facts


def collect(
    root: Path, out: str, config: PreferencesConfig, answers: str = "answers", **change: Any
) -> tuple[dict[str, Any], Work]:
    made = Artifact("answers", answers, json.loads((root / "answers" / "facts.json").read_text()))
    work = work_in(root, out)
    sft = Artifact("checkpoint", "sft")
    result = preferences.collect_preferences.fn(work, config=config, answers=[made], sft=sft, **{**FIXED, **change})
    return to_facts(result), work


def test_answers_come_from_every_model_at_every_temperature_and_stay_with_another_judge(place: Path) -> None:
    lines = [json.loads(line) for line in (place / "answers" / files.ANSWERS).read_text().splitlines()]
    assert len(lines) == 6
    for line in lines:
        origins = [(a["model"], a["temperature"]) for a in line["answers"]]
        assert origins == [("sft", 0.7), ("sft", 1.3), ("base", 0.7), ("base", 1.3)]
    others = replace(CONFIG, source="people", overlap=3, label_noise=0.0)
    assert others.answers == CONFIG.answers
    assert CONFIG.answers.shares()[0] == ("sft", 0.7, 1)
    assert replace(CONFIG, num_answers=6).answers.shares() == [
        ("sft", 0.7, 2), ("sft", 1.3, 2), ("base", 0.7, 1), ("base", 1.3, 1)
    ]  # fmt: skip


def test_gold_judges(place: Path) -> None:
    lines = [json.loads(line) for line in (place / "answers" / files.ANSWERS).read_text().splitlines()]
    rng = random.Random(1)
    for line in lines:
        line["answers"] = [{**answer, "text": story(rng)} for answer in line["answers"]]
    (place / "stories").mkdir()
    (place / "stories" / files.ANSWERS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts, work = collect(place, "gold", CONFIG, answers="stories")
    pairs, _ = read_preferences(place / "gold" / files.PREFERENCES)
    assert facts["source"] == "gold" and facts["num_pairs"] == len(pairs)
    assert len(pairs) + len(work.table_rows().get("quarantine", [])) == 6 * 3
    for p in pairs:
        assert p.gold_margin == pytest.approx(gold_score(p.prompt, p.chosen) - gold_score(p.prompt, p.rejected))


def test_the_scale_of_gold_is_the_fine_tuned_models_whoever_else_answers(place: Path) -> None:
    lines = [json.loads(line) for line in (place / "answers" / files.ANSWERS).read_text().splitlines()]
    rng = random.Random(2)
    golds = []
    for line in lines:
        for answer in line["answers"]:
            answer["text"] = story(rng) if answer["model"] == "sft" else "sad sad sad"
        golds += [gold_score(line["prompt"], a["text"]) for a in line["answers"] if a["model"] == "sft"]
    (place / "unlike").mkdir()
    (place / "unlike" / files.ANSWERS).write_text("".join(json.dumps(line) + "\n" for line in lines))
    facts, _ = collect(place, "scale", CONFIG, answers="unlike")
    scale = json.loads((place / "scale" / files.GOLD_SCALE).read_text())
    assert scale == pytest.approx({"mean": statistics.fmean(golds), "std": statistics.pstdev(golds)})
    assert (facts["gold_mean"], facts["gold_std"]) == pytest.approx((scale["mean"], scale["std"]))


def without_gold(folder: Path, facts: dict[str, Any], work: Any) -> None:
    """Neither a scale by which policies could be scored, nor a fact or a row that says what gold would prefer."""
    assert not (folder / files.GOLD_SCALE).exists()
    assert not {"gold_mean", "gold_std", "label_agreement"} & facts.keys()
    rows = work.table_rows()["preferences"]
    assert {(row["gold_margin"], row["agrees_with_gold"]) for row in rows} == {(None, None)}


def test_people_judge_and_the_stage_waits_for_them(place: Path) -> None:
    config = replace(CONFIG, source="people", overlap=2)
    with pytest.raises(Waiting, match=r"12 of 12 judgements are missing \(6 prompts, each for 2 annotators\)") as wait:
        collect(place, "people0", config)
    assert "lifespan annotate" in str(wait.value) and "Only 0 of 2 annotators exist" in str(wait.value)
    annotations = Annotations(place / "annotations")
    (batch,) = annotations.batches()
    items = [Item.from_json(item) for item in batch["items"]]
    for number, item in enumerate(items):
        for name in ("ann", "bob"):
            places = None if (name, number) == ("bob", 0) else list(range(1, len(item.answers) + 1))
            said = judged(item, name, places, seconds=1.0, submitted_at="2026-01-01T00:00:00+00:00")
            annotations.record(batch["batch"], name, {"form": f"{number:016x}", **said.to_json()})
    # Judgements that came after the run began are not in its key: this run says so, and the next one takes them.
    with pytest.raises(Waiting, match="all 12 judgements are stored now"):
        collect(place, "people1", config)
    facts, work = collect(place, "people2", config, judgements=annotations.marks(batch["batch"]))
    assert (facts["num_judgements"], facts["num_skipped"], facts["num_ties"]) == (12, 1, 0)
    pairs, _ = read_preferences(place / "people2" / files.PREFERENCES)
    assert len(pairs) == facts["num_pairs"] == 11 * 6
    assert {(p.source, p.annotator) for p in pairs} == {("people", "ann"), ("people", "bob")}
    assert {row["source"] for row in work.table_rows()["preferences"]} == {"people"}
    without_gold(place / "people2", facts, work)


def test_what_a_model_prefers_has_no_gold_either(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Prompts that the scorer could score, judged by a model that always likes the first answer better."""
    verdict = judge.Verdict(1.0, ("1", "2"))
    monkeypatch.setattr(judge, "judge_pairs", lambda pairs, *_: [verdict] * len(pairs))
    config = replace(CONFIG, source="model", judge_question="{prompt} {first} {second}?")
    facts, work = collect(place, "model2", config, judge={"sft": Artifact("checkpoint", "sft")})
    assert facts["num_pairs"] > 3
    without_gold(place / "model2", facts, work)


def test_a_model_judges_and_what_it_does_not_decide_is_told(place: Path) -> None:
    """An untrained model says nothing that can be read: every pair is named in the quarantine, and the stage fails."""
    config = replace(CONFIG, source="model", judge_question="{prompt} {first} {second}?")
    with pytest.raises(ValueError, match="gave no pair of answers: the judge gave no verdict"):
        collect(place, "model0", config, judge={"sft": Artifact("checkpoint", "sft")})
    long = replace(config, judge_question="{prompt} {first} {second} " + "which one is better? " * 40)
    with pytest.raises(ValueError, match="its context holds 128"):
        collect(place, "model1", long, judge={"sft": Artifact("checkpoint", "sft")})


def test_a_file_is_read_and_what_does_not_fit_is_quarantined_by_line(place: Path) -> None:
    path = place / "mine.jsonl"
    rows = [
        {"prompt": "Any question", "chosen": "yes", "rejected": "no", "gold_margin": 1.5},
        {"prompt": "word " * 400, "chosen": "yes", "rejected": "no"},
        {"prompt": "Any question", "chosen": "yes"},
        {"prompt": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}],
         "chosen": [{"role": "assistant", "content": "a"}], "rejected": [{"role": "assistant", "content": "b"}]},
        {"prompt": [{"role": "user", "content": "Hi"}, {"role": "tool", "content": "x"}],
         "chosen": "a", "rejected": "b"},
    ]  # fmt: skip
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    config = replace(CONFIG, source="file", path=str(path))
    facts, work = collect(place, "file0", config, raw=preferences.file_digest(config))
    assert (facts["num_pairs"], facts["num_left_out"]) == (2, 3)  # a system turn has its place
    without_gold(place / "file0", facts, work)
    bad = {row["line"]: row["reason"] for row in work.table_rows()["quarantine"]}
    assert "the prompt alone" in bad[2] and "context holds 128" in bad[2]
    assert bad[3] == "rejected is missing" and "turns and calls of tools" in bad[5]
    path.write_text(path.read_text() + "\n")
    with pytest.raises(ValueError, match="changed since the run began"):
        collect(place, "file1", config, raw={"mine.jsonl": "0" * 64})
    with pytest.raises(ConfigError, match="no such file"):
        preferences.file_digest(replace(config, path=str(place / "gone.jsonl")))


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"source": "file"}, "path names the file"),
        ({"path": "x.jsonl"}, "path names the file"),
        ({"overlap": 0}, "overlap is 0"),
        ({"temperatures": ()}, "temperatures is"),
        ({"models": ("sft", "sft")}, "name each model once"),
        ({"num_answers": 3}, "need one answer each"),
        ({"judge_question": "{prompt} {first}"}, "judge_question lacks {second}"),
    ],
)
def test_settings_that_cannot_be_are_named(change: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says.replace("{", r"\{")):
        replace(CONFIG, **change)
