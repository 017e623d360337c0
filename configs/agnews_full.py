"""The same as configs/agnews.py:full.

python -m jaxft.train --config configs/agnews_full.py
"""

from functools import partial

from configs.base import defaults_of

get_config = partial(defaults_of, "agnews_sup", "full")
