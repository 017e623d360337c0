"""Whatever the flags are, a command reads them or refuses them in one line.

JAXFT_FUZZ=100000 python -m pytest tests/test_fuzz_flags.py
"""

import os
import sys

import pytest
from absl import flags
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from ml_collections import ConfigDict

from jaxft import cli
from jaxft.config import config_module
from jaxft.errors import InputError
from jaxft.hints import fields_of

EXAMPLES = int(os.environ.get("JAXFT_FUZZ", "60"))
FIELDS = sorted(fields_of("base.py"))
TEXT = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12)
NAMES = (
    st.sampled_from(["config", "workdir", "seed", "config.model.name.x"])
    | st.sampled_from(FIELDS).map(lambda field: f"config.{field}")
    | TEXT
)
VALUES = (
    TEXT
    | st.integers().map(str)
    | st.floats().map(str)
    | st.sampled_from(
        ["(1,2)", "['a'", "{'a': 1}", "()", "None", "True", "__import__('os')", "1e999"]
    )
)
ARGUMENTS = st.builds(lambda name, value: f"--{name}={value}", NAMES, VALUES) | TEXT


@settings(
    max_examples=EXAMPLES,
    deadline=10_000,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(arguments=st.lists(ARGUMENTS, max_size=4))
def test_fuzz_flags_are_read_or_refused(
    arguments: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config_module("base.py")
    values = flags.FlagValues()
    flags.DEFINE_string("workdir", "", "", values)
    sys.modules.pop("config_config", None)
    found: ConfigDict | str
    try:
        found = cli.parse_config_command(["train", "--config=acl_lora", *arguments], values)
    except InputError as err:
        found = str(err)
    if isinstance(found, str):
        assert found
        assert "\n" not in found
    else:
        assert isinstance(found, ConfigDict)
