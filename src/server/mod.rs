//! The tokio shell: the only sockets, tasks, timers and clocks.
