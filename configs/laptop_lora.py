"""The same as configs/laptop.py:lora.

python -m jaxft.train --config configs/laptop_lora.py
"""

from configs.base import named

get_config = named("laptop_sup", "lora")
