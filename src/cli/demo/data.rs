//! The demo's shop as SQL, for any number of people.

/// Statements that make and fill schema `crm`.
#[must_use]
pub fn shop_sql(people: u32) -> String {
    include_str!("shop.sql").replace(":people", &people.to_string())
}

/// The demo's logins with SCRAM passwords (each its own name, reversed), and Menshen's service login.
#[must_use]
pub fn logins_sql() -> String {
    let mut sql = "SET password_encryption = 'scram-sha-256';\n".to_owned();
    for login in ["menshen", "analyst", "support", "intern", "dba"] {
        sql.push_str(&format!("CREATE ROLE {login} LOGIN PASSWORD '{}';\n", password(login)));
    }
    sql.push_str("GRANT USAGE ON SCHEMA crm TO PUBLIC; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA crm TO PUBLIC;\n");
    sql
}

/// The password of a demo login.
#[must_use]
pub fn password(login: &str) -> String {
    login.chars().rev().collect()
}
