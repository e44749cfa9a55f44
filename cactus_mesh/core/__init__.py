"""Pure decisions: no sockets, no clocks, no tasks, no global random.  `now` and `rng` are arguments."""
