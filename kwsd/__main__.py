"""`python -m kwsd`: the same as the command `kwsd`."""

import sys

from kwsd.cli.main import main

sys.exit(main())
