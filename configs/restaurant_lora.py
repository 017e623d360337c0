"""The same as configs/restaurant.py:lora.

python -m jaxft.train --config configs/restaurant_lora.py
"""

from configs.base import named

get_config = named("restaurant_sup", "lora")
