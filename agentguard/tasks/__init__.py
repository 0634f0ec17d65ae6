"""A task's life: `task` begins, narrows and delegates it, `ending` ends it whoever asks for that."""
