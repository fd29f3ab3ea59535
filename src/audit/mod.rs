//! Events → hash-chained log, one JSON line each.
//!
//! Every line carries its number, the hash of the line before it, and its own hash (SHA-256 over the line without that field).
//! Files are `audit-YYYYMMDD.jsonl`; the chain runs on over files and restarts. `HEAD` holds the last number and hash, so that a
//! tail cut off is noticed. Appends reach the kernel at once and the disk at most 200 ms later.
//!
//! Events hold names, numbers and rules; never literals, values or SQL text.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

/// The log could not be written or read. Callers fail closed.
#[derive(Debug, thiserror::Error)]
#[error("audit log {path}: {what}")]
pub struct AuditError {
    /// File or directory.
    pub path: String,
    /// What happened.
    pub what: String,
}

/// Where a chain is broken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}:{line}: {what}")]
pub struct Broken {
    /// File name.
    pub file: String,
    /// 1-based line; 0 for the file as a whole.
    pub line: usize,
    /// What is wrong.
    pub what: String,
}

/// The open log of one proxy.
pub struct Audit {
    state: Arc<Mutex<State>>,
}

struct State {
    directory: PathBuf,
    file: Option<(String, File)>,
    /// The file `HEAD`, once it has been written to.
    head: Option<File>,
    number: u64,
    last: String,
    dirty: bool,
    closed: bool,
}

const START: &str = "0000000000000000000000000000000000000000000000000000000000000000";

impl Audit {
    /// Opens the log in a directory, continuing its chain. A torn last line (a crash in mid-write) is kept as `torn-…` and told in the
    /// next event.
    ///
    /// # Errors
    /// Where the directory can't be made or read, or the last whole line is not of a chain.
    pub fn open(directory: &Path, now: jiff::Timestamp) -> Result<Self, AuditError> {
        std::fs::create_dir_all(directory).map_err(|e| failed(directory, &e))?;
        let mut number = 0;
        let mut last = START.to_owned();
        let mut torn = None;
        if let Some(path) = files(directory)?.pop() {
            let mut text = String::new();
            File::open(&path)
                .and_then(|mut f| f.read_to_string(&mut text))
                .map_err(|e| failed(&path, &e))?;
            if !text.is_empty() && !text.ends_with('\n') {
                let whole = text.rfind('\n').map_or(0, |i| i + 1);
                let rest = text.split_off(whole);
                let aside = directory.join(format!("torn-{}", now.as_millisecond()));
                std::fs::write(&aside, rest).map_err(|e| failed(&aside, &e))?;
                let kept = u64::try_from(whole).unwrap_or(0);
                OpenOptions::new()
                    .write(true)
                    .open(&path)
                    .and_then(|f| f.set_len(kept))
                    .map_err(|e| failed(&path, &e))?;
                torn = Some(aside.display().to_string());
            }
            if let Some(line) = text.lines().last() {
                let (n, hash) = serde_json::from_str::<Value>(line)
                    .ok()
                    .and_then(|v| Some((v.get("number")?.as_u64()?, v.get("hash")?.as_str()?.to_owned())))
                    .ok_or_else(|| failed(&path, &"its last line is not of a chain"))?;
                number = n;
                last = hash;
            }
        }
        let state = State {
            directory: directory.to_owned(),
            file: None,
            head: None,
            number,
            last,
            dirty: false,
            closed: false,
        };
        let audit = Self {
            state: Arc::new(Mutex::new(state)),
        };
        let shared = Arc::clone(&audit.state);
        std::thread::Builder::new()
            .name("menshen-audit".to_owned())
            .spawn(move || {
                loop {
                    std::thread::sleep(std::time::Duration::from_millis(200));
                    let file = {
                        let mut state = shared.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                        if state.closed {
                            return;
                        }
                        if !std::mem::take(&mut state.dirty) {
                            continue;
                        }
                        state.file.as_ref().and_then(|(_, f)| f.try_clone().ok())
                    };
                    // A failing disk shows at the next append.
                    let _unsynced = file.map(|f| f.sync_data());
                }
            })
            .map_err(|e| failed(directory, &e))?;
        if let Some(aside) = torn {
            audit.append("torn-line-kept-aside", json!({ "file": aside }), now)?;
        }
        Ok(audit)
    }

    /// Appends one event. It is in the kernel's hands when this returns.
    ///
    /// # Errors
    /// Where it can't be written: what it is about must not happen.
    pub fn append(&self, event: &str, facts: Value, now: jiff::Timestamp) -> Result<(), AuditError> {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.append(event, facts, now)
    }
}

impl Drop for Audit {
    fn drop(&mut self) {
        let mut state = self.state.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        state.closed = true;
        if let Some((_, file)) = &state.file {
            let _unsynced = file.sync_data();
        }
    }
}

impl State {
    fn append(&mut self, event: &str, facts: Value, now: jiff::Timestamp) -> Result<(), AuditError> {
        let name = format!("audit-{}.jsonl", now.strftime("%Y%m%d"));
        let path = self.directory.join(&name);
        if self.file.as_ref().is_none_or(|(open, _)| *open != name) {
            let file = OpenOptions::new()
                .create(true)
                .append(true)
                .mode(0o600)
                .open(&path)
                .map_err(|e| failed(&path, &e))?;
            self.file = Some((name, file));
        }
        let mut line = json!({
            "number": self.number + 1,
            "at": now.to_string(),
            "event": event,
            "previous": self.last,
        });
        if let (Value::Object(line), Value::Object(facts)) = (&mut line, facts) {
            for (key, value) in facts {
                line.entry(key).or_insert(value);
            }
        }
        let hash = hash(&line);
        if let Value::Object(fields) = &mut line {
            fields.insert("hash".to_owned(), Value::String(hash.clone()));
        }
        let mut text = line.to_string();
        text.push('\n');
        if let Some((_, file)) = &mut self.file {
            file.write_all(text.as_bytes()).map_err(|e| failed(&path, &e))?;
        }
        self.number += 1;
        self.last = hash;
        self.dirty = true;
        let head = self.directory.join("HEAD");
        if self.head.is_none() {
            let opened = OpenOptions::new()
                .create(true)
                .write(true)
                .truncate(false)
                .mode(0o600)
                .open(&head);
            self.head = Some(opened.map_err(|e| failed(&head, &e))?);
        }
        // Fixed width: a shorter text never leaves the end of a longer one behind.
        let text = format!("{:020} {}\n", self.number, self.last);
        let written = self.head.as_ref().map(|file| file.write_all_at(text.as_bytes(), 0));
        written.unwrap_or(Ok(())).map_err(|e| failed(&head, &e))
    }
}

/// Summary of a whole chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// Lines.
    pub events: u64,
    /// Hash of the last one.
    pub head: String,
}

/// Checks the whole chain of a directory.
///
/// # Errors
/// The first place where it is broken: a line changed, removed, inserted, swapped, or the tail cut off.
pub fn verify(directory: &Path) -> Result<Summary, Broken> {
    let broken = |file: &Path, line: usize, what: &str| Broken {
        file: file.file_name().unwrap_or_default().to_string_lossy().into_owned(),
        line,
        what: what.to_owned(),
    };
    let mut last = START.to_owned();
    let mut number = 0;
    for path in files(directory).map_err(|e| broken(directory, 0, &e.to_string()))? {
        let text = std::fs::read_to_string(&path).map_err(|e| broken(&path, 0, &e.to_string()))?;
        for (index, line) in text.lines().enumerate() {
            let at = index + 1;
            let mut value: Value = serde_json::from_str(line).map_err(|_| broken(&path, at, "not JSON"))?;
            let claimed = value.as_object_mut().and_then(|o| o.remove("hash"));
            let actual = hash(&value);
            if claimed.as_ref().and_then(Value::as_str) != Some(&actual) {
                return Err(broken(&path, at, "the line does not have the hash it claims"));
            }
            if value.get("previous").and_then(Value::as_str) != Some(&last) {
                return Err(broken(&path, at, "the line does not follow the one before it"));
            }
            number += 1;
            if value.get("number").and_then(Value::as_u64) != Some(number) {
                return Err(broken(&path, at, "the line's number is not the next one"));
            }
            last = actual;
        }
    }
    let head = std::fs::read_to_string(directory.join("HEAD")).unwrap_or_default();
    if number > 0 && head.trim() != format!("{number:020} {last}") {
        return Err(broken(
            &directory.join("HEAD"),
            1,
            "the chain does not end where HEAD says",
        ));
    }
    Ok(Summary {
        events: number,
        head: last,
    })
}

fn hash(line: &Value) -> String {
    // serde_json keeps object keys sorted: the text of a value is canonical.
    hex::encode(Sha256::digest(line.to_string().as_bytes()))
}

fn files(directory: &Path) -> Result<Vec<PathBuf>, AuditError> {
    let mut found: Vec<PathBuf> = std::fs::read_dir(directory)
        .map_err(|e| failed(directory, &e))?
        .filter_map(Result::ok)
        .map(|e| e.path())
        .filter(|p| p.file_name().is_some_and(|n| n.to_string_lossy().starts_with("audit-")))
        .collect();
    found.sort();
    Ok(found)
}

fn failed(path: &Path, what: &dyn std::fmt::Display) -> AuditError {
    AuditError {
        path: path.display().to_string(),
        what: what.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn filled() -> (tempfile::TempDir, PathBuf) {
        let dir = tempfile::tempdir().unwrap();
        let now: jiff::Timestamp = "2026-11-24T04:00:00Z".parse().unwrap();
        {
            let audit = Audit::open(dir.path(), now).unwrap();
            for i in 0..5 {
                audit
                    .append("decision", json!({ "rule": format!("r{i}") }), now)
                    .unwrap();
            }
        }
        // A restart on the next day goes on with the chain.
        let tomorrow: jiff::Timestamp = "2026-11-25T04:00:00Z".parse().unwrap();
        Audit::open(dir.path(), tomorrow)
            .unwrap()
            .append("started", json!({}), tomorrow)
            .unwrap();
        let first = dir.path().join("audit-20261124.jsonl");
        (dir, first)
    }

    #[test]
    fn a_chain_over_files_and_restarts_verifies() {
        let (dir, _) = filled();
        assert_eq!(verify(dir.path()).unwrap().events, 6);
    }

    #[test]
    fn every_kind_of_tampering_is_found() {
        type Tamper = fn(Vec<String>) -> Vec<String>;
        let tampers: [Tamper; 4] = [
            |mut l| {
                l[1] = l[1].replace("r1", "r9");
                l
            },
            |mut l| {
                l.remove(2);
                l
            },
            |mut l| {
                l.swap(1, 2);
                l
            },
            |mut l| {
                let copy = l[3].clone();
                l.insert(3, copy);
                l
            },
        ];
        for tamper in tampers {
            let (dir, file) = filled();
            let lines = std::fs::read_to_string(&file)
                .unwrap()
                .lines()
                .map(str::to_owned)
                .collect();
            std::fs::write(&file, tamper(lines).join("\n") + "\n").unwrap();
            assert!(verify(dir.path()).is_err());
        }
    }

    #[test]
    fn a_tail_cut_off_is_found() {
        let (dir, _) = filled();
        std::fs::remove_file(dir.path().join("audit-20261125.jsonl")).unwrap();
        assert!(verify(dir.path()).unwrap_err().what.contains("HEAD"));
    }

    #[test]
    fn a_torn_line_is_kept_aside_and_told() {
        let (dir, _) = filled();
        let path = dir.path().join("audit-20261125.jsonl");
        let mut text = std::fs::read_to_string(&path).unwrap();
        text.push_str("{\"number\": 7, \"at");
        std::fs::write(&path, text).unwrap();
        let now: jiff::Timestamp = "2026-11-25T05:00:00Z".parse().unwrap();
        Audit::open(dir.path(), now)
            .unwrap()
            .append("started", json!({}), now)
            .unwrap();
        assert_eq!(verify(dir.path()).unwrap().events, 8);
    }
}
