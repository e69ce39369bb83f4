"""python -m mae_fast = mae-fast."""

import sys

from mae_fast.cli import main

sys.exit(main())
