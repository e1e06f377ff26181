"""What Google's launcher of Flex Templates runs: nothing of ours is defined in __main__."""

import sys

from pipelines.flex_template import main

sys.exit(main())
