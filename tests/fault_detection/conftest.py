"""The tests here share one right sampler, in samplers.py beside them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
