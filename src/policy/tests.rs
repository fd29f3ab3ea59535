use std::path::Path;

use super::*;

const SHOP: &str = r#"
version = 1
thresholds = "cn-criminal-253-1"
[classes.phone]
category = "general"
mask = "keep(3, 4)"
[classes.location]
category = "critical"
mask = "null"
[tables."crm.customers"]
person = "id"
[tables."crm.customers".columns]
phone = "phone"
[tables."crm.customer_locations"]
person = "customer_id"
of = "crm.customers"
columns = { lat = "location" }
[roles.support]
logins = ["support_*"]
groups = ["customer_service"]
[roles.intern]
logins = ["intern"]
[purposes.customer_service]
require = { case = 'CS-\d{6}' }
[[grants]]
role = "support"
purpose = "customer_service"
clear = ["phone"]
rows = { "crm.customers" = "grade <> 'vip+'" }
hours = "08:00-20:00 Asia/Shanghai"
until = 2027-06-30
[[grants]]
role = "intern"
deny = ["*"]
[[limits]]
role = "*"
window = "30d"
alert_at = [0.5, 0.8, 1.0]
stop_at = 1.0
[[sanctions]]
login = "support_bad"
kind = "administrative"
on = 2026-01-01
"#;

fn load(text: &str) -> Result<(Policy, Vec<Problem>), Vec<Problem>> {
    Policy::parse(Path::new("p.toml"), text, 1)
}

fn principal(login: &str) -> Principal {
    Principal {
        login: login.into(),
        groups: BTreeSet::new(),
        address: None,
    }
}

fn declared(pairs: &[(&str, &str)]) -> Declared {
    Declared {
        settings: pairs.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect(),
    }
}

fn customers() -> RelationName {
    RelationName {
        schema: "crm".into(),
        name: "customers".into(),
    }
}

const NOON: &str = "2026-11-24T04:00:00Z";

#[test]
fn clear_needs_role_purpose_case_and_hours() {
    let (policy, warnings) = load(SHOP).unwrap();
    assert!(warnings.is_empty(), "{warnings:?}");
    let now: Timestamp = NOON.parse().unwrap();
    let phone = |login: &str, d: &Declared, now| {
        let standing = policy.standing(&principal(login), d, now);
        decide(&policy, &standing, "phone", &customers(), "phone").treatment
    };
    let case = declared(&[("purpose", "customer_service"), ("case", "CS-004711")]);
    assert!(matches!(phone("support_li", &case, now), Treatment::Clear(_)));
    assert_eq!(
        phone("support_li", &declared(&[]), now),
        Treatment::Mask(MaskSpec::Keep(3, 4))
    );
    let bad = declared(&[("purpose", "customer_service"), ("case", "xCS-004711")]);
    assert_eq!(phone("support_li", &bad, now), Treatment::Mask(MaskSpec::Keep(3, 4)));
    let night: Timestamp = "2026-11-24T14:00:00Z".parse().unwrap();
    assert_eq!(phone("support_li", &case, night), Treatment::Mask(MaskSpec::Keep(3, 4)));
    let expired: Timestamp = "2027-07-01T04:00:00Z".parse().unwrap();
    assert_eq!(
        phone("support_li", &case, expired),
        Treatment::Mask(MaskSpec::Keep(3, 4))
    );
    assert_eq!(phone("intern", &case, now), Treatment::Deny);
    assert_eq!(phone("stranger", &case, now), Treatment::Deny);
}

#[test]
fn a_standing_says_why_a_grant_does_not_hold() {
    let (policy, _) = load(SHOP).unwrap();
    let bad = declared(&[("purpose", "customer_service"), ("case", "47")]);
    let standing = policy.standing(&principal("support_li"), &bad, NOON.parse().unwrap());
    assert!(
        standing.unmet.iter().any(|u| u.contains("menshen.case")),
        "{:?}",
        standing.unmet
    );
}

#[test]
fn row_filter_and_limits_follow_the_standing() {
    let (policy, _) = load(SHOP).unwrap();
    let case = declared(&[("purpose", "customer_service"), ("case", "CS-004711")]);
    let standing = policy.standing(&principal("support_li"), &case, NOON.parse().unwrap());
    assert_eq!(
        policy.row_filter(&standing, &customers()).unwrap().sql,
        "grade <> 'vip+'"
    );
    assert_eq!(policy.limits(&standing).len(), 1);
    let none = policy.standing(&principal("support_li"), &declared(&[]), NOON.parse().unwrap());
    assert!(policy.row_filter(&none, &customers()).is_none());
    assert!(policy.sanctioned("support_bad", NOON.parse().unwrap()));
    assert!(!policy.sanctioned("support_bad", "2028-01-02T00:00:00Z".parse().unwrap()));
}

#[test]
fn every_mistake_is_reported_at_once_with_its_line() {
    let text = "version = 1\nthreshold = \"x\"\n[classes.phone]\ncategory = \"general\"\nmask = \"kep(3, 4)\"\n\
                [tables.\"crm.customers\"]\npersn = \"id\"\ncolumns = { phone = \"phon\" }\n\
                [roles.support]\nlogins = [\"s*\"]\n[[grants]]\nrole = \"suport\"\nclear = [\"fone\"]\n\
                [[limits]]\nwindow = \"30x\"\nalert_at = [0.5]\n";
    let problems = load(text).unwrap_err();
    let all: Vec<String> = problems.iter().map(ToString::to_string).collect();
    let has = |part: &str| assert!(all.iter().any(|p| p.contains(part)), "{part} not in {all:#?}");
    has("p.toml:2:1: error: unknown key `threshold` in the file; did you mean `thresholds`?");
    has("p.toml:5:8: error: unknown mask `kep`");
    has("p.toml:7:1: error: unknown key `persn`");
    has("class `phon` of column `phone` is not in the policy; did you mean `phone`?");
    has("role `suport` in [[grants]] is not in the policy; did you mean `support`?");
    has("class `fone` in `clear`");
    has("window `30x`");
}

#[test]
fn contradicting_grants_need_an_order() {
    let both = format!("{SHOP}\n[[grants]]\nrole = \"intern\"\nclear = [\"phone\"]\n");
    let problems = load(&both).unwrap_err();
    assert!(
        problems.iter().any(|p| p.message.contains("clear and deny the same")),
        "{problems:?}"
    );
}

#[test]
fn syntax_errors_have_a_line() {
    let problems = load("version = 1\n[classes\n").unwrap_err();
    assert_eq!(problems.first().unwrap().line, 2);
}
