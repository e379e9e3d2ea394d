"""What an answer is, apart from who generated it: found in a text, compared with a reference, counted over samples.

`text.py` and `numbers.py` read texts, `extractors.py` names and versions the ways to find an answer, `equality.py` the
ways to compare, `scorers.py` joins them to verdicts. Rewards, evaluations and `lifespan evaluate score` all ask here.
"""
