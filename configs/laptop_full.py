"""The same as configs/laptop.py:full.

python -m jaxft.train --config configs/laptop_full.py
"""

from functools import partial

from configs.base import defaults_of

get_config = partial(defaults_of, "laptop_sup", "full")
