"""The same as configs/acl.py:full.

python -m jaxft.train --config configs/acl_full.py
"""

from functools import partial

from configs.base import defaults_of

get_config = partial(defaults_of, "acl_sup", "full")
