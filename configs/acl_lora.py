"""The same as configs/acl.py:lora.

python -m jaxft.train --config configs/acl_lora.py
"""

from configs.base import named

get_config = named("acl_sup", "lora")
