"""The same as configs/laptop.py:full.

python -m jaxft.train --config configs/laptop_full.py
"""

from configs.base import named

get_config = named("laptop_sup", "full")
