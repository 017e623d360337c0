"""The same as configs/restaurant.py:full.

python -m jaxft.train --config configs/restaurant_full.py
"""

from functools import partial

from configs.base import defaults_of

get_config = partial(defaults_of, "restaurant_sup", "full")
