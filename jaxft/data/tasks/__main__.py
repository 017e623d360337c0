"""Fetches a task's files and prints where they are from; `sample` if they cannot be had.

python -m jaxft.data.tasks acl_sup
python -m jaxft.data.tasks acl_sup,laptop_sup --dir my_data
"""

import argparse
import sys
from collections.abc import Sequence

from jaxft.data.tasks import CATALOGUE, find_task, parse_task
from jaxft.errors import InputError


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status: 2 for an unknown task or a --dir that does not hold it."""
    parser = argparse.ArgumentParser(
        prog="python -m jaxft.data.tasks",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("task", help="acl_sup, or several with commas")
    parser.add_argument("--dir", default=None, help="a directory with <task>/train.jsonl, ...")
    options = parser.parse_args(arguments)
    used = set()
    try:
        for part in parse_task(options.task):
            try:
                found = find_task(part.name, data_dir=options.dir, source="auto")
                print(f"{part.name}: {found.origin}", file=sys.stderr)
                used.add(found.source)
            except InputError as error:
                # A directory named by the user is not silently replaced by the samples.
                if options.dir or part.name not in CATALOGUE:
                    raise
                print(f"{part.name}: {error}", file=sys.stderr)
                used.add("sample")
    except InputError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    print(next(source for source in ("sample", "download", "local") if source in used))
    return 0


if __name__ == "__main__":
    sys.exit(main())
