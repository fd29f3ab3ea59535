//! Which functions may be called (stand-in until the data arrives).
use crate::catalog::{Catalog, RelationName};
use std::collections::BTreeSet;
use std::sync::LazyLock;

pub struct Entry {
    pub reason: String,
}
impl Entry {
    pub fn reads_relations(&self) -> bool {
        true
    }
}
pub struct BuiltIns;
impl BuiltIns {
    pub fn relation(&self, _s: &str, _n: &str) -> Option<&Entry> {
        None
    }
}
pub static BUILT_INS: LazyLock<BuiltIns> = LazyLock::new(|| BuiltIns);
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    Safe,
    Refused { reason: String },
}
pub enum Call<'a> {
    BuiltIn(Option<&'a Entry>),
    User(Verdict),
    Unknown,
}
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SettingCall {
    Reads,
    Writes,
}
pub fn setting_call(name: &str) -> Option<SettingCall> {
    match name {
        "set_config" => Some(SettingCall::Writes),
        "current_setting" => Some(SettingCall::Reads),
        _ => None,
    }
}
#[derive(Debug)]
pub struct Reach;
impl Reach {
    pub fn new(_: &Catalog, _: &BTreeSet<RelationName>, _: &[String]) -> Self {
        Self
    }
    pub fn judge_call(&self, _: Option<&str>, _: &str, _: &[String]) -> Call<'_> {
        Call::BuiltIn(None)
    }
}
