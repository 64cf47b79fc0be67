"""``python -m qmpguard``."""

import sys

from qmpguard.cli import main

sys.exit(main())
