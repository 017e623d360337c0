"""The same as configs/agnews.py:lora.

python -m jaxft.train --config configs/agnews_lora.py
"""

from configs.base import named

get_config = named("agnews_sup", "lora")
