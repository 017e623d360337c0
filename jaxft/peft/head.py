"""The head alone is trained; the backbone is a fixed feature extractor."""

from jaxft.errors import InputError
from jaxft.peft.method import FROZEN, Applied, Method, Options, Site


def apply(site: Site, options: Options) -> Applied:
    """Freezes the backbone."""
    del site
    if options.layers:
        raise InputError(
            "method.layers: 'head' trains no encoder layer; leave it empty, or use "
            "method.name=full to train these layers"
        )
    return Applied((FROZEN,))


HEAD = Method("head", Options, apply, learning_rate=3e-3)
