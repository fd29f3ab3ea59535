//! One connection as a state machine without I/O: it takes messages and answers with what to send where.
