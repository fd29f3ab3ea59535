//! `menshen.toml`: the file as written, then resolved; every mistake reported at once.
