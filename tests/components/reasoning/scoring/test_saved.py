"""Saved generations in the layouts that tools write: OpenAI's and Anthropic's documentation, lm-eval, HELM, Inspect."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from components.data.files import SourceError
from components.reasoning.scoring.fields import Fields, value_at
from components.reasoning.scoring.saved import Generation, SavedFile, read_saved, with_answers


def saved(path: Path, *rows: Any, **fields: Any) -> SavedFile:
    """The rows as JSON lines, read."""
    path.write_text("\n".join(row if isinstance(row, str) else json.dumps(row) for row in rows))
    return read_saved(str(path), Fields(**fields))


def texts(found: SavedFile) -> list[list[str]]:
    return [[generation.text for generation in item.generations] for item in found.items]


def batch(name: str, content: object, reason: str = "stop", **message: Any) -> dict[str, Any]:
    choice = {"message": {"role": "assistant", "content": content, **message}, "finish_reason": reason}
    return {"custom_id": name, "response": {"status_code": 200, "body": {"choices": [choice]}}, "error": None}


def test_openai_batches_with_cut_refused_and_failed_requests(tmp_path: Path) -> None:
    expired = {"custom_id": "d", "response": None, "error": {"code": "batch_expired", "message": "expired"}}
    found = saved(
        tmp_path / "batch.jsonl",
        batch("a", "It is 5."),
        batch("b", None, "length"),
        batch("c", None, refusal="I can't."),
        expired,
        batch("e", "half", "content_filter"),
    )
    assert found.fields.layout == "OpenAI batch output"
    assert [item.id for item in found.items] == ["a", "b", "c", "d", "e"]
    first, cut, refused, failed, filtered = (item.generations[0] for item in found.items)
    assert first == Generation("It is 5.")
    assert (cut.finished, cut.problem) == (False, "")
    assert (refused.problem, refused.note) == ("refused", "I can't.")
    assert failed.problem == "failed"
    assert "batch_expired" in failed.note
    assert filtered.problem == "refused"
    (tmp_path / "gold.csv").write_text("id,answer\n" + "\n".join(f"{name},5" for name in "edcba"))
    told = with_answers(found, str(tmp_path / "gold.csv"))
    assert [item.references for item in told.items] == [("5",)] * 5
    assert "custom_id = id" in told.fields.reference


def test_anthropic_batches(tmp_path: Path) -> None:
    message = {"content": [{"type": "thinking", "thinking": "5?"}, {"type": "text", "text": "6"}]}
    found = saved(
        tmp_path / "batch.jsonl",
        {"custom_id": "a", "result": {"type": "succeeded", "message": {**message, "stop_reason": "end_turn"}}},
        {"custom_id": "b", "result": {"type": "errored", "error": {"type": "overloaded_error"}}},
        {"custom_id": "c", "result": {"type": "succeeded", "message": {**message, "stop_reason": "max_tokens"}}},
    )
    one, failed, cut = (item.generations[0] for item in found.items)
    assert (one.text, failed.problem, cut.finished) == ("6", "failed", False)


def test_samples_of_lm_eval_are_read_once_whatever_filters_there_are(tmp_path: Path) -> None:
    rows = [
        {
            "doc_id": doc,
            "doc": {"question": f"q{doc}"},
            "target": f"so\n#### {doc}",
            "arguments": {"gen_args_0": {"arg_0": "Q"}},
            "resps": [[f"is {doc}", f"or {doc}"]],
            "filtered_resps": [str(doc)],
            "filter": name,
            "exact_match": 1.0,
        }
        for name in ("strict-match", "flexible-extract")
        for doc in (0, 1)
    ]
    found = saved(tmp_path / "samples_gsm8k.jsonl", *rows)
    assert texts(found) == [["is 0", "or 0"], ["is 1", "or 1"]]
    assert found.items[1].references == ("so\n#### 1",)
    assert found.items[0].question == "q0"
    assert "strict-match" in found.notes[0]
    likelihoods = {"doc_id": 0, "target": "1", "resps": [[["-17.5", "False"]], [["-3.0", "True"]]]}
    with pytest.raises(SourceError, match="log-likelihoods of options"):
        saved(tmp_path / "samples_arc.jsonl", likelihoods)


def test_helm_takes_correct_references_or_their_letters(tmp_path: Path) -> None:
    def state(name: str, text: str, **more: Any) -> dict[str, Any]:
        references = [{"output": {"text": "14N"}, "tags": []}, {"output": {"text": "2H"}, "tags": ["correct"]}]
        done = {"text": text, "finish_reason": {"reason": "length"}}
        instance = {"id": name, "input": {"text": "?"}, "references": references}
        return {"instance": instance, "result": {"success": True, "completions": [done]}, **more}

    path = tmp_path / "scenario_state.json"
    states = [state("id1", "2H"), state("id2", "B", output_mapping={"A": "14N", "B": "2H"})]
    path.write_text(json.dumps({"adapter_spec": {"method": "generation"}, "request_states": states}, indent=1))
    found = read_saved(str(path))
    assert [item.references for item in found.items] == [("2H",), ("B",)]
    assert found.items[0].generations == (Generation("2H", finished=False),)


def test_logs_of_inspect_hold_epochs_as_samples(tmp_path: Path) -> None:
    def sample(epoch: int, text: str, reason: str) -> dict[str, Any]:
        choice = {"message": {"role": "assistant", "content": text}, "stop_reason": reason}
        return {"id": 7, "epoch": epoch, "input": "q", "target": "5", "output": {"choices": [choice]}}

    path = tmp_path / "log.json"
    log = {"version": 2, "eval": {"task": "t"}, "samples": [sample(1, "5", "stop"), sample(2, "6", "max_tokens")]}
    path.write_text(json.dumps(log, indent=1))
    (item,) = read_saved(str(path)).items
    assert item.generations == (Generation("5"), Generation("6", finished=False))


@pytest.mark.parametrize(
    ("row", "references", "said"),
    [
        ({"response": {"candidates": [{"content": {"parts": [{"text": "hm 9", "thought": True}, {"text": "It is 7"}]},
          "finishReason": "STOP"}]}, "gold": 7}, ("7",), ["It is 7"]),
        ({"doc": {"query": "q", "choices": ["6", "7"], "gold_index": [1]}, "model_response": {"text": ["a 7"]}},
         ("7",), ["a 7"]),
        ({"doc_id": 0, "model_output": [{"continuation": "so 7"}], "label": "7"}, ("7",), ["so 7"]),
        ({"id": 1, "answer": "7", "response": {"choices": [{"message": {"content": "7", "reasoning_content": "9"}}]}},
         ("7",), ["7"]),
        ({"question": "q", "answer": 7, "generation_1": "a 7", "generation_2": "b 8"}, ("7",), ["a 7", "b 8"]),
        ({"problem": "p", "solution": "$\\boxed{7}$.", "generations": ["7", "8"]}, ("$\\boxed{7}$.",), ["7", "8"]),
        ({"question": "q", "answer": "7", "responses": {"10": {"text": "c"}, "2": {"text": "b"}}}, ("7",), ["b", "c"]),
        ({"question": "q", "answer": True, "prediction": "The answer is True."}, ("True",), ["The answer is True."]),
        ({"custom_id": "a", "answer": 7, "result": {"message": {"content": [{"type": "text", "text": "7"}]}}},
         ("7",), ["7"]),
    ],
)  # fmt: skip
def test_layouts_of_further_tools(tmp_path: Path, row: Any, references: tuple[str, ...], said: list[str]) -> None:
    """Gemini's batches, Lighteval, olmes, chat completions with thoughts, numbered columns, worked solutions, …"""
    found = saved(tmp_path / "one.jsonl", row, row)
    assert found.items[0].references == references
    assert texts(found)[0][: len(said)] == said


def test_records_by_index_or_under_a_name_of_their_own(tmp_path: Path) -> None:
    """OpenCompass writes {"0": {…}, "1": {…}}; others a list beside what they say of the run."""
    row = {"prediction": "The answer is 7", "gold": "7", "question": "q"}
    for place, held in enumerate(({"0": row, "1": row}, {"meta": {"model": "m"}, "data": [row, row]})):
        path = tmp_path / f"{place}.json"
        path.write_text(json.dumps(held))
        found = read_saved(str(path))
        assert [generation.text for item in found.items for generation in item.generations] == [row["prediction"]] * 2
        assert {item.references for item in found.items} == {("7",)}


def test_a_request_that_ended_does_not_finish_a_sample_that_was_cut(tmp_path: Path) -> None:
    outputs = [{"text": "so 3", "finish_reason": "length"}, {"text": "so 4", "finish_reason": "stop"}]
    found = saved(tmp_path / "vllm.jsonl", {"prompt": "p", "outputs": outputs, "finished": True, "answer": "4"})
    assert [generation.finished for generation in found.items[0].generations] == [False, True]


def test_results_of_simple_evals_are_conversations(tmp_path: Path) -> None:
    convos = [[{"role": "user", "content": "?"}, {"role": "assistant", "content": f"Answer: {x}"}] for x in "AB"]
    told = [{"score": 1.0, "correct_answer": "A"}, {"score": 0.0, "correct_answer": "C"}]
    path = tmp_path / "allresults.json"
    path.write_text(json.dumps({"score": 0.5, "convos": convos, "metadata": {"example_level_metadata": told}}))
    found = read_saved(str(path))
    assert texts(found) == [["Answer: A"], ["Answer: B"]]
    assert [item.references for item in found.items] == [("A",), ("C",)]
    assert [item.generations[0].right for item in found.items] == [True, False]


def test_fields_go_by_their_names_and_others_are_told(tmp_path: Path) -> None:
    row = {"question": "q", "answer": "5", "prediction": "5", "response": "so 5", "correct": True, "gold_answer": "5"}
    found = saved(tmp_path / "a.jsonl", row)
    assert (found.fields.text, found.fields.reference, found.fields.verdict) == ("response", "gold_answer", "correct")
    assert found.fields.others == ("prediction",)
    assert "--text" in found.notes[0]
    chosen = saved(tmp_path / "a.jsonl", row, text="prediction", reference="answer")
    assert (chosen.fields.text, chosen.fields.reference) == ("prediction", "answer")


def test_names_are_told_however_they_are_spelled(tmp_path: Path) -> None:
    row = {"newPrompt": "q", "ground truth": "33", "llm_output": "so 33", "pred_ans": "33", "stopReason": "length"}
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"accuracy": 0.0, "outputs": [row]}, indent=1))
    found = read_saved(str(path))
    assert (found.fields.text, found.fields.reference, found.fields.finish) == (
        "llm_output",
        "ground truth",
        "stopReason",
    )
    assert not found.items[0].generations[0].finished


def test_nested_fields_lists_and_several_verdicts(tmp_path: Path) -> None:
    row = {"doc": {"answer": 5}, "ys": ["a", "b"], "infos": [{"r": 0}, {"r": 1}]}
    found = saved(tmp_path / "a.jsonl", row, verdict="infos.*.r")
    assert found.fields.reference == "doc.answer"
    assert [generation.right for generation in found.items[0].generations] == [False, True]
    assert value_at({"a.b": {"c": [1, {"d": 2}]}}, "a.b.c.1.d") == 2
    assert value_at(row, "nothing|doc.answer") == 5


def test_csv_and_parquet_hold_lists_too(tmp_path: Path) -> None:
    with (tmp_path / "a.csv").open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerows([["id", "outputs", "target"], ["x", '["5", "6"]', "5"], ["y", "[7] it is", "7"]])
    assert texts(read_saved(str(tmp_path / "a.csv"))) == [["5", "6"], ["[7] it is"]]
    table = pa.table({"completions": [["5", "6"], ["7"]], "truncated": [[False, True], [False]], "target": ["5", "7"]})
    pq.write_table(table, tmp_path / "a.parquet")
    first, _ = read_saved(str(tmp_path / "a.parquet")).items
    assert [generation.finished for generation in first.generations] == [True, False]


def test_rows_of_one_id_are_samples_and_collisions_are_told(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "output": "a", "target": "5"},
        {"id": 1, "output": "b", "target": "5"},
        {"id": 1, "output": "c", "target": "6"},
    ]
    found = saved(tmp_path / "a.jsonl", *rows)
    assert texts(found) == [["a", "b"], ["c"]]
    assert [item.id for item in found.items] == ["1", "1#2"]
    assert "1 ids stand for several items" in found.notes[0]
    (tmp_path / "b.jsonl").write_text((tmp_path / "a.jsonl").read_text())
    assert len(read_saved(str(tmp_path)).items) == 4  # two files of two tasks
    assert len(read_saved(str(tmp_path), Fields(id="id")).items) == 2  # two files of one task
    again = [{"question": "q", "output": x, "target": "5"} for x in "ab"]
    assert "stands 2 times" in saved(tmp_path / "c.jsonl", *again).notes[0]


def test_one_object_may_hold_the_records_or_be_one_with_several_texts(tmp_path: Path) -> None:
    path = tmp_path / "a.json"
    path.write_text(json.dumps({"canary": "x", "outputs": [{"input": "q", "prediction": "5", "target": "5"}]}))
    assert texts(read_saved(str(path))) == [["5"]]
    path.write_text(json.dumps({"target": "5", "outputs": [{"id": 1, "text": "5"}, {"id": 2, "text": "6"}]}))
    assert texts(read_saved(str(path))) == [["5", "6"]]


def test_a_bad_record_costs_itself_and_a_missing_text_is_a_failure(tmp_path: Path) -> None:
    good = {"output": "5", "target": "5"}
    found = saved(tmp_path / "a.jsonl", good, '{"output": ', 7, {"output": None, "target": "5"}, {"target": "5"})
    assert [one.line for one in found.rejected] == [2, 3]
    assert [item.generations[0].problem for item in found.items] == ["", "failed", "failed"]


@pytest.mark.parametrize(
    ("row", "fields", "message"),
    [
        ({"a": 1, "b": {"c": "x"}}, {}, r"no field holds generations: give --text with one of a, b, b\.c"),
        ({"output": "x"}, {"text": "outptu"}, r"--text outptu: no record has it; there is output"),
        ({"output": "x"}, {"reference": "gold"}, r"--reference gold: no record has it"),
    ],
)
def test_fields_that_are_not_there_are_named(
    tmp_path: Path, row: dict[str, Any], fields: dict[str, str], message: str
) -> None:
    with pytest.raises(SourceError, match=message):
        saved(tmp_path / "a.jsonl", row, **fields)


def test_answers_are_joined_by_id_question_row_or_order_and_never_by_guess(tmp_path: Path) -> None:
    gold = tmp_path / "gold.jsonl"
    gold.write_text("\n".join(json.dumps({"question": f"q{n}", "answer": n}) for n in (0, 1, 2)))
    asked = saved(tmp_path / "a.jsonl", {"question": "q2", "output": "x"}, {"question": "q0", "output": "y"})
    assert [item.references for item in with_answers(asked, str(gold)).items] == [("2",), ("0",)]
    placed = saved(tmp_path / "b.jsonl", {"idx": 1, "output": "x"})
    assert with_answers(placed, str(gold), id="row").items[0].references == ("1",)
    with pytest.raises(SourceError, match=r"3 answers for 1 items and no id in both"):
        with_answers(saved(tmp_path / "c.jsonl", {"output": "x"}), str(gold))
    missing = saved(tmp_path / "d.jsonl", {"question": "q9", "output": "x"})
    with pytest.raises(SourceError, match="1 of 1 items have no answer, such as 'q9'"):
        with_answers(missing, str(gold))
    twice = tmp_path / "twice.jsonl"
    twice.write_text("\n".join(json.dumps({"question": "q2", "answer": n}) for n in (0, 1)))
    with pytest.raises(SourceError, match="stands there with two answers"):
        with_answers(asked, str(twice))
