"""A support desk: rules look at the orders in a database, at what was done, and at who the user is."""

import shutil
import sqlite3
import tempfile
from pathlib import Path

from langchain.agents import create_agent
from langchain_core.tools import tool
from langgraph.checkpoint.memory import InMemorySaver

from agentguard import Guard
from agentguard.testing import RecordingAudit, ScriptedChatModel

folder = shutil.copytree(Path(__file__).parent / "policies/support", Path(tempfile.mkdtemp()) / "desk")
shop = sqlite3.connect(folder / "shop.db", isolation_level=None, check_same_thread=False)
shop.executescript((folder / "shop.sql").read_text())


@tool
def identify(email: str) -> str:
    """Look up who the user is."""
    return f"the user of {email}"


@tool
def cancel_order(order_id: str, reason: str) -> str:
    """Cancel an order."""
    shop.execute("UPDATE orders SET status = 'cancelled' WHERE id = ?", (order_id,))
    return f"order {order_id} is cancelled"


@tool
def exchange_item(order_id: str, item_id: str, new_item_id: str) -> str:
    """Exchange an item of an order for another."""
    return f"item {item_id} is exchanged for {new_item_id}"


KETTLE = {"order_id": "A1", "item_id": "I1"}
TURNS = {  # what the user says, and what a real model would call then
    "Cancel order A2.": [("cancel_order", {"order_id": "A2", "reason": "user"})],
    "I am ada@shop.example.": [("identify", {"email": "ada@shop.example"})],
    "So cancel A2 now.": [("cancel_order", {"order_id": "A2", "reason": "user"})],
    "And order B1.": [("cancel_order", {"order_id": "B1", "reason": "user"})],
    "Kettle I1 of A1 for I2.": [("exchange_item", KETTLE | {"new_item_id": "I2"})],
    "I3, rather.": [("exchange_item", KETTLE | {"new_item_id": "I3"})],
}
with Guard.from_file(folder / "agentguard.toml", audit=RecordingAudit()) as guard:
    desk = create_agent(
        ScriptedChatModel(script=[entry for calls in TURNS.values() for entry in (calls, "done")]),
        [identify, cancel_order, exchange_item],
        middleware=[guard.middleware(hears_user=True)],
        checkpointer=InMemorySaver(),
    )
    with guard.task("Support", subject="user://ada", mandate={"tools": "*"}) as task:
        config = {"configurable": {**task.config["configurable"], "thread_id": "1"}}
        for words in TURNS:
            result = desk.invoke({"messages": [guard.user_message(words)]}, config)
            print(f"{words:<28}{result['messages'][-2].text}")
shop.close()
