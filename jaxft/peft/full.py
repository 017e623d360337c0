"""Full fine-tuning: every parameter is trained."""

from jaxft.peft.method import Applied, Method, Options, Site, register


def apply(site: Site, options: Options) -> Applied:
    """Labels the backbone as trained."""
    del site, options
    return Applied(((r".*/(bias|scale|weight)", "backbone:no_decay"), (r".*", "backbone")))


FULL = register(Method("full", Options, apply, learning_rate=1e-4))
