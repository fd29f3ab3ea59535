use std::time::Duration;

use super::*;

fn pack() -> Arc<Pack> {
    static PACK: std::sync::OnceLock<Arc<Pack>> = std::sync::OnceLock::new();
    let found = || Arc::new(Pack::find("cn-criminal-253-1", Path::new("nowhere/p.toml")).unwrap());
    Arc::clone(PACK.get_or_init(found))
}

fn limit() -> Limit {
    Limit {
        name: "limit at line 1".into(),
        window: Duration::from_secs(30 * 86_400),
        window_text: "30d".into(),
        level: "serious_insider".into(),
        alert_at: vec![0.5, 0.8, 1.0],
        stop_at: Some(1.0),
    }
}

/// A row: the people that it shows, by key, and their categories.
type Row = Vec<(Option<u64>, u16)>;

fn row(key: u64, categories: u16) -> Row {
    vec![(Some(key), categories)]
}

fn request(rows: Vec<Row>, now: &str) -> ChargeRequest {
    // A kind for each category.
    let kind = |categories| Kind {
        space: Arc::from("crm.customers"),
        categories: Categories(categories),
    };
    let mut shown = Shown::new((0..8).map(kind).collect());
    for row in rows {
        for (key, categories) in row {
            match key {
                Some(key) => shown.key(usize::from(categories), key.to_string().as_bytes()),
                None => shown.unknown(usize::from(categories), 10),
            }
        }
        shown.end_row();
    }
    ChargeRequest {
        account: Arc::from("support"),
        limits: Arc::from(vec![limit()]),
        sanctioned: false,
        shown,
        now: now.parse().unwrap(),
    }
}

const NOW: &str = "2026-11-24T04:00:00Z";

#[test]
fn the_row_that_would_reach_the_line_is_not_released() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), &[7; 32]).unwrap();
    let rows = (0..3000).map(|k| row(k, 4)).collect();
    let charged = ledger.charge(&pack(), &request(rows, NOW)).unwrap();
    assert_eq!(charged.released, 2499);
    assert_eq!(
        charged.crossings.iter().map(|c| c.share).collect::<Vec<_>>(),
        [0.5, 0.8]
    );
    let stopped = charged.stopped.unwrap();
    assert_eq!(stopped.reading.score, 2499);
    assert_eq!(stopped.reading.left, 0);
    // Whoever was shown may be shown again; nobody new.
    assert_eq!(
        ledger.charge(&pack(), &request(vec![row(5, 4)], NOW)).unwrap().released,
        1
    );
    assert_eq!(
        ledger
            .charge(&pack(), &request(vec![row(5000, 4)], NOW))
            .unwrap()
            .released,
        0
    );
}

#[test]
fn a_person_counts_once_at_the_heaviest_category_and_once_per_category() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), &[7; 32]).unwrap();
    ledger
        .charge(&pack(), &request(vec![row(1, 4), row(1, 4), row(1, 1), row(2, 2)], NOW))
        .unwrap();
    let readings = ledger
        .readings(&pack(), "support", &[limit()], false, NOW.parse().unwrap())
        .unwrap();
    assert_eq!(readings[0].people, [1, 1, 1]);
    assert_eq!(readings[0].score, 110);
}

#[test]
fn counts_survive_a_restart_and_leave_with_the_window() {
    let dir = tempfile::tempdir().unwrap();
    {
        let ledger = Ledger::open(dir.path(), &[7; 32]).unwrap();
        ledger
            .charge(&pack(), &request((0..100).map(|k| row(k, 4)).collect(), NOW))
            .unwrap();
    }
    let ledger = Ledger::open(dir.path(), &[7; 32]).unwrap();
    let score = |at: &str| {
        ledger
            .readings(&pack(), "support", &[limit()], false, at.parse().unwrap())
            .unwrap()[0]
            .score
    };
    assert_eq!(score(NOW), 100);
    assert_eq!(score("2026-12-24T23:59:59Z"), 100);
    assert_eq!(score("2026-12-25T00:00:00Z"), 0);
}

#[test]
fn people_without_a_key_are_new_each_time() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), &[7; 32]).unwrap();
    let unknown = vec![(None, 4)];
    for _ in 0..2 {
        let charged = ledger.charge(&pack(), &request(vec![unknown.clone()], NOW)).unwrap();
        assert_eq!(charged.estimated, 10);
    }
    let readings = ledger
        .readings(&pack(), "support", &[limit()], false, NOW.parse().unwrap())
        .unwrap();
    assert_eq!(readings[0].score, 20);
}

#[test]
fn a_sanctioned_account_is_shown_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), &[7; 32]).unwrap();
    let charged = ledger
        .charge(
            &pack(),
            &ChargeRequest {
                sanctioned: true,
                ..request(vec![row(1, 4)], NOW)
            },
        )
        .unwrap();
    assert_eq!(charged.released, 0);
    assert!(charged.stopped.is_some());
}

#[test]
fn racing_sessions_of_one_account_do_not_pass_the_line() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Arc::new(Ledger::open(dir.path(), &[7; 32]).unwrap());
    let threads: Vec<_> = (0..4_u64)
        .map(|t| {
            let ledger = Arc::clone(&ledger);
            std::thread::spawn(move || {
                let mut released = 0;
                for batch in 0..20 {
                    let rows = (0..50).map(|k| row(t * 100_000 + batch * 50 + k, 4)).collect();
                    released += ledger.charge(&pack(), &request(rows, NOW)).unwrap().released;
                }
                released
            })
        })
        .collect();
    let total: usize = threads.into_iter().map(|t| t.join().unwrap()).sum();
    assert_eq!(total, 2499);
}

#[test]
fn who_has_been_shown_today_is_known_without_the_disk() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), &[7; 32]).unwrap();
    let pack = pack();
    let known = |rows: Vec<Row>| ledger.charge_known(&pack, &request(rows, NOW)).map(|c| c.released);
    let charge = |rows: Vec<Row>| ledger.charge(&pack, &request(rows, NOW)).unwrap();
    // An account that nobody has asked for yet; then one that is new; then its people.
    assert_eq!(known(vec![row(1, 4)]), None);
    charge(vec![row(1, 4), row(2, 2)]);
    assert_eq!(known(vec![row(1, 4), row(2, 2), vec![], row(1, 4)]), Some(4));
    assert_eq!(known(vec![]), Some(0));
    // Another person, more of one, one without a key: that is not known.
    for rows in [
        row(3, 4),
        row(1, 2),
        row(1, 6),
        vec![(None, 4)],
        vec![(Some(1), 4), (Some(3), 4)],
    ] {
        assert_eq!(known(vec![row(1, 4), rows.clone()]), None, "{rows:?}");
    }
    // Wherever in a long batch the new one stands.
    for at in [0, 1, 30, 31, 32, 33, 63, 64, 65, 99] {
        let rows = (0..100).map(|n| row(if n == at { 3 } else { 1 }, 4)).collect();
        assert_eq!(known(rows), None, "{at}");
    }
    assert_eq!(known(vec![row(1, 4); 100]), Some(100));
    // More of a person is what has been shown of it together.
    charge(vec![row(1, 2)]);
    assert_eq!(known(vec![row(1, 6), row(1, 2), row(1, 4)]), Some(3));
    // Another day everybody is shown again, and windows move.
    let tomorrow = "2026-11-25T04:00:00Z";
    assert_eq!(ledger.charge_known(&pack, &request(vec![row(1, 4)], tomorrow)), None);
    ledger.charge(&pack, &request(vec![row(1, 4)], tomorrow)).unwrap();
    assert_eq!(ledger.charge_known(&pack, &request(vec![row(2, 2)], tomorrow)), None);
    assert!(
        ledger
            .charge_known(&pack, &request(vec![row(1, 4)], tomorrow))
            .is_some()
    );
}

#[test]
fn what_another_limit_announces_is_not_passed_over() {
    let dir = tempfile::tempdir().unwrap();
    let ledger = Ledger::open(dir.path(), &[7; 32]).unwrap();
    let pack = pack();
    ledger
        .charge(&pack, &request((0..100).map(|k| row(k, 4)).collect(), NOW))
        .unwrap();
    let other = Limit {
        name: "another".into(),
        alert_at: vec![0.01],
        ..limit()
    };
    let request = ChargeRequest {
        limits: Arc::from(vec![other]),
        ..request(vec![row(1, 4)], NOW)
    };
    assert_eq!(ledger.charge_known(&pack, &request), None);
    assert_eq!(ledger.charge(&pack, &request).unwrap().crossings.len(), 1);
    assert!(ledger.charge_known(&pack, &request).is_some());
    // An account under sanction has another line.
    let sanctioned = ChargeRequest {
        sanctioned: true,
        ..request
    };
    assert_eq!(ledger.charge_known(&pack, &sanctioned), None);
}

/// A store that fails when it is told so.
#[derive(Default)]
struct Failing {
    fails: Arc<std::sync::atomic::AtomicBool>,
}

impl Store for Failing {
    fn load(&self, _: &str) -> Result<HashMap<PersonHash, Days>, LedgerError> {
        Ok(HashMap::new())
    }
    fn write(&self, _: Write) -> Result<(), LedgerError> {
        if self.fails.load(std::sync::atomic::Ordering::SeqCst) {
            return Err(LedgerError::Store("full".into()));
        }
        Ok(())
    }
}

#[test]
fn who_is_not_on_disk_is_not_known() {
    let store = Failing::default();
    let fails = Arc::clone(&store.fails);
    let ledger = Ledger::with_store(Box::new(store), &[7; 32]).unwrap();
    let pack = pack();
    ledger.charge(&pack, &request(vec![row(1, 4)], NOW)).unwrap();
    assert!(ledger.charge_known(&pack, &request(vec![row(1, 4)], NOW)).is_some());
    fails.store(true, std::sync::atomic::Ordering::SeqCst);
    assert!(ledger.charge(&pack, &request(vec![row(2, 4)], NOW)).is_err());
    assert_eq!(ledger.charge_known(&pack, &request(vec![row(2, 4)], NOW)), None);
    assert_eq!(ledger.charge_known(&pack, &request(vec![row(1, 4)], NOW)), None);
}
