"""Public files that do not come with the project: tests that read them skip where they are not there.

They are looked for in `shared/` beside the project, or where LIFESPAN_REFERENCE and LIFESPAN_DATA say.
"""

from __future__ import annotations

import os
from pathlib import Path

_SHARED = Path(__file__).parents[2] / "shared"
REFERENCE = Path(os.environ.get("LIFESPAN_REFERENCE", _SHARED / "reference"))  # tables of runs, published figures
DATA = Path(os.environ.get("LIFESPAN_DATA", _SHARED / "data"))  # data sets of questions, saved generations
