"""Configs of well-known checkpoints, so that their memory can be planned with no hub in reach.

    config = ARCHITECTURES["roberta-large"]      # transformers' config.json, what shapes depend on

Only the memory planner reads these; training takes a checkpoint's own config.
"""

from typing import Any

BERT_BASE = {
    "model_type": "bert",
    "vocab_size": 30522,
    "hidden_size": 768,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "intermediate_size": 3072,
    "max_position_embeddings": 512,
    "type_vocab_size": 2,
    "pad_token_id": 0,
}
ROBERTA_BASE = {
    **BERT_BASE,
    "model_type": "roberta",
    "vocab_size": 50265,
    "max_position_embeddings": 514,
    "type_vocab_size": 1,
    "pad_token_id": 1,
    "layer_norm_eps": 1e-5,
}
LARGE = {
    "hidden_size": 1024,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "intermediate_size": 4096,
}
ELECTRA_BASE = {**BERT_BASE, "model_type": "electra", "embedding_size": 768}
XLM_ROBERTA_BASE = {**ROBERTA_BASE, "model_type": "xlm-roberta", "vocab_size": 250002}
ALBERT_BASE = {
    **BERT_BASE,
    "model_type": "albert",
    "vocab_size": 30000,
    "embedding_size": 128,
    "hidden_act": "gelu_new",
    "hidden_dropout_prob": 0,
    "attention_probs_dropout_prob": 0,
}
MODERNBERT_BASE = {
    "model_type": "modernbert",
    "vocab_size": 50368,
    "hidden_size": 768,
    "num_hidden_layers": 22,
    "num_attention_heads": 12,
    "intermediate_size": 1152,
    "max_position_embeddings": 8192,
    "local_attention": 128,
    "global_attn_every_n_layers": 3,
    "global_rope_theta": 160000.0,
    "local_rope_theta": 10000.0,
    "classifier_pooling": "mean",
    "pad_token_id": 50283,
}

# Each as in the config.json of the hub repository of that name; `published_sizes` has the number of
# parameters that was published of each, and where.
ARCHITECTURES: dict[str, dict[str, Any]] = {
    "bert-base-uncased": BERT_BASE,
    "bert-base-cased": {**BERT_BASE, "vocab_size": 28996},
    "bert-base-multilingual-cased": {**BERT_BASE, "vocab_size": 119547},
    "bert-large-uncased": {**BERT_BASE, **LARGE},
    "roberta-base": ROBERTA_BASE,
    "roberta-large": {**ROBERTA_BASE, **LARGE},
    "distilroberta-base": {**ROBERTA_BASE, "num_hidden_layers": 6},
    "allenai/scibert_scivocab_uncased": {**BERT_BASE, "vocab_size": 31090},
    "sentence-transformers/all-MiniLM-L6-v2": {
        **BERT_BASE,
        "hidden_size": 384,
        "num_hidden_layers": 6,
        "intermediate_size": 1536,
    },
    "xlm-roberta-base": XLM_ROBERTA_BASE,
    "xlm-roberta-large": {**XLM_ROBERTA_BASE, **LARGE},
    "camembert-base": {**ROBERTA_BASE, "model_type": "camembert", "vocab_size": 32005},
    "distilbert-base-uncased": {
        "model_type": "distilbert",
        "vocab_size": 30522,
        "dim": 768,
        "n_layers": 6,
        "n_heads": 12,
        "hidden_dim": 3072,
        "max_position_embeddings": 512,
        "pad_token_id": 0,
    },
    "google/electra-small-discriminator": {
        **ELECTRA_BASE,
        "embedding_size": 128,
        "hidden_size": 256,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
    "google/electra-base-discriminator": ELECTRA_BASE,
    "google/electra-large-discriminator": {**ELECTRA_BASE, **LARGE, "embedding_size": 1024},
    "albert-base-v2": ALBERT_BASE,
    "albert-large-v2": {**ALBERT_BASE, **LARGE},
    "microsoft/mpnet-base": {
        **ROBERTA_BASE,
        "model_type": "mpnet",
        "vocab_size": 30527,
        "relative_attention_num_buckets": 32,
    },
    "answerdotai/ModernBERT-base": MODERNBERT_BASE,
    "answerdotai/ModernBERT-large": {
        **MODERNBERT_BASE,
        "hidden_size": 1024,
        "num_hidden_layers": 28,
        "num_attention_heads": 16,
        "intermediate_size": 2624,
    },
    # openlm-research/open_llama_3b: a decoder, to be planned and not to be trained here.
    "openlm-research/open_llama_3b": {
        "model_type": "llama",
        "vocab_size": 32000,
        "hidden_size": 3200,
        "num_hidden_layers": 26,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 8640,
        "max_position_embeddings": 2048,
        "hidden_act": "silu",
        "rms_norm_eps": 1e-6,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    },
}
