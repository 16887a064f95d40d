"""``python -m memoserve.cli``."""

import sys

from memoserve.cli.main import main

sys.exit(main())
