"""The same as configs/restaurant.py:full.

python -m jaxft.train --config configs/restaurant_full.py
"""

from configs.base import named

get_config = named("restaurant_sup", "full")
