"""How degenerate is a loss landscape, and why."""
