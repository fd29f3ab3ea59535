//! Which functions may be called: the built-in deny-list (data, `policies/functions/`), and what user functions could reach.
