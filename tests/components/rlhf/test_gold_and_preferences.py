from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest

from components.data.stories import story, story_prompt
from components.rlhf.gold import gold_score, story_facts
from components.rlhf.preferences import (
    Answer,
    Preference,
    label_temperature,
    make_preferences,
    read_preferences,
    write_preferences,
)
from components.rlhf.preferences_config import PreferencesConfig

PROMPT = story_prompt("Sue", "kite")


def test_gold_of_a_good_story_by_hand() -> None:
    text = "Sue goes to the park. Sue has a kite. Sue is glad. The friend is kind. The end."
    # name 1, object 1, two positive words 1.4, four kinds 1.2, ending 0.6
    assert gold_score(PROMPT, text) == pytest.approx(5.2)


def test_gold_of_the_known_hack_by_hand() -> None:
    text = "Sue is glad. " * 6
    # name 1; 6 positive: 1.4 - 4 * 0.8; one kind 0.3; five repetitions -3.5
    assert gold_score(PROMPT, text) == pytest.approx(1 + 1.4 - 3.2 + 0.3 - 3.5)


def test_gold_counts_what_a_template_does_not_cover() -> None:
    facts = story_facts(PROMPT, "Tom is sad. Tom is sad. kite kite. The end. The end.")
    assert (facts.has_name, facts.has_thing, facts.negative) == (False, True, 2)
    assert (facts.kinds, facts.malformed, facts.repeated, facts.ended) == (1, 1, 2, True)
    assert gold_score(PROMPT, " ".join(["Sue"] * 42)) == pytest.approx(1 - 0.5 - 1.0)  # ten words too many


def test_every_generated_story_is_well_formed() -> None:
    rng = random.Random(0)
    for _ in range(200):
        assert story_facts(PROMPT, story(rng)).malformed == 0


def test_gold_names_a_prompt_that_is_none() -> None:
    with pytest.raises(ValueError, match="no story request"):
        gold_score("What is 2 + 2?", "4")


def test_label_temperature_gives_the_agreement_that_was_asked_for() -> None:
    margins = np.random.default_rng(0).normal(0, 2, 500)
    tau = label_temperature(margins, 0.82)
    assert np.mean(1 / (1 + np.exp(-np.abs(margins) / tau))) == pytest.approx(0.82, abs=1e-9)
    assert label_temperature([1.0], 0.82) == pytest.approx(1 / math.log(0.82 / 0.18))
    with pytest.raises(ValueError, match=r"above 0\.5"):
        label_temperature([1.0], 0.5)


def _answers(n: int) -> tuple[list[str], list[list[Answer]]]:
    rng = random.Random(1)
    return [PROMPT] * n, [[Answer(story(rng)) for _ in range(4)] for _ in range(n)]


def test_labels_are_noisy_at_the_asked_rate_and_seeded() -> None:
    prompts, answers = _answers(500)
    config = PreferencesConfig(label_noise=0.18)
    made, left_out = make_preferences(prompts, answers, gold_score, config, seed=3)
    assert len(made) + len(left_out) == 1500
    for p in made:
        margin = gold_score(p.prompt, p.chosen) - gold_score(p.prompt, p.rejected)
        assert p.gold_margin == pytest.approx(margin) and p.agrees_with_gold == (margin > 0)
    agreement = np.mean([bool(p.agrees_with_gold) for p in made])
    assert abs(agreement - 0.82) < 3 * math.sqrt(0.82 * 0.18 / len(made))
    # It says how sure it was, and is right that often.
    assert np.mean([p.confidence or 0.0 for p in made]) == pytest.approx(0.82, abs=1e-6)
    sure = [bool(p.agrees_with_gold) for p in made if (p.confidence or 0.0) > 0.9]
    unsure = [bool(p.agrees_with_gold) for p in made if (p.confidence or 0.0) < 0.7]
    assert np.mean(sure) > 0.88 and np.mean(unsure) < 0.72
    assert make_preferences(prompts, answers, gold_score, config, seed=3)[0] == made
    assert make_preferences(prompts, answers, gold_score, config, seed=4)[0] != made
    exact, _ = make_preferences(prompts, answers, gold_score, PreferencesConfig(label_noise=0.0), seed=3)
    assert all(p.agrees_with_gold for p in exact)


def test_pairs_that_teach_nothing_are_left_out_with_the_reason() -> None:
    groups = [[Answer("Sue is glad."), Answer("Sue is glad.")], [Answer(" "), Answer("Sue is glad.")]]
    groups.append([Answer("Sue is glad."), Answer("Sue is kind.")])
    config = PreferencesConfig(num_answers=2, pairs_per_prompt=1)
    made, left_out = make_preferences([PROMPT] * 3, groups, gold_score, config, seed=0)
    assert made == []
    assert [item.line for item in left_out] == [0, 1, 2]
    reasons = " | ".join(item.reason for item in left_out)
    assert reasons == "chosen and rejected are equal | chosen is empty | gold scores the answers equally"


@pytest.mark.parametrize("name", ["pairs.jsonl", "pairs.parquet"])
def test_files_round_trip(tmp_path: Path, name: str) -> None:
    written = [
        Preference("p\n", "naïve ✓", "b", "id1", "ann", True, False, 0.5, -1.25),
        Preference("q", "a", "b", "id2"),
    ]
    write_preferences(tmp_path / name, written)
    assert read_preferences(tmp_path / name) == (written, [])


def test_broken_lines_are_quarantined_by_line_and_the_rest_is_read(tmp_path: Path) -> None:
    good = json.dumps({"prompt": "p", "chosen": "a", "rejected": "b", "source": "elsewhere"})
    lines: list[tuple[bytes, str]] = [
        (b"{nope", "broken JSON"),
        (b'["p", "a", "b"]', "not an object"),
        (b'{"prompt": "p", "chosen": "a"}', "rejected is missing"),
        (b'{"prompt": "p", "chosen": ["a"], "rejected": "b"}', "chosen is list, not text"),
        (b'{"prompt": "p", "chosen": "a", "rejected": " a "}', "are equal"),
        (b'{"prompt": "p", "chosen": "", "rejected": "b"}', "chosen is empty"),
        (b'{"prompt": "p", "chosen": "a", "rejected": "b", "gold_margin": NaN}', "not a finite number"),
        (b'{"prompt": "p", "chosen": "a", "rejected": "b", "chosen_finished": "yes"}', "not bool"),
        (b"\xff\xfe", "not UTF-8"),
    ]
    path = tmp_path / "pairs.jsonl"
    path.write_bytes(good.encode() + b"\n\n" + b"\n".join(line for line, _ in lines) + b"\n" + good.encode())
    read, bad = read_preferences(path)
    assert len(read) == 2 and read[0].pair_id == read[1].pair_id != ""
    assert [item.line for item in bad] == list(range(3, 3 + len(lines)))
    for item, (_, reason) in zip(bad, lines, strict=True):
        assert reason in item.reason and item.file == str(path)


def test_a_file_that_is_none_says_so(tmp_path: Path) -> None:
    for content in (b"not parquet", b"PAR1 not really"):
        (tmp_path / "x.parquet").write_bytes(content)
        with pytest.raises(ValueError, match=r"x\.parquet cannot be read: (neither JSON|damaged)"):
            read_preferences(tmp_path / "x.parquet")
