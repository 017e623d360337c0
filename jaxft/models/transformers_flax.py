"""transformers' own Flax classes, where version 4 is installed: what our modules are compared with.

    module = make(ROBERTA, {"model_type": "roberta"}, num_labels=6, compute=Compute())

The parameters' paths are the same as those of our modules. transformers 5 has no Flax classes.
"""

import importlib
import re
import warnings
from collections.abc import Mapping
from typing import Any

import jax
from flax import linen as nn

from jaxft.errors import InputError
from jaxft.models.attention import Texts
from jaxft.models.config import Compute
from jaxft.models.family import Family
from jaxft.models.remat import POLICIES

# A family -> the names of transformers' config and classifier. XLM-R's are RoBERTa's.
CLASSES = {
    "bert": ("bert", "BertConfig", "FlaxBertForSequenceClassificationModule"),
    "roberta": ("roberta", "RobertaConfig", "FlaxRobertaForSequenceClassificationModule"),
    "xlm-roberta": ("roberta", "RobertaConfig", "FlaxRobertaForSequenceClassificationModule"),
}


def make(
    family: Family, config: Mapping[str, Any], num_labels: int, compute: Compute
) -> "TransformersClassifier":
    """Returns a classifier that is called as our own are.

    Raises:
      InputError: transformers is of version 5, or has no Flax class of this family.
    """
    if family.name not in CLASSES:
        raise InputError(
            f"model.implementation: transformers has no Flax classifier of {family.name!r} that "
            f"jaxft can run, only of {', '.join(CLASSES)}; use jaxft's own"
        )
    if compute.attention != "xla":
        raise InputError(
            f"model.attention: transformers' Flax classes have 'xla' only, not "
            f"{compute.attention!r}; use model.implementation=jaxft"
        )
    if compute.scan == "on":
        raise InputError(
            "model.scan: transformers' Flax classes are not scanned; use model.scan=off or "
            "model.implementation=jaxft"
        )
    package, config_class, module_class = CLASSES[family.name]
    read_config, whole = flax_classes(package, config_class, module_class)
    hf_config = read_config.from_dict(dict(config))
    hf_config.num_labels = num_labels
    return TransformersClassifier(
        whole(hf_config, dtype=compute.dtype), compute.remat, family.layer
    )


def flax_classes(package: str, config_class: str, module_class: str) -> tuple[Any, Any]:
    """Returns transformers' config class and Flax module class.

    Imported on demand: it takes seconds, and warns that the Flax classes are deprecated.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import transformers

        try:
            flax = importlib.import_module(f"transformers.models.{package}.modeling_flax_{package}")
        except ImportError as err:
            raise InputError(
                f"model.implementation: transformers {transformers.__version__} has no Flax "
                "classes, they ended with 4.57; use jaxft's own (model.implementation=jaxft) or "
                "pip install 'transformers<5'"
            ) from err
    return getattr(transformers, config_class), getattr(flax, module_class)


class TransformersClassifier(nn.Module):
    """A classifier of transformers, called as ours; `share_scope` keeps its parameters' paths.

    Attributes:
      remat: a key of `POLICIES`. The layers' calls are intercepted, because transformers' own
        switch takes no policy.
      layer: a regex that matches the module paths of the layers.
    """

    whole: nn.Module
    remat: str
    layer: str

    def setup(self) -> None:
        nn.share_scope(self, self.whole)

    def __call__(
        self,
        ids_BxL: jax.Array,
        mask_BxL: jax.Array,
        types_BxL: jax.Array,
        positions_BxL: jax.Array,
        texts: Texts | None = None,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns logits_BxC in the computation's dtype; all arguments are int32."""
        if texts is not None:
            raise InputError(
                "transformers' Flax classes take one text a row; use model.implementation=jaxft"
            )
        with nn.intercept_methods(self.rematerialising()):
            logits_BxC, *_ = self.whole(
                ids_BxL,
                mask_BxL,
                types_BxL,
                positions_BxL,
                None,  # a mask of heads
                deterministic=deterministic,
                return_dict=False,
            )
        return logits_BxC

    def rematerialising(self) -> Any:
        """Returns an interceptor that puts each layer under the policy."""
        inside: set[str] = set()

        def interceptor(next_fun: Any, args: Any, kwargs: Any, context: Any) -> Any:
            path = "/".join(context.module.path)
            is_layer = re.fullmatch(self.layer, path) and context.method_name == "__call__"
            # A rematerialised layer's own call passes through here once more.
            if self.remat == "none" or not is_layer or path in inside:
                return next_fun(*args, **kwargs)
            hidden_BxLxD, *others = args

            def call(layer: nn.Module, hidden_BxLxD: jax.Array) -> Any:
                inside.add(path)
                outputs = layer(hidden_BxLxD, *others, **kwargs)
                inside.remove(path)
                return outputs

            policy = POLICIES[self.remat]
            return nn.remat(call, policy=policy)(context.module, hidden_BxLxD)

        return interceptor
