"""The published number of parameters of each architecture, where it is from and what it counts.

    size = PUBLISHED["roberta-base"]
    size.parameters, size.source, size.beside      # 124_052_736, "KerasHub ...", {...}

Publishers count different things: with a pooler, with the head that predicts masked words, or
without rows of a table that no token uses. `beside` says by how much a figure differs from the bare
encoder (`jaxft.models.backbone` without the layers of the classifier), part by part.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

# Model pages of the hub, whose figure is of the tensors in model.safetensors. Those below are as
# others copied them: the hub was out of reach when this was written.
HUB = "https://huggingface.co/"
# `params` of KerasHub's presets; bert's, for example, at commit
# 0b8b7aff40ebcfcb0fffe155cf1c2ad71dd41e2d.
KERAS = "keras-team/keras-hub, keras_hub/src/models/"


@dataclass(frozen=True)
class Size:
    """A published size.

    Attributes:
      parameters: the published figure.
      source: where it was published; for a derived figure, what it was derived from.
      beside: part -> parameters that the figure counts beside the bare encoder; negative for what
        it leaves out.
      is_derived: whether no exact figure was found, and this one follows from another one and the
        config.
    """

    parameters: int
    source: str
    beside: Mapping[str, int] = field(default_factory=dict)
    is_derived: bool = False


def dense(inputs: int, outputs: int) -> int:
    """Parameters of a dense layer with a bias."""
    return inputs * outputs + outputs


def masked_words(hidden: int, vocabulary: int) -> dict[str, int]:
    """The head that predicts masked words; its matrix of words is the embeddings'."""
    return {
        "transform of masked words": dense(hidden, hidden) + 2 * hidden,
        "bias of masked words": vocabulary,
    }


def without_unused(hidden: int) -> dict[str, int]:
    """KerasHub's RoBERTa has no table of types, and no rows for the first two positions."""
    return {"types": -hidden, "first two positions": -2 * hidden}


# A layer of BERT base: query, key, value and output, the two of the MLP, two layer norms.
BASE_LAYER = 4 * dense(768, 768) + dense(768, 3072) + dense(3072, 768) + 2 * 2 * 768

PUBLISHED: dict[str, Size] = {
    "bert-base-uncased": Size(109_482_240, f"{KERAS}bert/bert_presets.py, bert_base_en_uncased"),
    "bert-base-cased": Size(108_310_272, f"{KERAS}bert/bert_presets.py, bert_base_en"),
    "bert-base-multilingual-cased": Size(
        177_853_440, f"{KERAS}bert/bert_presets.py, bert_base_multi"
    ),
    "bert-large-uncased": Size(335_141_888, f"{KERAS}bert/bert_presets.py, bert_large_en_uncased"),
    "roberta-base": Size(
        124_052_736, f"{KERAS}roberta/roberta_presets.py, roberta_base_en", without_unused(768)
    ),
    "roberta-large": Size(
        354_307_072, f"{KERAS}roberta/roberta_presets.py, roberta_large_en", without_unused(1024)
    ),
    # The model page states 82M; the figure is roberta-base's without six of its layers.
    "distilroberta-base": Size(
        124_052_736 - 6 * BASE_LAYER,
        f"roberta-base's figure and {HUB}distilbert/distilroberta-base",
        without_unused(768),
        is_derived=True,
    ),
    # "SciBERT", Beltagy et al. 2019 (https://arxiv.org/abs/1903.10676), section 2: BERT base with a
    # vocabulary of 31K; 31,090 in its config.
    "allenai/scibert_scivocab_uncased": Size(
        109_482_240 + (31_090 - 30_522) * 768,
        "bert-base-uncased's figure and the size of SciBERT's vocabulary",
        is_derived=True,
    ),
    "sentence-transformers/all-MiniLM-L6-v2": Size(
        22_713_728,
        f"{HUB}sentence-transformers/all-MiniLM-L6-v2",
        {"numbers of the positions (int64)": 512},
    ),
    "xlm-roberta-base": Size(
        277_450_752,
        f"{KERAS}xlm_roberta/xlm_roberta_presets.py, xlm_roberta_base_multi",
        without_unused(768),
    ),
    "xlm-roberta-large": Size(
        558_837_760,
        f"{KERAS}xlm_roberta/xlm_roberta_presets.py, xlm_roberta_large_multi",
        without_unused(1024),
    ),
    # The paper (https://arxiv.org/abs/1911.03894) and the model page state 110M. This is what
    # CamembertForMaskedLM.from_pretrained("camembert-base") has, printed in a French tutorial.
    "camembert-base": Size(
        110_655_493,
        f"{HUB}almanach/camembert-base, counted with transformers, with its head",
        masked_words(768, 32_005),
    ),
    "distilbert-base-uncased": Size(
        66_362_880, f"{KERAS}distil_bert/distil_bert_presets.py, distil_bert_base_en_uncased"
    ),
    # KerasHub gives ELECTRA a pooler, which the original has not.
    "google/electra-small-discriminator": Size(
        13_548_800,
        f"{KERAS}electra/electra_presets.py, electra_small_discriminator_uncased_en",
        {"pooler": dense(256, 256)},
    ),
    "google/electra-base-discriminator": Size(
        109_482_240,
        f"{KERAS}electra/electra_presets.py, electra_base_discriminator_uncased_en",
        {"pooler": dense(768, 768)},
    ),
    "google/electra-large-discriminator": Size(
        335_141_888,
        f"{KERAS}electra/electra_presets.py, electra_large_discriminator_uncased_en",
        {"pooler": dense(1024, 1024)},
    ),
    "albert-base-v2": Size(11_683_584, f"{KERAS}albert/albert_presets.py, albert_base_en_uncased"),
    "albert-large-v2": Size(
        17_683_968, f"{KERAS}albert/albert_presets.py, albert_large_en_uncased"
    ),
    # Of the model that was trained from mpnet-base, of the same shapes.
    "microsoft/mpnet-base": Size(
        109_486_978,
        f"{HUB}sentence-transformers/all-mpnet-base-v2",
        {"pooler": dense(768, 768), "numbers of the positions (int64)": 514},
    ),
    "answerdotai/ModernBERT-base": Size(
        149_014_272, f"{KERAS}modernbert/modernbert_presets.py, modern_bert_base_en"
    ),
    "answerdotai/ModernBERT-large": Size(
        394_781_696, f"{KERAS}modernbert/modernbert_presets.py, modernbert_large_en"
    ),
    # The model page states 3B, and 6.85 GB of float16. The figure is that of its config: two
    # matrices of 32,000 words; in each of 26 layers four matrices of attention, three of the MLP
    # and two norms; a norm at the end.
    "openlm-research/open_llama_3b": Size(
        2 * 32_000 * 3_200 + 26 * (4 * 3_200**2 + 3 * 3_200 * 8_640 + 2 * 3_200) + 3_200,
        f"config.json of {HUB}openlm-research/open_llama_3b",
        {"words that it predicts": 32_000 * 3_200},
        is_derived=True,
    ),
}
