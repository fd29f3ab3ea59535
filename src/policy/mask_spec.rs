//! A mask as the policy writes it, e.g. `keep(3, 4)`. Its SQL and strength are in [`crate::mask`].

use std::fmt;
use std::str::FromStr;

/// A parsed mask.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MaskSpec {
    /// `null`
    Null,
    /// `full`: every character of a string hidden, its length too; other types a fixed value.
    Full,
    /// `keep(first, last)`
    Keep(u16, u16),
    /// `name`: surname stays, compound surnames known.
    Name,
    /// `email`
    Email,
    /// `phone`
    Phone,
    /// `id_card`
    IdCard,
    /// `bank_card`
    BankCard,
    /// `address(level)`
    Address(AddressLevel),
    /// `year`
    Year,
    /// `month`
    Month,
    /// `bucket(width)`
    Bucket(u64),
    /// `constant(v)`
    Constant(String),
    /// `token`
    Token,
}

/// How much of an address stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum AddressLevel {
    /// `province`
    Province,
    /// `city`
    City,
    /// `district`
    District,
}

/// Names of all masks, for suggestions.
pub const NAMES: [&str; 14] = [
    "null",
    "full",
    "keep",
    "name",
    "email",
    "phone",
    "id_card",
    "bank_card",
    "address",
    "year",
    "month",
    "bucket",
    "constant",
    "token",
];

impl FromStr for MaskSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        let (name, arguments) = match text.split_once('(') {
            None => (text, None),
            Some((name, rest)) => {
                let inside = rest
                    .strip_suffix(')')
                    .ok_or_else(|| format!("mask `{text}` lacks its closing parenthesis"))?;
                (name.trim(), Some(inside.trim()))
            }
        };
        let plain = |spec: Self| match arguments {
            None => Ok(spec),
            Some(_) => Err(format!("mask `{name}` takes no argument")),
        };
        let one = |what: &str| {
            arguments
                .filter(|a| !a.is_empty())
                .ok_or_else(|| format!("mask `{name}` needs {what}"))
        };
        match name {
            "null" => plain(Self::Null),
            "full" => plain(Self::Full),
            "name" => plain(Self::Name),
            "email" => plain(Self::Email),
            "phone" => plain(Self::Phone),
            "id_card" => plain(Self::IdCard),
            "bank_card" => plain(Self::BankCard),
            "year" => plain(Self::Year),
            "month" => plain(Self::Month),
            "token" => plain(Self::Token),
            "keep" => {
                let what = "the numbers of characters that stay in front and behind, e.g. `keep(3, 4)`";
                let (first, last) = one(what)?
                    .split_once(',')
                    .ok_or_else(|| format!("mask `keep` needs {what}"))?;
                let number = |n: &str| n.trim().parse::<u16>().ok().filter(|n| *n <= 1000);
                match (number(first), number(last)) {
                    (Some(first), Some(last)) => Ok(Self::Keep(first, last)),
                    _ => Err(format!("mask `keep` needs {what}")),
                }
            }
            "address" => match one("`province`, `city` or `district`")? {
                "province" => Ok(Self::Address(AddressLevel::Province)),
                "city" => Ok(Self::Address(AddressLevel::City)),
                "district" => Ok(Self::Address(AddressLevel::District)),
                other => Err(format!(
                    "address level `{other}` is none of `province`, `city`, `district`"
                )),
            },
            "bucket" => one("a width, e.g. `bucket(1000)`")?
                .parse::<u64>()
                .ok()
                .filter(|w| (1..=1_000_000_000_000).contains(w))
                .map(Self::Bucket)
                .ok_or_else(|| "mask `bucket` needs a whole width from 1 to 10^12".to_owned()),
            "constant" => {
                let value = one("a value, e.g. `constant(hidden)`")?;
                let value = value
                    .strip_prefix('\'')
                    .and_then(|v| v.strip_suffix('\''))
                    .unwrap_or(value);
                if value.contains('\\') || value.contains('\0') {
                    return Err("a constant may not hold a backslash".to_owned());
                }
                Ok(Self::Constant(value.to_owned()))
            }
            _ => {
                let near = NAMES
                    .iter()
                    .map(|n| (strsim::jaro_winkler(n, name), n))
                    .filter(|(score, _)| *score > 0.7)
                    .max_by(|a, b| a.0.total_cmp(&b.0))
                    .map_or_else(|| format!("one of {}", NAMES.join(", ")), |(_, n)| format!("`{n}`"));
                Err(format!("unknown mask `{name}`; did you mean {near}?"))
            }
        }
    }
}

impl fmt::Display for AddressLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Province => "province",
            Self::City => "city",
            Self::District => "district",
        })
    }
}

impl fmt::Display for MaskSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => f.write_str("null"),
            Self::Full => f.write_str("full"),
            Self::Keep(first, last) => write!(f, "keep({first}, {last})"),
            Self::Name => f.write_str("name"),
            Self::Email => f.write_str("email"),
            Self::Phone => f.write_str("phone"),
            Self::IdCard => f.write_str("id_card"),
            Self::BankCard => f.write_str("bank_card"),
            Self::Address(level) => write!(f, "address({level})"),
            Self::Year => f.write_str("year"),
            Self::Month => f.write_str("month"),
            Self::Bucket(width) => write!(f, "bucket({width})"),
            Self::Constant(value) => write!(f, "constant({value})"),
            Self::Token => f.write_str("token"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_mask_reads_back_as_it_is_written() {
        for text in [
            "null",
            "full",
            "keep(3, 4)",
            "name",
            "email",
            "phone",
            "id_card",
            "bank_card",
            "address(city)",
            "year",
            "month",
            "bucket(1000)",
            "constant(hidden)",
            "token",
        ] {
            assert_eq!(text.parse::<MaskSpec>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn mistakes_say_what_was_expected() {
        assert!("keeep(3,4)".parse::<MaskSpec>().unwrap_err().contains("`keep`"));
        assert!("keep(3)".parse::<MaskSpec>().unwrap_err().contains("keep(3, 4)"));
        assert!("null(1)".parse::<MaskSpec>().unwrap_err().contains("no argument"));
        assert!("address(town)".parse::<MaskSpec>().unwrap_err().contains("district"));
        assert!("constant(a\\b)".parse::<MaskSpec>().is_err());
    }
}
