"""Stand-ins for what agents and guards speak to, and what several tests share."""
