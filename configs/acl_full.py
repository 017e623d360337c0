"""The same as configs/acl.py:full.

python -m jaxft.train --config configs/acl_full.py
"""

from configs.base import named

get_config = named("acl_sup", "full")
