"""The same as configs/agnews.py:full.

python -m jaxft.train --config configs/agnews_full.py
"""

from configs.base import named

get_config = named("agnews_sup", "full")
