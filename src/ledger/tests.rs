use std::time::Duration;

use super::*;

fn pack() -> Pack {
    Pack::find("cn-criminal-253-1", Path::new("nowhere/p.toml")).unwrap()
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

fn row(key: u64, categories: u16) -> Vec<Exposure> {
    vec![Exposure {
        space: Arc::from("crm.customers"),
        person: Person::Key(key.to_string().into_bytes().into()),
        categories: Categories(categories),
    }]
}

fn request(rows: Vec<Vec<Exposure>>, now: &str) -> ChargeRequest {
    ChargeRequest {
        account: Arc::from("support"),
        limits: Arc::from(vec![limit()]),
        sanctioned: false,
        rows,
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
    let unknown = vec![Exposure {
        space: Arc::from("s"),
        person: Person::Unknown(10),
        categories: Categories(4),
    }];
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
