//! A mask as the policy writes it, e.g. `keep(3, 4)`. Its SQL and strength are in [`crate::mask`].

/// A parsed mask.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum MaskSpec {
    /// `null`
    Null,
    /// `full`: every character of a string hidden, length hidden too; other types a fixed value.
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

impl std::str::FromStr for MaskSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Err(format!("unknown mask `{text}`"))
    }
}
