"""Which column of a stranger's table of runs is N, D, C, loss, run or budget, and in what unit its numbers are."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

BaseRole = Literal["params", "tokens", "flops", "loss", "run", "budget"]
ExtraRole = Literal[
    "unique", "epochs", "experts", "granularity", "sparsity", "steps", "batch", "accuracy", "bytes_per_token"
]
Role = BaseRole | ExtraRole
BASE_ROLES: tuple[Role, ...] = get_args(BaseRole)
EXTRA_ROLES: tuple[Role, ...] = get_args(ExtraRole)
LossUnit = Literal["nats", "bits", "perplexity"]


class RunTableError(ValueError):
    """A table of runs that cannot be read or must not be fitted as it is; the message names the column or the rows."""


@dataclass(frozen=True)
class Column:
    """A column of the table in its role. Its numbers are multiplied by `factor` (1e6 for a header like `size (M)`);
    `guessed`: by its name, not given; `others`: columns that could have been meant as well."""

    role: Role
    name: str
    factor: float = 1.0
    guessed: bool = False
    others: tuple[str, ...] = ()

    def shown(self) -> str:
        """As a person reads it: "params = size (M) × 1e+06 (guessed)"."""
        text = f"{self.role} = {self.name}"
        if self.factor != 1.0:
            text += f" × {self.factor:g}"
        if self.guessed:
            text += " (guessed)" if not self.others else f" (guessed; not {', '.join(self.others)})"
        return text


# Names in order of preference, lower case without blanks and punctuation.
_NAMES: Mapping[Role, str] = {
    "params": "n params numparams nparams parameters numparameters nparameters totalparams totalparameters ntotal "
    "paramcount parametercount modelparams modelparameters modelsize size nonembeddingparams nonembeddingparameters "
    "paramsnonembedding nonembparams nnonembedding nnonemb nonembeddingn activeparams activeparameters nactive",
    "tokens": "d tokens numtokens ntokens trainingtokens traintokens totaltokens numtrainingtokens tokensseen "
    "tokencount trainedtokens datasize trainingdata",
    "flops": "c flops flop trainingflops trainflops totalflops numflops trainingflop compute trainingcompute "
    "totalcompute computeflops",
    "loss": "loss valloss validationloss evalloss heldoutloss testloss finalloss finalvalloss crossentropy nll l "
    "smoothedloss trainloss trainingloss finaltrainloss smoothloss perplexity ppl valppl valperplexity "
    "bpb bitsperbyte",
    "run": "run runid runname experiment experimentid modelname model name id",
    "budget": "budget nominalbudget flopbudget flopsbudget computebudget isoflop isoflopbudget nominalflops "
    "targetflops",
    "unique": "unique uniquetokens nuniquetokens uniquedata uniqued ud datapool",
    "epochs": "epochs numepochs nepochs epoch",
    "experts": "experts numexperts nexperts expertcount e",
    "granularity": "granularity g",
    "sparsity": "sparsity s",
    "steps": "steps numsteps nsteps trainsteps trainingsteps optimizersteps step",
    "batch": "batch batchtokens batchsizetokens tokensperbatch batchsize tokensperstep",
    "accuracy": "accuracy acc downstreamaccuracy exactmatch averageaccuracy avgacc",
    "bytes_per_token": "bytespertoken",
}
# What a name must have among its words, and must not have, to be taken where no whole name is known.
_WORDS: Mapping[Role, tuple[set[str], set[str]]] = {
    "params": ({"params", "parameters", "param", "parameter"}, {"per"}),
    "tokens": ({"tokens", "token"}, {"per", "unique", "batch", "vocab", "rate"}),
    "flops": ({"flops", "compute"}, {"per", "budget", "nominal", "target", "utilization"}),
    "loss": ({"loss", "perplexity", "ppl", "bpb"}, {"std", "stderr", "aux"}),
    "run": ({"run", "experiment", "trial"}, {"time", "date", "url", "state", "hours", "count", "step", "steps"}),
}
_OF_EVALUATION = {"eval", "evaluation", "val", "valid", "validation", "test", "heldout"}
_UNITS = {
    "k": 1e3,
    "thousand": 1e3,
    "thousands": 1e3,
    "m": 1e6,
    "mn": 1e6,
    "million": 1e6,
    "millions": 1e6,
    "b": 1e9,
    "bn": 1e9,
    "g": 1e9,
    "billion": 1e9,
    "billions": 1e9,
    "t": 1e12,
    "trillion": 1e12,
    "trillions": 1e12,
    "mio": 1e6,
    "mrd": 1e9,
    "1e3": 1e3,
    "1e6": 1e6,
    "1e9": 1e9,
    "1e12": 1e12,
}
_FLOP_UNITS = {"pflop": 1e15, "eflop": 1e18, "zflop": 1e21, "1e15": 1e15, "1e18": 1e18, "1e21": 1e21, "pfdays": 8.64e19}
_MISSING = {"", "-", "nan", "na", "n/a", "none", "null", "?"}


def find_columns(header: Sequence[str], given: Mapping[str, str], wanted: Sequence[Role] = ()) -> dict[Role, Column]:
    """The column of each role: `given` as `name` or `name*factor`, the others by their names. Beside the usual ones
    those `wanted` are looked for.

    Raises RunTableError for a given column that is not there, and where several columns could be the loss (or N, D, C)
    and none has a usual name.
    """
    found = {role: _given(role, given[role], header) for role in (*BASE_ROLES, *EXTRA_ROLES) if role in given}
    taken = {column.name for column in found.values()}
    free = [name for name in header if name not in taken]
    for role in (*(role for role in EXTRA_ROLES if role in wanted), *BASE_ROLES):
        if role not in found and (column := _guess(role, free, given)):
            found[role] = column
            free.remove(column.name)
    return found


def _given(role: Role, text: str, header: Sequence[str]) -> Column:
    name, factor = text, 1.0
    if text not in header and "*" in text:
        name, _, written = text.rpartition("*")
        number = parse_number(written)
        if not isinstance(number, float) or not (math.isfinite(number) and number > 0):
            raise RunTableError(f"--{_option(role)} {text!r}: {written!r} is no positive factor; write COLUMN*1e6")
        factor = number
    if name not in header:
        raise RunTableError(
            f"--{_option(role)} {text!r}: the table has no column {name!r}; it has {', '.join(map(repr, header))}"
        )
    return Column(role, name, factor)


def _option(role: Role) -> str:
    return role.replace("_", "-")


def _guess(role: Role, header: Sequence[str], given: Mapping[str, str]) -> Column | None:
    preferred = {name: place for place, name in enumerate(_NAMES[role].split())}
    known = []
    for name in header:
        for words, factor in _readings(role, name):
            if (joined := "".join(words)) in preferred:
                known.append((preferred[joined], name, factor))
                break
    if known:
        known.sort(key=lambda one: one[0])
        _, name, factor = known[0]
        return Column(role, name, factor, True, tuple(dict.fromkeys(n for _, n, _ in known[1:] if n != name)))
    if role not in _WORDS:
        return None
    wanted, unwanted = _WORDS[role]
    parted = {name: _readings(role, name)[-1] for name in header}
    likely = [n for n, (words, _) in parted.items() if wanted & set(words) and not unwanted & set(words)]
    others: tuple[str, ...] = ()
    if role == "loss" and len(likely) > 1:  # what a model has not seen says more than what it trains on
        evaluated = [name for name in likely if _OF_EVALUATION & set(parted[name][0])]
        if len(evaluated) == 1:
            others = tuple(name for name in likely if name not in evaluated)
            likely = evaluated
    if len(likely) > 1:
        if role == "run":
            return None  # each row then counts as a run, and it is shown
        raise RunTableError(
            f"several columns could be {role}: {', '.join(map(repr, likely))}; say which with --{role} COLUMN"
        )
    return Column(role, likely[0], parted[likely[0]][1], True, others) if likely else None


def _readings(role: Role, name: str) -> list[tuple[list[str], float]]:
    """The words of a header as they are, without what stands in brackets, and without a unit at their end: `tokens_B`,
    `size (M)`, `D (B tokens)`, `compute (PF-days)`, each with the factor of its unit."""
    units = {**_UNITS, **_FLOP_UNITS} if role in ("flops", "budget") else _UNITS
    if role in ("loss", "run"):
        return [(_words(name), 1.0)]
    outside = _words(re.sub(r"[(\[{][^)\]}]*[)\]}]", " ", name))
    inside = _words(" ".join(re.findall(r"[(\[{]([^)\]}]*)[)\]}]", name)))
    known = [word for word in (*inside, "".join(inside)) if word in units]
    readings = [(_words(name), 1.0)]
    if inside and outside:
        readings.append((outside, units[known[0]] if known else 1.0))
    elif (words := readings[0][0])[-1:] and words[-1] in units and len(words) > 1:
        readings.append(([word for word in words[:-1] if word != "in"], units[words[-1]]))
    return readings


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+", re.sub(r"([a-z0-9])([A-Z])", r"\1 \2", text).lower())


def loss_unit(name: str) -> LossUnit:
    """The unit that a header of losses tells: nats where it tells none, or bits per byte, which stay as they are."""
    words = set(_words(name))
    if "perplexity" in name.lower() or "ppl" in name.lower():
        return "perplexity"
    return "bits" if words & {"bit", "bits"} and not is_per_byte(name) else "nats"


def is_per_byte(name: str) -> bool:
    """Whether a header says bits per byte."""
    words = set(_words(name))
    return "bpb" in words or {"bits", "byte"} <= words or "bitsperbyte" in words


_NUMBER = r"[+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_WITH_UNIT = re.compile(rf"({_NUMBER})\s*([a-zA-Z]+)?(?:\s+|$)(?:params?|parameters?|tokens?|flops?)?", re.IGNORECASE)


def parse_number(value: object) -> float | str | None:
    """A cell as a number; see `parse_cell`."""
    return parse_cell(value)[0]


def parse_cell(value: object) -> tuple[float | str | None, bool]:
    """A cell as a number and whether it names its unit: None where it is missing, its text where it is no number.

    Takes 1e9, 1_000, 1,000,000, 1.000.000, 7B, 350M, 1.4T, 1.2 billion, 3B tokens.
    """
    if value is None or isinstance(value, bool):
        return (None if value is None else str(value)), False
    if isinstance(value, (int, float)):
        return float(value), False
    text = str(value).strip()
    if text.lower() in _MISSING:
        return None, False
    plain = text.replace(",", "") if re.fullmatch(r"[+-]?\d{1,3}(,\d{3})+(\.\d*)?", text) else text
    if re.fullmatch(r"[+-]?\d{1,3}(\.\d{3}){2,}", plain):  # two points or more can only part thousands
        plain = plain.replace(".", "")
    try:
        return float(plain), False
    except ValueError:
        pass
    match = _WITH_UNIT.fullmatch(plain)
    if match is None:
        return text, False
    unit = (match[2] or "").lower()
    if unit in _UNITS:
        return float(match[1]) * _UNITS[unit], True
    return (float(match[1]), False) if unit in _NOUNS else (text, False)


_NOUNS = {"", "param", "params", "parameter", "parameters", "token", "tokens", "flop", "flops"}
