"""agentguard."""
