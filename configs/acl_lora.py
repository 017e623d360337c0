"""The same as configs/acl.py:lora.

python -m jaxft.train --config configs/acl_lora.py
"""

from functools import partial

from configs.base import defaults_of

get_config = partial(defaults_of, "acl_sup", "lora")
