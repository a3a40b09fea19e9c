"""Tests of the conformance kit; their mock server is mock_server.py."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
