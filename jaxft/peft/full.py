"""Full fine-tuning: every parameter is trained, or every one in the chosen layers."""

from jaxft.peft.method import FROZEN, Applied, Method, Options, Site


def apply(site: Site, options: Options) -> Applied:
    """Labels the backbone as trained."""
    vectors = site.trained_in(options.layers, r".*/(bias|scale|weight)")
    rules = ((vectors, "backbone:no_decay"), (site.trained_in(options.layers, r".*"), "backbone"))
    return Applied((*rules, FROZEN) if options.layers else rules)


FULL = Method("full", Options, apply, learning_rate=1e-4)
