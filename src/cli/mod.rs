//! One file per subcommand; each calls the library, none holds logic.
