//! How a server asks who is there (protocol-message-formats, Authentication…), and which ways of asking are acceptable: libpq's
//! `require_auth`. Whoever can make a server, or a false one, ask for a cleartext password, could otherwise read it.

/// A method of authentication, under the name that `require_auth` gives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// `password`: in clear.
    Password,
    /// `md5`
    Md5,
    /// `gss`
    Gss,
    /// `sspi`
    Sspi,
    /// `scram-sha-256`, bound to the channel or not.
    Scram,
    /// `oauth`
    Oauth,
    /// `none`: the server asks for nothing (trust, peer, or a certificate).
    None,
}

/// Names, in libpq's order.
const NAMES: [(&str, Method); 7] = [
    ("password", Method::Password),
    ("md5", Method::Md5),
    ("gss", Method::Gss),
    ("sspi", Method::Sspi),
    ("scram-sha-256", Method::Scram),
    ("oauth", Method::Oauth),
    ("none", Method::None),
];

/// Which methods are acceptable. *Default: all*
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RequireAuth {
    /// As written; empty: all.
    words: Vec<String>,
}

impl RequireAuth {
    /// Of words such as `scram-sha-256`, or `!password`; not of both kinds.
    ///
    /// # Errors
    /// What is wrong with them.
    pub fn parse(words: Vec<String>) -> Result<Self, String> {
        let negated = words.iter().filter(|w| w.starts_with('!')).count();
        if negated != 0 && negated != words.len() {
            return Err("methods with `!` and without can't be mixed".to_owned());
        }
        for word in &words {
            if !NAMES.iter().any(|(name, _)| *name == word.trim_start_matches('!')) {
                let names: Vec<&str> = NAMES.iter().map(|(name, _)| *name).collect();
                return Err(format!("`{word}` is none of {}", names.join(", ")));
            }
        }
        Ok(Self { words })
    }

    /// Whether there is anything that is not acceptable.
    #[must_use]
    pub fn restricts(&self) -> bool {
        !self.words.is_empty()
    }

    /// Whether a method is acceptable.
    #[must_use]
    pub fn allows(&self, method: Method) -> bool {
        let named = |word: &str| NAMES.iter().any(|(name, m)| *name == word && *m == method);
        if self.words.iter().any(|w| w.starts_with('!')) {
            return !self.words.iter().any(|w| named(w.trim_start_matches('!')));
        }
        self.words.is_empty() || self.words.iter().any(|w| named(w))
    }

    /// Whether a SASL mechanism is acceptable. One that is not known is so only where everything is.
    #[must_use]
    pub fn allows_mechanism(&self, mechanism: &[u8]) -> bool {
        match mechanism {
            b"SCRAM-SHA-256" | b"SCRAM-SHA-256-PLUS" => self.allows(Method::Scram),
            b"OAUTHBEARER" => self.allows(Method::Oauth),
            _ => !self.restricts(),
        }
    }
}

/// Follows the authentication of one connection.
#[derive(Debug, Clone, Default)]
pub struct Watcher {
    required: RequireAuth,
    asked: bool,
    sasl_open: bool,
}

impl Watcher {
    /// For a new connection.
    #[must_use]
    pub fn new(required: RequireAuth) -> Self {
        Self {
            required,
            asked: false,
            sasl_open: false,
        }
    }

    /// What is required.
    #[must_use]
    pub fn required(&self) -> &RequireAuth {
        &self.required
    }

    /// Judges the body of an Authentication message. What is no such message is left to whoever reads it.
    ///
    /// # Errors
    /// In libpq's words.
    pub fn judge(&mut self, body: &[u8]) -> Result<(), String> {
        if !self.required.restricts() {
            return Ok(());
        }
        let Some((code, rest)) = body.split_first_chunk::<4>() else {
            return Ok(());
        };
        let failed = |what: &str| {
            let methods = self.required.words.join(",");
            Err(format!(
                "authentication method requirement \"{methods}\" failed: {what}"
            ))
        };
        let (method, what) = match i32::from_be_bytes(*code) {
            0 if self.sasl_open => return failed("server did not complete authentication"),
            0 if self.asked => return Ok(()),
            0 => (Method::None, "server did not request authentication"),
            3 => (Method::Password, "server requested a cleartext password"),
            5 => (Method::Md5, "server requested a hashed password"),
            7 => (Method::Gss, "server requested GSSAPI authentication"),
            9 => (Method::Sspi, "server requested SSPI authentication"),
            10 => {
                let mut offered = rest.split(|b| *b == 0).filter(|m| !m.is_empty());
                if !offered.any(|m| self.required.allows_mechanism(m)) {
                    return failed("server requested SASL authentication");
                }
                self.asked = true;
                self.sasl_open = true;
                return Ok(());
            }
            12 => {
                self.sasl_open = false;
                return Ok(());
            }
            // AuthenticationGSSContinue, AuthenticationSASLContinue; the rest is unknown, and refused elsewhere.
            _ => return Ok(()),
        };
        if !self.required.allows(method) {
            return failed(what);
        }
        self.asked = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watcher(words: &[&str]) -> Watcher {
        Watcher::new(RequireAuth::parse(words.iter().map(|w| (*w).to_owned()).collect()).unwrap())
    }

    fn asks(watcher: &mut Watcher, code: i32, rest: &[u8]) -> bool {
        watcher.judge(&[&code.to_be_bytes(), rest].concat()).is_ok()
    }

    const SCRAM: &[u8] = b"SCRAM-SHA-256-PLUS\0SCRAM-SHA-256\0\0";

    #[test]
    fn only_what_is_required_passes() {
        for (code, rest) in [
            (0, b"".as_slice()),
            (3, b""),
            (5, b"salt"),
            (7, b""),
            (9, b""),
            (10, b"OAUTHBEARER\0\0"),
        ] {
            assert!(!asks(&mut watcher(&["scram-sha-256"]), code, rest), "{code}");
            assert!(asks(&mut watcher(&[]), code, rest), "{code}");
        }
        let mut scram = watcher(&["scram-sha-256"]);
        assert!(asks(&mut scram, 10, SCRAM) && asks(&mut scram, 11, b"x") && asks(&mut scram, 12, b"x"));
        assert!(asks(&mut scram, 0, b""));
        assert!(asks(&mut watcher(&["!password", "!md5"]), 0, b""));
        assert!(!asks(&mut watcher(&["!password", "!md5"]), 5, b"salt"));
        assert!(asks(&mut watcher(&["none"]), 0, b""));
        assert!(!asks(&mut watcher(&["none"]), 10, SCRAM));
    }

    #[test]
    fn scram_must_be_brought_to_its_end() {
        let mut scram = watcher(&["scram-sha-256"]);
        assert!(asks(&mut scram, 10, SCRAM) && asks(&mut scram, 11, b"x"));
        assert!(
            !asks(&mut scram, 0, b""),
            "the server has not shown that it knows the password"
        );
        // A second request is judged like the first.
        let mut scram = watcher(&["scram-sha-256"]);
        assert!(asks(&mut scram, 10, SCRAM) && !asks(&mut scram, 3, b""));
    }

    #[test]
    fn words_are_checked() {
        let parse = |words: &[&str]| RequireAuth::parse(words.iter().map(|w| (*w).to_owned()).collect());
        assert!(parse(&["scram"]).unwrap_err().contains("scram-sha-256"));
        assert!(parse(&["md5", "!password"]).is_err());
    }
}
