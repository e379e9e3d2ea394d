"""Trees become flat names with short values."""

from __future__ import annotations

from storage.mlflow_params import allowed_name, cut, flatten, numbers


def test_flatten() -> None:
    assert flatten({"a": {"b": 1, "c": "x"}, "d": [1, 2], "e": [{"f": None}], "g": {}, "h": True}) == {
        "a.b": "1",
        "a.c": "x",
        "d": "[1, 2]",
        "e.0.f": "null",
        "g": "{}",
        "h": "true",
    }
    assert flatten('{"a": 1}', "host") == {"host.a": "1"}
    assert flatten(None) == {}


def test_numbers_are_those_of_the_tree_by_dotted_name() -> None:
    facts = {"loss": 2, "ok": True, "by": {"a": 0.5, "curve": [1, 2]}, "name": "x"}
    assert numbers(facts, "fact") == {"fact.loss": 2.0, "fact.by.a": 0.5}


def test_names_and_values_fit_what_mlflow_takes() -> None:
    assert allowed_name("loss@1/é") == "loss_1/é"
    long = allowed_name("n" * 300)
    assert len(long) == 250 and long != allowed_name("n" * 301)
    assert cut("v" * 500) == "v" * 500
    assert len(cut("v" * 501)) == 500 and cut("v" * 501).endswith("(501 characters in all)")
