"""The same as configs/laptop.py:lora.

python -m jaxft.train --config configs/laptop_lora.py
"""

from functools import partial

from configs.base import defaults_of

get_config = partial(defaults_of, "laptop_sup", "lora")
