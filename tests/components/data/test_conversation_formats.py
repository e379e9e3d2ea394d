"""Every layout in which conversations are published, and what is none of them named by its reason."""

from __future__ import annotations

import json
from typing import Any

import pytest

from components.data.conversation_formats import Fields, Invalid, read_conversation

HI = [("user", "Hi"), ("assistant", "Hello")]
SYSTEM = ("system", "Be brief.")


def turns(row: object, fields: Fields | None = None) -> list[tuple[str, str]]:
    return [(message["role"], message["content"]) for message in read_conversation(row, fields).messages]


def openai(*said: tuple[str, str]) -> list[dict[str, str]]:
    return [{"role": role, "content": content} for role, content in said]


@pytest.mark.parametrize(
    ("row", "expected", "layout"),
    [
        ({"messages": openai(*HI)}, HI, "messages (messages)"),
        ({"messages": openai(("developer", "Be brief."), *HI, *HI)}, [SYSTEM, *HI, *HI], "messages (messages)"),
        (openai(*HI), HI, "messages (messages)"),
        ({"messages": json.dumps(openai(*HI))}, HI, "messages (messages)"),  # a cell of a CSV file
        (
            {"messages": [{"role": "user", "content": [{"type": "text", "text": "H"}, {"type": "text", "text": "i"}]},
                          {"role": "assistant", "content": "Hello", "tool_calls": None}]},
            HI, "messages (messages)",
        ),
        ({"conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]}, HI,
         "sharegpt (conversations)"),
        ({"system": "Be brief.",
          "conversations": [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]},
         [SYSTEM, *HI], "sharegpt (conversations)"),
        ({"conversation": [{"from": "system", "value": "Be brief."}, {"from": "user", "value": "Hi"},
                           {"from": "chatgpt", "value": "Hello"}], "system": "another"},
         [SYSTEM, *HI], "sharegpt (conversation)"),
        ({"data": ["Hi", "Hello", "And?", "Well."]}, [*HI, ("user", "And?"), ("assistant", "Well.")],
         "alternating texts (data)"),
        ({"instruction": "Hi", "input": "", "output": "Hello"}, HI, "alpaca (instruction/output)"),
        ({"instruction": "Add", "input": "1, 2", "output": "3"}, [("user", "Add\n\n1, 2"), ("assistant", "3")],
         "alpaca (instruction/output)"),
        ({"instruction": "Add", "context": "1, 2", "response": "3", "category": "x"},
         [("user", "Add\n\n1, 2"), ("assistant", "3")], "alpaca (instruction/response)"),
        ({"instruction": "Hi", "output": "Hello", "system": "Be brief.", "history": [["a", "b"]]},
         [SYSTEM, ("user", "a"), ("assistant", "b"), *HI], "alpaca (instruction/output)"),
        ({"prompt": "Hi", "completion": "Hello"}, HI, "prompt/completion"),
        ({"prompt": "Hi", "response": "Hello"}, HI, "prompt/response"),
        ({"question": "Hi", "answer": "Hello"}, HI, "question/answer"),
        ({"question": "Who?", "context": "A tale.", "answer": "Ann"},
         [("user", "Who?\n\nA tale."), ("assistant", "Ann")], "question/answer"),
        ({"user": "Hi", "assistant": "Hello"}, HI, "user/assistant"),
        ({"system_prompt": "Be brief.", "question": "Hi", "response": "Hello"}, [SYSTEM, *HI], "question/response"),
        ({"prompt": openai(SYSTEM, HI[0]), "completion": openai(HI[1])}, [SYSTEM, *HI], "prompt/completion"),
        ({"prompt": '[{"a": 1}]', "completion": "JSON"}, [("user", '[{"a": 1}]'), ("assistant", "JSON")],
         "prompt/completion"),
        ({"text": "\n\nHuman: Hi\n\nAssistant: Hello"}, HI, "hh (text)"),
        ({"chosen": "\n\nHuman: Hi\n\nAssistant: Hello", "rejected": "\n\nHuman: Hi\n\nAssistant: Go"}, HI,
         "hh (chosen)"),
        ({"prompt": "\n\nHuman: a\n\nAssistant: b\n\nHuman: Hi\n\nAssistant:", "completion": "Hello"},
         [("user", "a"), ("assistant", "b"), *HI], "prompt/completion"),
    ],
)  # fmt: skip
def test_each_layout_is_told_by_itself(row: Any, expected: list[tuple[str, str]], layout: str) -> None:
    assert turns(row) == expected
    assert read_conversation(row).layout == layout


@pytest.mark.parametrize(
    ("fields", "row", "expected"),
    [
        (Fields(messages="body.chat", role="who", content="said", roles={"client": "user", "us": "assistant"}),
         {"body": {"chat": [{"who": "client", "said": "Hi"}, {"who": "us", "said": "Hello"}]}}, HI),
        (Fields(prompt="q", response="a", system="s"), {"q": "Hi", "a": "Hello", "s": "Be brief."}, [SYSTEM, *HI]),
        (Fields(prompt="q", response="a", input="about"), {"q": "Add", "about": "1", "a": "2"},
         [("user", "Add\n\n1"), ("assistant", "2")]),
        (Fields(dialogue="rejected"), {"rejected": "\n\nHuman: Hi\n\nAssistant: Hello"}, HI),
        (Fields(prompt="question", response="solution"), {"question": "Hi", "answer": "5", "solution": "Hello"}, HI),
        (Fields(messages="chosen"), {"chosen": openai(*HI), "messages": []}, HI),
    ],
)  # fmt: skip
def test_settings_give_other_names(fields: Fields, row: Any, expected: list[tuple[str, str]]) -> None:
    assert turns(row, fields) == expected


def test_calls_of_tools_come_with_their_arguments_as_an_object() -> None:
    call = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
    made = {"id": "a", "type": "function", "function": {"name": "weather", "arguments": {"city": "Oslo"}}}
    weather = {"name": "weather", "parameters": {}}
    told = read_conversation(
        {
            "messages": [
                {"role": "user", "content": "Rain?"},
                {"role": "assistant", "content": None, "tool_calls": [call]},
                {"role": "tool", "tool_call_id": "a", "content": "wet"},
                {"role": "assistant", "content": "Yes."},
            ],
            "tools": [{"type": "function", "function": weather}],
        }
    )
    assert told.messages[1] == {"role": "assistant", "content": "", "tool_calls": [made]}
    assert told.messages[2] == {"role": "tool", "content": "wet", "tool_call_id": "a"}
    assert told.tools == [{"type": "function", "function": weather}]
    sharegpt = read_conversation(
        {
            "conversations": [
                {"from": "human", "value": "Rain?"},
                {"from": "function_call", "value": '{"name": "weather", "arguments": {"city": "Oslo"}}'},
                {"from": "observation", "value": "wet"},
                {"from": "gpt", "value": "Yes."},
            ],
            "tools": json.dumps([weather]),
        }
    )
    assert [m["role"] for m in sharegpt.messages] == ["user", "assistant", "tool", "assistant"]
    assert sharegpt.messages[1]["tool_calls"][0]["function"] == made["function"]
    assert sharegpt.tools == told.tools


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ("text", "expected a JSON object, found str"),
        ({"title": "x"}, "no conversation: the row has title; it takes messages"),
        ({"prompt": "p", "chosen": "a", "rejected": "b"}, "a preference, no conversation"),
        ({"messages": []}, "no turns"),
        ({"messages": str(openai(*HI))}, "messages holds turns as Python prints them"),
        ({"prompt": str(openai(HI[0])), "completion": "x"}, "prompt holds turns as Python prints them"),
        ({"messages": openai(HI[0])}, "no turn of the assistant"),
        ({"messages": openai(HI[1], HI[0])}, r"messages\[0\]: the assistant speaks before the user"),
        ({"messages": openai(HI[0], ("assistant", " "))}, r"messages\[1\]: the turn of the assistant is empty"),
        ({"messages": openai(("wizard", "Hi"))}, r"messages\[0\]: unknown role 'wizard'; it takes system, user"),
        ({"messages": [{"text": "Hi"}]}, r"messages\[0\] has no role \(it has text\)"),
        ({"messages": [3]}, r"messages\[0\] is int, not a turn"),
        ({"messages": [{"role": "user", "content": 3}]}, r"messages\[0\]: content is int, not text"),
        ({"messages": [{"role": "user", "content": None}]}, r"messages\[0\]: content is missing"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
         r"a part of the content is 'image_url': only text"),
        ({"messages": [*openai(HI[0]), {"role": "assistant", "content": "x", "weight": 0}]}, "weight 0"),
        ({"messages": [*openai(HI[0]), {"role": "assistant", "content": None, "tool_calls": [{"function": {}}]}]},
         r"tool_calls\[0\] names no function"),
        ({"messages": openai(("user", "a\ud83d"), HI[1])}, r"messages\[0\]\.content holds a lone surrogate"),
        ({"prompt": "Hi", "completion": " "}, "completion is empty"),
        ({"prompt": 3, "completion": "x"}, "prompt is int, not text"),
        ({"question": "Hi", "answer": "a", "solution": "b"}, "may be answer or solution: `fields` says which"),
        ({"instruction": "Hi", "input": 3, "output": "b"}, r"\(input or context\) is int, not text"),
        ({"question": "Hi", "context": ["x"], "answer": "b"}, r"\(input or context\) is list, not text"),
        ({"instruction": "Hi", "output": "b", "history": [["a"]]}, r"history\[0\] is no pair"),
        ({"text": "Human: Hi"}, "no conversation: the row has text"),
    ],
)  # fmt: skip
def test_what_is_no_conversation_says_why(row: Any, reason: str) -> None:
    with pytest.raises(Invalid, match=reason):
        read_conversation(row)


def test_names_that_contradict_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="messages and prompt are two layouts"):
        Fields(messages="m", prompt="p", response="r")
    with pytest.raises(ValueError, match="prompt and response are named together"):
        Fields(prompt="p")
    with pytest.raises(ValueError, match="'bot' is no role of ours"):
        Fields(roles={"them": "bot"})
    with pytest.raises(Invalid, match="no field 'q'; the row has a, b"):
        read_conversation({"a": 1, "b": 2}, Fields(prompt="q", response="a"))
