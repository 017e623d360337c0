"""What the commands share: JSON that every reader reads."""

import json
import math
from pathlib import Path

from jaxft import wiring


def test_figures_that_are_none_are_null_in_json(tmp_path: Path) -> None:
    content = {"loss": math.nan, "rows": [1.5, math.inf, {"x": -math.inf}], "name": "NaN"}
    wiring.write_json(tmp_path / "x.json", content)
    text = (tmp_path / "x.json").read_text()
    assert json.loads(text) == {"loss": None, "rows": [1.5, None, {"x": None}], "name": "NaN"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["x.json"]
