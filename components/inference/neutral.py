"""Fields of a request that change nothing: those that no value gives a meaning here, and those with a neutral value.

Common clients send many of them: the OpenAI SDK, LangChain, LiteLLM and llama-index, and clients of vLLM and llama.cpp.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

# About who asks, how the request is filed or billed, and what makes it faster: no value affects the answer.
IGNORED = frozenset(
    {
        *("user", "metadata", "store", "service_tier", "safety_identifier", "request_id", "priority"),
        *("prompt_cache_key", "prompt_cache_retention", "cache_prompt", "cache_salt", "prediction"),
    }
)
# Fields that are only accepted with these values, since any other would change the answer.
NEUTRAL: Mapping[str, tuple[Any, ...]] = {
    "presence_penalty": (0, None),
    "frequency_penalty": (0, None),
    "repetition_penalty": (1, None),
    "repeat_penalty": (1, None),
    "length_penalty": (1, None),
    "logit_bias": ({}, None),
    "suffix": ("", None),
    "response_format": ({"type": "text"}, None),
    "modalities": (["text"], None),
    "audio": (None,),
    "reasoning_effort": ("none", None),
    "verbosity": ("medium", None),
    "web_search_options": (None,),
    "documents": ([], None),
    "use_beam_search": (False, None),
    "min_tokens": (0, None),
    "ignore_eos": (False, None),
    "stop_token_ids": ([], None),
    "include_stop_str_in_output": (False, None),
    "skip_special_tokens": (True, None),
    "spaces_between_special_tokens": (True, None),
    "add_generation_prompt": (True, None),
    "continue_final_message": (False, None),
    "add_special_tokens": (None,),
    "truncate_prompt_tokens": (None,),
    "prompt_logprobs": (None,),
    "chat_template": (None,),
    "chat_template_kwargs": ({}, None),
    "bad_words": ([], None),
    "guided_json": (None,),
    "guided_regex": (None,),
    "guided_choice": (None,),
    "guided_grammar": (None,),
    "structured_outputs": (None,),
    "grammar": ("", None),
    "typical_p": (1, None),
    "mirostat": (0, None),
}


def is_neutral(name: str, value: Any) -> bool:
    """Whether a field of NEUTRAL has a value that changes nothing; a bias of 0 for a token is none."""
    if name == "logit_bias" and isinstance(value, dict):
        return all(type(bias) in (int, float) and bias == 0 for bias in value.values())
    # True is 1 in Python, and neither a penalty nor a switch is given by the other.
    return any(value == neutral and isinstance(value, bool) == isinstance(neutral, bool) for neutral in NEUTRAL[name])
