"""Check that Flower serves and reaches its broker: the lengths of queues, which it must read from Redis."""

import base64
import sys
import urllib.request
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))
from credentials import credentials

basic = base64.b64encode(credentials().encode()).decode()
asked = urllib.request.Request(
    "http://127.0.0.1:5555/api/queues/length", headers={"Authorization": f"Basic {basic}"}
)
with urllib.request.urlopen(asked, timeout=6) as answer:
    sys.exit(0 if answer.status == 200 else 1)
