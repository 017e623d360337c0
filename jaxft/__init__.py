"""Fine-tune Flax BERT and RoBERTa encoders for text classification, in full or by PEFT.

python -m jaxft.train --config configs/acl_lora.py
"""

__version__ = "0.1.0"
