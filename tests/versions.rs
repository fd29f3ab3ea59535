//! The oldest and the newest PostgreSQL: the core of these tests again, on servers that `.ci/setup` has fetched. `tools/versions` runs
//! all of them, on 16 and 17 too.

use std::path::Path;
use std::process::Command;

/// What must hold on every version.
const CORE: [&str; 10] = [
    "clients::psql_runs_the_demo_s_queries",
    "grants::a_role_that_one_may_only_administer_is_no_group",
    "introspection::backslash_commands_print_the_same",
    "introspection::every_built_in_of_this_server_is_on_the_list",
    "masks::masks_give_the_values_they_promise",
    "oracle::a_role_that_may_see_nothing_is_refused_by_name_and_gets_the_rest",
    "oracle::answers_are_those_of_a_masked_copy",
    "protocol::a_long_cancel_key_cancels_and_a_part_of_it_does_not",
    "protocol::libpq_of_version_18_agrees_with_us_on_a_version",
    "protocol::the_version_is_negotiated_as_the_server_does_it",
];

/// Attacks and modifications: on a newer server, those of its own statements.
const OF_NEWER: [&str; 2] = [
    "attacks::no_attack_brings_a_clear_value",
    "modify::modifications_copies_and_cursors_are_those_of_a_masked_copy",
];

fn passes_on(major: u32, tests: &[&str]) {
    let programs = format!("{}/.postgres/{major}/bin", env!("CARGO_MANIFEST_DIR"));
    assert!(
        Path::new(&programs).join("postgres").exists(),
        "no PostgreSQL {major} in .postgres; run `make setup`"
    );
    let output = Command::new(std::env::current_exe().unwrap())
        .arg("--exact")
        .args(tests)
        .env("MENSHEN_POSTGRES", programs)
        .env("MENSHEN_SINCE", "16")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let passed = format!("test result: ok. {} passed; 0 failed; 0 ignored", tests.len());
    assert!(
        output.status.success() && text.contains(&passed),
        "on PostgreSQL {major}: {text}{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn the_core_holds_on_the_oldest_postgresql() {
    passes_on(14, &CORE);
}

#[test]
fn the_core_and_new_statements_hold_on_the_newest_postgresql() {
    passes_on(18, &[CORE.as_slice(), &OF_NEWER].concat());
}
