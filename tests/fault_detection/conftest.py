"""Tests of the fault finder; they share a correct sampler, samplers.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
