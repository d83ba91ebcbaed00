"""``python -m anprompt COMMAND``."""

import sys

from anprompt.cli import main

sys.exit(main())
