"""An MCP server over stdio, whose own schema takes Python's own engine of patterns years."""

from __future__ import annotations

import json
import sys
from typing import Any

PATTERN = {"type": "object", "properties": {"x": {"type": "string", "pattern": "^(a+)+$"}}}
TOOL = {"name": "pay", "inputSchema": {"type": "object"}, "outputSchema": PATTERN}
RESULTS: dict[str, Any] = {
    "initialize": {
        "protocolVersion": "2025-06-18",
        "capabilities": {"tools": {}},
        "serverInfo": {"name": "hostile", "version": "1"},
    },
    "tools/list": {"tools": [TOOL]},
    "tools/call": {
        "content": [{"type": "text", "text": "paid"}],
        "structuredContent": {"x": "a" * 40 + "!"},
    },
}

if __name__ == "__main__":
    for line in sys.stdin:
        message = json.loads(line)
        if "id" in message:
            answer = {"jsonrpc": "2.0", "id": message["id"], "result": RESULTS.get(message["method"], {})}
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
