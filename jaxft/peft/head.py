"""The head alone is trained; the backbone is a fixed feature extractor."""

from jaxft.peft.method import FROZEN, Applied, Method, Options, Site, register


def apply(site: Site, options: Options) -> Applied:
    """Freezes the backbone."""
    del site, options
    return Applied((FROZEN,))


HEAD = register(Method("head", Options, apply, learning_rate=3e-3))
