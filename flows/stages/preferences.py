"""The answers to compare, and what gold, people, a model or a file say of them."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from components.rlhf.preferences_config import AnswersConfig, PreferencesConfig
from components.rlhf.results.preferences import AnswersResult, PreferencesResult
from flows.engine.stage import stage
from flows.engine.work import Waiting, Work
from flows.settings import ConfigError
from flows.stages.bench import own_prompts
from flows.stages.counting import count_answers, count_generation
from flows.stages.files import ANSWERS, GOLD_SCALE, PREFERENCES, VERDICTS
from flows.stages.judges import judge_server
from storage.artifacts import Artifact

if TYPE_CHECKING:
    from components.inference.sampling import SamplingParams
    from components.inference.text import Generate, TextCompletion, TextPrompt
    from components.rlhf.judgements import Candidate, Judgement
    from components.rlhf.preferences import LeftOut, Preference
    from storage.home import Home


@stage(produces="answers", group="rlhf", seconds=11)
def sample_answers(
    work: Work,
    *,
    config: AnswersConfig,
    seed: int,
    models: Mapping[str, Artifact],
    tokenizer: Artifact,
    prompts: list[Artifact],
) -> AnswersResult:
    """Answers of every model at every temperature, each with its origin, to the user's prompts of one turn, if there
    are `prompts`, or to our requests for stories."""
    from components.data.tokenizer import Tokenizer
    from components.inference.engine import generate
    from components.inference.sampling import SamplingParams
    from components.rlhf.judgements import batch_id, make_items
    from components.rlhf.prompts import answer_text, chat_prompts, stop_tokens
    from components.training.checkpoints import load_model

    words = Tokenizer.load(work.open(tokenizer))
    requests = _requests(work, prompts)
    texts = [requests[i % len(requests)] for i in range(config.num_prompts)]
    asked = chat_prompts(words, texts)
    loaded = {name: load_model(work.open(artifact)).to(work.device) for name, artifact in models.items()}
    answers: list[list[dict[str, Any]]] = [[] for _ in texts]
    num_tokens = 0
    for share, (name, temperature, count) in enumerate(config.shares()):
        params = SamplingParams(
            max_tokens=config.max_tokens,
            temperature=temperature,
            num_samples=count,
            seed=seed + 1009 * share,
            stop_ids=stop_tokens(words),
        )
        model, used = loaded[name], 0
        for mine, group in zip(answers, generate(model, asked, params), strict=True):
            used += sum(len(c.tokens) for c in group)
            mine += [
                {
                    "text": answer_text(words, c.tokens),
                    "model": name,
                    "temperature": temperature,
                    "finished": c.finished,
                }
                for c in group
            ]
        count_generation(work, model, used)
        num_tokens += used
    lines = [{"prompt": text, "answers": group} for text, group in zip(texts, answers, strict=True)]
    (work.out / ANSWERS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    items, _ = make_items(*_read_answers(work.out / ANSWERS))
    return AnswersResult(
        num_prompts=len(texts),
        num_answers=sum(map(len, answers)),
        mean_tokens=num_tokens / max(1, sum(map(len, answers))),
        batch=batch_id(items),
        context_length=min(model.cfg.context_length for model in loaded.values()),
    )


def _requests(work: Work, prompts: list[Artifact]) -> list[str]:
    """What the users of the training prompts say. Raises ValueError where all of them have several turns."""
    from components.rlhf.requests import story_requests

    if not prompts:
        return story_requests()[0]
    texts = [prompt.text for prompt in own_prompts(work, prompts[0])[0] if len(prompt.messages) == 1]
    if not texts:
        raise ValueError("no answer to compare: every training prompt has several turns; give preferences.path instead")
    return texts


def _read_answers(path: Path) -> tuple[list[str], list[list[Candidate]]]:
    from components.rlhf.judgements import Candidate

    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [line["prompt"] for line in lines], [[Candidate(**one) for one in line["answers"]] for line in lines]


@stage(produces="preference_set", group="rlhf", seconds=2)
def collect_preferences(
    work: Work,
    *,
    config: PreferencesConfig,
    seed: int,
    judgements: Mapping[str, str],
    raw: Mapping[str, str],
    answers: list[Artifact],
    judge: Mapping[str, Artifact],
    sft: Artifact,
    tokenizer: Artifact,
) -> PreferencesResult:
    """Pairs of answers with the better one named, by whom `config.source` says.

    `judgements`: marks of the annotators' journals, and `raw`: the digest of the file: what people wrote is known by
    its bytes, so other judgements are other preferences. `answers`: what is judged; none where a file has them.
    `judge`: the model that judges, if one does. `sft`: the model that learns from the pairs.
    """
    from components.data.tokenizer import Tokenizer
    from components.rlhf.preferences import write_preferences
    from components.training.checkpoints import load_config

    prompts, groups = _read_answers(work.open(answers[0]) / ANSWERS) if answers else ([], [])
    extra: dict[str, Any]
    if config.source == "gold":
        pairs, left_out, extra = _by_gold(config, seed, prompts, groups)
    elif config.source == "people":
        pairs, left_out, extra = _by_people(work, config, judgements, prompts, groups)
    elif config.source == "model":
        pairs, left_out, extra = _by_model(work, config, seed, judge, tokenizer, prompts, groups)
    else:
        words, limit = Tokenizer.load(work.open(tokenizer)), load_config(work.open(sft)).context_length
        pairs, left_out, extra = _from_file(config, raw, words, limit)
    work.rows("quarantine", [dataclasses.asdict(one) for one in left_out])
    if not pairs:
        reasons = "; ".join(dict.fromkeys(one.reason for one in left_out)) or "nothing but ties and skips"
        raise ValueError(f"preferences.source = {config.source!r} gave no pair of answers: {reasons}")
    write_preferences(work.out / PREFERENCES, pairs)
    if config.source == "gold":
        extra |= _gold_scale(work, pairs, prompts, groups)
    work.rows(
        "preferences",
        [
            {
                "pair_id": p.pair_id,
                "prompt": p.prompt,
                "chosen": p.chosen,
                "rejected": p.rejected,
                "annotator": p.annotator,
                "source": p.source,
                "confidence": p.confidence,
                "gold_margin": p.gold_margin,
                "agrees_with_gold": p.agrees_with_gold,
                "details_json": {"context": [dataclasses.asdict(turn) for turn in p.context]} if p.context else {},
            }
            for p in pairs
        ],
    )
    return PreferencesResult(source=config.source, num_pairs=len(pairs), num_left_out=len(left_out), **extra)


def _gold_scale(
    work: Work, pairs: list[Preference], prompts: list[str], groups: list[list[Candidate]]
) -> dict[str, float]:
    """Write the scale of gold, and say it, and how many labels agree with gold. The scale is the fine-tuned model's:
    answers of the base model would make every policy look better."""
    import numpy as np

    from components.rlhf.gold import gold_score

    every = [(text, a) for text, group in zip(prompts, groups, strict=True) for a in group]
    of_sft = [(text, a) for text, a in every if a.model == "sft"] or every
    golds = np.array([gold_score(text, a.text) for text, a in of_sft])
    mean, std = float(golds.mean()), float(golds.std())
    (work.out / GOLD_SCALE).write_text(json.dumps({"mean": mean, "std": std}), encoding="utf-8")
    agree = [p.agrees_with_gold for p in pairs if p.agrees_with_gold is not None]
    return {"label_agreement": sum(agree) / len(agree), "gold_mean": mean, "gold_std": std}


_Collected = tuple[list["Preference"], list["LeftOut"], dict[str, Any]]


def _by_gold(config: PreferencesConfig, seed: int, prompts: list[str], groups: list[list[Candidate]]) -> _Collected:
    """The scorer with honest noise."""
    from components.rlhf.gold import gold_score
    from components.rlhf.preferences import Answer, make_preferences

    answers = [[Answer(a.text, a.finished) for a in group] for group in groups]
    pairs, left_out = make_preferences(prompts, answers, gold_score, config, seed)
    return pairs, left_out, {}


def _by_people(
    work: Work,
    config: PreferencesConfig,
    marks: Mapping[str, str],
    prompts: list[str],
    groups: list[list[Candidate]],
) -> _Collected:
    """What annotators said; raises Waiting until every prompt has its `overlap` of judgements."""
    from components.rlhf.judgements import Judgement, batch_id, make_items, preferences_from, progress
    from storage.annotations import Annotations

    items, left_out = make_items(prompts, groups)
    if not items:
        return [], left_out, {}
    if work.local is None:
        raise RuntimeError("this Work has no home: a unit test passes local=tmp_path")
    annotations, batch = Annotations(work.local / "annotations"), batch_id(items)
    annotations.publish(batch, f"{len(items)} story requests", config.overlap, [item.to_json() for item in items])
    taken = [Judgement.from_json(line) for line in annotations.marked(batch, marks)]
    done = progress(items, taken, config.overlap)
    if done.open_items:
        stored = [Judgement.from_json(line) for line in annotations.judgements(batch)]
        active = [a.name for a in annotations.annotators() if not a.removed_at]
        raise Waiting(
            _still_missing(stored, len(items), config.overlap, progress(items, stored, config.overlap), active)
        )
    pairs, ties = preferences_from(items, taken)
    skipped = sum(one.ranks is None for one in taken)
    return pairs, left_out, {"batch": batch, "num_judgements": len(taken), "num_ties": ties, "num_skipped": skipped}


def _still_missing(stored: list[Judgement], num_items: int, overlap: int, done: Any, active: list[str]) -> str:
    """What people have to do before the run can go on."""
    if not done.open_items:
        return f"all {done.wanted} judgements are stored now: `lifespan run` again takes them"
    who = ", ".join(f"{name} {count}" for name, count in sorted(done.by_annotator.items()))
    text = (
        f"{done.wanted - done.done} of {done.wanted} judgements are missing ({num_items} prompts, each for {overlap} "
        f"annotator{'s' if overlap > 1 else ''}{'; so far ' + who if who else ''}). "
        "`lifespan annotate` opens the page; run again when it is done, everything else is kept"
    )
    if len(active) < overlap:
        text += f". Only {len(active)} of {overlap} annotators exist: `lifespan annotate add NAME`"
    return text


def _by_model(
    work: Work,
    config: PreferencesConfig,
    seed: int,
    judge: Mapping[str, Artifact],
    tokenizer: Artifact,
    prompts: list[str],
    groups: list[list[Candidate]],
) -> _Collected:
    """A model of ours or of a server, asked about each pair twice with the answers swapped."""
    from itertools import combinations

    import numpy as np

    from components.rlhf.judge import judge_pairs
    from components.rlhf.preferences import MAX_EXCERPT, LeftOut, Preference, defect, pair_id

    name, generate, too_long = _judge(work, config, judge, tokenizer)
    rng = np.random.default_rng([seed, 0x71D6])
    left_out: list[LeftOut] = []
    asked: list[tuple[int, Candidate, Candidate]] = []
    for index, (prompt, group) in enumerate(zip(prompts, groups, strict=True)):
        every = list(combinations(range(len(group)), 2))
        for i in sorted(rng.permutation(len(every))[: config.pairs_per_prompt]):
            a, b = (group[one] for one in every[i])
            longest = config.judge_question.replace("{prompt}", prompt).replace("{first}", a.text)
            reason = defect(prompt, a.text, b.text) or too_long(longest.replace("{second}", b.text))
            if reason:
                left_out.append(LeftOut("sampled answers", "", index, reason, a.text[:MAX_EXCERPT]))
            else:
                asked.append((index, a, b))
    verdicts = judge_pairs([(prompts[i], a.text, b.text) for i, a, b in asked], generate, config.judge_question)
    lines = [
        {"prompt": prompts[i], "first": a.text, "second": b.text, "outcome": verdict.outcome, "said": verdict.said}
        for (i, a, b), verdict in zip(asked, verdicts, strict=True)
    ]
    (work.out / VERDICTS).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    pairs, ties, swayed = [], 0, 0
    for (index, a, b), verdict in zip(asked, verdicts, strict=True):
        swayed += verdict.favours_position
        if verdict.outcome is None:
            said = f"{verdict.said[0]!r}, {verdict.said[1]!r}"[:MAX_EXCERPT]
            left_out.append(LeftOut("judge", name, index, "the judge gave no verdict", said))
        elif verdict.outcome == 0.5:
            ties += 1
        else:
            better, worse = (a, b) if verdict.outcome == 1 else (b, a)
            prompt = prompts[index]
            pairs.append(
                Preference(
                    prompt,
                    better.text,
                    worse.text,
                    pair_id(prompt, a.text, b.text),
                    f"model:{name}",
                    better.finished,
                    worse.finished,
                    source="model",
                )
            )
    return pairs, left_out, {"judge": name, "num_asked": len(asked), "num_ties": ties, "num_swayed_by_position": swayed}


def _judge(
    work: Work, config: PreferencesConfig, judge: Mapping[str, Artifact], tokenizer: Artifact
) -> tuple[str, Generate, Callable[[str], str | None]]:
    """The judge's name, how it is asked, and why it cannot take a question, if we know."""
    from components.data.tokenizer import Tokenizer
    from components.inference.text import text_generator
    from components.training.checkpoints import load_model

    if config.judge_url:
        server = judge_server(config.judge_url, config.judge_model, "preferences.judge_model")
        return server.model, server, lambda _: None
    (name, artifact) = next(iter(judge.items()))
    model, words = load_model(work.open(artifact)).to(work.device), Tokenizer.load(work.open(tokenizer))
    limit, told = model.cfg.context_length, text_generator(model, words)

    def generate(prompts: Sequence[TextPrompt], params: SamplingParams) -> list[list[TextCompletion]]:
        groups = told(prompts, params)
        count_answers(work, model.cfg, sum(g[0].prompt_tokens for g in groups), sum(g[0].num_tokens for g in groups))
        return groups

    def too_long(question: str) -> str | None:
        length = len(words.encode(question)) + 8
        return f"the judge's question has {length} tokens; its context holds {limit}" if length + 8 > limit else None

    return name, generate, too_long


def _from_file(config: PreferencesConfig, raw: Mapping[str, str], words: Any, context_length: int) -> _Collected:
    """A file of any known format; what does not fit the model's context is left out."""
    from components.rlhf.formats import read_file
    from components.rlhf.preferences import MAX_EXCERPT, LeftOut

    if file_digest(config) != raw:
        raise ValueError(f"{config.path} changed since the run began: run again to take it as it is now")
    found = read_file(Path(config.path))
    pairs, left_out = [], list(found.left_out)
    for index, p in enumerate(found.preferences):
        turns = [*({"role": t.role, "content": t.content} for t in p.context), {"role": "user", "content": p.prompt}]
        reason = ""
        try:
            prompt = len(words.render_chat(turns, add_generation_prompt=True)[0])
            longest = prompt + max(len(words.encode(text)) for text in (p.chosen, p.rejected)) + 1
            if longest > context_length:
                part = "the prompt alone" if prompt >= context_length else "the longer answer"
                reason = (
                    f"{longest} tokens with {part} ({prompt} in the prompt); the model's context holds {context_length}"
                )
        except ValueError as error:  # a role or a character that the tokenizer has no place for
            reason = str(error)
        if reason:
            left_out.append(LeftOut("preferences", config.path, found.lines[index], reason, p.prompt[:MAX_EXCERPT]))
        else:
            # A file that another life wrote may tell gold's margin: of what this one learns it says nothing.
            pairs.append(dataclasses.replace(p, gold_margin=None))
    return pairs, left_out, {"num_ties": found.ties, "formats": dict(found.formats)}


# -- boundaries: bytes that people wrote ---------------------------------------------------------------------------


def file_digest(config: PreferencesConfig) -> dict[str, str]:
    """SHA-256 of the preference file, if there is one. Raises ConfigError when it is missing."""
    if config.source != "file":
        return {}
    path = Path(config.path)
    if not path.is_file():
        raise ConfigError(f"preferences.path: {config.path}: no such file")
    with path.open("rb") as stream:
        return {path.name: hashlib.file_digest(stream, "sha256").hexdigest()}


def judgement_marks(config: PreferencesConfig, home: Home) -> dict[str, dict[str, str]]:
    """How far the annotators' journals are, by the key of the answers that they judge."""
    if config.source != "people":
        return {}
    made = [record.artifact for record in home.store.records() if record.artifact.kind == "answers"]
    return {answers.key: home.annotations.marks(str(answers.facts["batch"])) for answers in made}
