"""Rewards: what an answer is worth, one file a kind; `kinds.py` lists them, `scoring.py` adds them up.

A kind is a frozen dataclass with its settings, free of torch, and a function from it to a `Scorer`
(`components/rlhf/rewards/answers.py`). The same kinds serve as reward of a policy, as gold that it is watched with, and
as scorer of an evaluation.
"""
