"""The tests here share a mock server, in mock_server.py beside them."""

import sys
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
