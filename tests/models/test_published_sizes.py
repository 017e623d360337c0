"""Each architecture that can be planned by its name alone has as many parameters as published."""

import pytest

from jaxft.models import backbone as backbones
from jaxft.models.architectures import ARCHITECTURES
from jaxft.models.published_sizes import PUBLISHED

# The layers between the encoder and the logits, as the families name them.
HEADS = ("classifier", "pre_classifier", "head", "lm_head")


def encoder_parameters(name: str) -> int:
    """The parameters of the bare encoder; a pooler that checkpoints have is part of it."""
    shapes = backbones.parameter_shapes(backbones.from_config(ARCHITECTURES[name], 2))
    return sum(x.size for path, x in shapes.items() if path.split("/")[0] not in HEADS)


def test_every_architecture_has_a_published_size_and_a_source() -> None:
    assert list(PUBLISHED) == list(ARCHITECTURES)
    assert len(PUBLISHED) >= 20
    assert all(size.source for size in PUBLISHED.values())


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_the_parameters_are_those_that_are_published(name: str) -> None:
    size = PUBLISHED[name]
    assert encoder_parameters(name) + sum(size.beside.values()) == size.parameters
