//! The second reader: `sqlparser` and an exhaustive walk of its own. It can only object.
