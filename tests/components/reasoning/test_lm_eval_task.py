"""Task files of lm-evaluation-harness as evaluation sets: what is asked, what counts, what is refused, and the peer."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from components.data.files import Quarantined, SourceError
from components.data.tokenizer import Tokenizer
from components.model.config import ModelConfig
from components.model.transformer import Transformer
from components.reasoning.evaluation_pairs import rank_options
from components.reasoning.evaluation_sets import EvaluationConfig, evaluation_digests, read_evaluation
from components.reasoning.lm_eval_task import read_task
from components.reasoning.lm_eval_verifier import LmEvalVerifier
from components.reasoning.question_files import Question
from components.rlhf.rewards.answers import Sample

SUMS = """
task: sums
include: base.yaml
dataset_kwargs: {data_files: {test: sums.jsonl, train: shots.jsonl}}
test_split: test
fewshot_split: train
num_fewshot: 2
fewshot_config: {sampler: first_n}
description: "Answer.\\n\\n"
doc_to_text: "Question: {{question|trim}}\\nAnswer:"
doc_to_target: "{{answer.split('####')[-1].strip()}}"
"""
BASE = """
dataset_path: json
output_type: generate_until
generation_kwargs: {until: ["\\n\\n", "Question:"], do_sample: false}
metric_list:
  - {metric: exact_match, ignore_case: true, ignore_punctuation: false, regexes_to_ignore: [",", "\\\\$", "\\\\.$"]}
filter_list:
  - name: flexible-extract
    filter:
      - {function: regex, group_select: -1, regex_pattern: "(-?[$0-9.,]{2,})|(-?[0-9]+)"}
      - {function: take_first}
"""
CHOICE = """
task: capitals
dataset_path: json
dataset_kwargs: {data_files: {validation: capitals.jsonl}}
validation_split: validation
output_type: multiple_choice
doc_to_text: "{{stem}}"
doc_to_choice: "{{[a, b]}}"
doc_to_target: right
"""
ROWS = [
    {"question": " How many? ", "answer": "1+1\n#### 2"},
    {"question": "And now?", "answer": "#### 1,000"},
    {"answer": "#### 3"},
]
SHOTS = [
    {"question": "One?", "answer": "#### 1"},
    {"question": "Two?", "answer": "#### 2"},
    {"question": "No", "answer": ""},
]
TEXTS = ["It is 2", "so $2.", "2 apples, or 3", "none", "1000", "1,000.\n\nQuestion: What is 7?", "2\n\nso 5", "-2", ""]


def _write(folder: Path) -> None:
    (folder / "sums.yaml").write_text(SUMS)
    (folder / "base.yaml").write_text(BASE)
    (folder / "choice.yaml").write_text(CHOICE)
    (folder / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (folder / "shots.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SHOTS))
    rows = [
        {"stem": "Capital of France?", "a": "Paris", "b": "Lyon", "right": place}
        for place in (0, "1", "Lyon", "Rome", 2)
    ]
    (folder / "capitals.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def _read(path: Path) -> tuple[list[Question], list[Quarantined]]:
    found = list(read_evaluation(EvaluationConfig(str(path), kind="lm_eval")))
    return [x for x in found if isinstance(x, Question)], [x for x in found if isinstance(x, Quarantined)]


def _judged(question: Question, text: str, finished: bool = True) -> tuple[str, bool]:
    message = ({"role": "user", "content": question.prompt},)
    score = LmEvalVerifier().score(Sample(message, text, question.answer, question.metadata, finished))
    return score.status, score.value == 1.0


def test_a_task_is_asked_with_its_description_and_examples_and_judged_by_its_filters(tmp_path: Path) -> None:
    _write(tmp_path)
    questions, (bad,) = _read(tmp_path / "sums.yaml")
    shots = "Question: One?\nAnswer: 1\n\nQuestion: Two?\nAnswer: 2\n\n"
    assert questions[0].prompt == f"Answer.\n\n{shots}Question: How many?\nAnswer:"
    assert (questions[0].question, questions[0].answer) == ("Question: How many?\nAnswer:", "2")
    assert (bad.line, "question" in bad.reason) == (3, True)
    verdicts = [_judged(questions[0], text) for text in TEXTS]
    right, wrong = ("answered", True), ("answered", False)
    assert verdicts == [right, right, wrong, ("unparsed", False), wrong, wrong, right, wrong, ("unparsed", False)]
    assert [_judged(questions[1], text) for text in TEXTS[4:6]] == [right, right]  # "Question: What is 7?" is cut off
    assert _judged(questions[0], "well", finished=False) == ("truncated", False)
    assert _judged(questions[0], "2\n\nand", finished=False) == right  # it had ended before the limit
    files = evaluation_digests(EvaluationConfig(str(tmp_path / "sums.yaml"), kind="lm_eval"))
    assert {Path(file).name for file in files} == {"sums.yaml", "base.yaml", "sums.jsonl", "shots.jsonl"}


def test_options_are_ranked_by_what_the_model_finds_most_probable(tmp_path: Path) -> None:
    _write(tmp_path)
    questions, bad = _read(tmp_path / "choice.yaml")
    assert [question.answer for question in questions] == ["0", "1", "1"]
    assert [(one.line, one.reason[:22]) for one in bad] == [
        (4, "doc_to_target gives 'R"),
        (5, "doc_to_target gives pl"),
    ]
    words = Tokenizer.train(["Capital of France? Paris Lyon " * 20], vocab_size=300)
    torch.manual_seed(0)
    model = Transformer(
        ModelConfig(vocab_size=words.vocab_size, d_model=16, num_layers=1, num_heads=2, context_length=64)
    )
    ranked, too_long = rank_options(model, words, questions)
    prompt, _ = words.render_chat([{"role": "user", "content": "Capital of France?"}], add_generation_prompt=True)
    sums = []
    for option in ("Paris", "Lyon"):  # each by a pass of its own
        ids = words.encode(option)
        log_probs = model(torch.tensor([[*prompt, *ids]]))[0].detach().double().log_softmax(-1)
        sums.append(sum(float(log_probs[len(prompt) - 1 + place, token]) for place, token in enumerate(ids)))
    assert too_long == []
    assert [one.margin for one in ranked] == pytest.approx([sums[0] - sums[1]] + [sums[1] - sums[0]] * 2, abs=1e-5)
    assert {one.picked for one in ranked} == {"Paris" if sums[0] > sums[1] else "Lyon"}
    assert [one.target for one in ranked] == ["Paris", "Lyon", "Lyon"]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("process_docs: !function utils.process", "process_docs: !function runs Python"),
        ("output_type: loglikelihood_rolling", "output_type: 'loglikelihood_rolling' cannot be asked"),
        ("metric_list: [{metric: bleu}]", "metric_list: bleu is not measured here"),
        ("filter_list: [{filter: [{function: map}]}]", "function 'map' is not understood"),
        ("filter_list: [{filter: [{function: regex, regex_pattern: '('}]}]", "'(' is not a regular expression"),
        ("generation_kwargs: {do_sample: true}", "generation_kwargs: asks for sampling"),
        ("fewshot_config: {sampler: random}", "fewshot_config.sampler: takes first_n"),
        ("test_split: dev", "data_files: expected one file or pattern for the split 'dev'"),
        ("doc_to_texts: x", "doc_to_texts: is not understood"),
        ("include: sums.yaml", "the file includes itself"),
        ("doc_to_text: '{{ 1'", "doc_to_text: '{{ 1' is no Jinja template"),
        ("doc_to_target: '{{ question + 1 }}'", "shots.jsonl:1: the template"),
        ("generation_kwargs: {max_gen_toks: 5}", "max_gen_toks is 5 and evaluations.max_tokens 256"),
    ],
)
def test_what_cannot_be_asked_as_the_task_says_is_refused_with_its_field(
    tmp_path: Path, change: str, said: str
) -> None:
    _write(tmp_path)
    field = change.partition(":")[0]
    kept = [line for line in SUMS.splitlines() if not line.startswith(f"{field}:")]
    (tmp_path / "sums.yaml").write_text("\n".join([*kept, change]))
    with pytest.raises(SourceError) as caught:
        _read(tmp_path / "sums.yaml")
    assert said in str(caught.value)
    assert "sums.yaml" in str(caught.value)


def test_settings_say_what_a_task_file_is() -> None:
    with pytest.raises(ValueError, match='say kind = "lm_eval"'):
        EvaluationConfig("task.yaml")
    with pytest.raises(ValueError, match=r"evaluations\.template: a task file .* says this itself"):
        EvaluationConfig("task.yaml", kind="lm_eval", template="{x}")


@pytest.mark.slow
def test_prompts_and_verdicts_are_those_of_the_harness(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("lm_eval", reason="lm-eval is a peer: pip install -e .[peers]")
    from lm_eval.tasks import TaskManager

    _write(tmp_path)
    (tmp_path / "sums.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS[:2]))
    monkeypatch.chdir(tmp_path)  # the harness finds data files from where it is started
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    config = str(tmp_path / "sums.yaml")
    task = TaskManager(include_path=str(tmp_path), include_defaults=False).load_task_or_group(["sums"])["sums"]
    task.set_fewshot_seed(0)
    questions, _ = _read(Path(config))
    assert read_task(config).num_shots == 2
    for doc, question in zip(task.test_docs(), questions, strict=True):
        assert task.fewshot_context(doc, num_fewshot=2) == question.prompt
        assert task.doc_to_target(doc) == question.answer
        for text in TEXTS:
            cut = text.split("\n\n")[0].split("Question:")[0]  # as the harness's models end a text
            theirs = task.process_results(doc, [_filtered(task, cut, doc)])["exact_match"] == 1.0
            assert _judged(question, text)[1] == theirs, text


def _filtered(task: object, text: str, doc: dict[str, str]) -> str:
    """A text through the harness's own filters."""
    from lm_eval.api.instance import Instance

    one = Instance(request_type="generate_until", doc=doc, arguments=("", {}), idx=0)
    one.resps = [text]
    task._filters[0].apply([one])  # type: ignore[attr-defined]
    return str(one.filtered_resps["flexible-extract"])
