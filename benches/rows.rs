//! What a row costs that is counted: walking it and leaving its hidden column out, and charging the ledger for people who have been shown today and for
//! new ones. Times are per batch of [`ROWS`] rows: `cargo bench --bench rows` shows rows a second besides.

#![allow(clippy::unwrap_used, reason = "a benchmark that cannot be set up must say so")]

use std::path::Path;
use std::sync::Arc;

use divan::Bencher;
use divan::counter::ItemsCount;
use menshen::ledger::{Categories, ChargeRequest, Ledger, Pack, Shown};
use menshen::mask::LateMask;
use menshen::meter::copy::{CopyFormat, CopyReader, CopyStyle};
use menshen::meter::{Held, HiddenColumn, KeyShape, LateColumn, Layout, MeterSpec};

/// As many as come in one batch, about.
const ROWS: usize = 600;

fn spec() -> MeterSpec {
    MeterSpec {
        hidden: vec![HiddenColumn {
            name: "menshen_k1".into(),
            shape: KeyShape::One,
            space: Arc::from("crm.customers"),
            categories: Categories(4),
        }],
        per_row: vec![],
        late: vec![],
    }
}

/// Nine columns of a customer and the hidden one: 110 bytes.
fn values(row: usize) -> Vec<String> {
    let phone = format!("138{row:08}");
    let own = [
        row.to_string(),
        format!("name {row}"),
        phone,
        format!("user{row}@example.com"),
    ];
    let more = [
        format!("6222{row:012}"),
        "gold".into(),
        "2026-01-01 00:00:00+00".into(),
        "7".into(),
        "Shanghai".into(),
    ];
    own.into_iter().chain(more).chain([row.to_string()]).collect()
}

fn body(row: usize) -> Vec<u8> {
    let values = values(row);
    let mut body = i16::try_from(values.len()).unwrap().to_be_bytes().to_vec();
    for value in values {
        body.extend(i32::try_from(value.len()).unwrap().to_be_bytes());
        body.extend(value.as_bytes());
    }
    body
}

fn layout() -> Layout {
    let names = [
        "id",
        "name",
        "phone",
        "email",
        "card",
        "grade",
        "made",
        "n",
        "city",
        "menshen_k1",
    ];
    Layout::new(&spec(), &names).unwrap()
}

#[divan::bench]
fn walk_and_strip(bencher: Bencher) {
    let layout = layout();
    let rows: Vec<Vec<u8>> = (0..ROWS).map(body).collect();
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        let mut held = Held::new(layout.kinds());
        for row in &rows {
            held.row(&layout, row).unwrap();
        }
        held
    });
}

/// Cells that are masked as they pass, of one column by each mask: ten values of 6 to 20 characters, some of them Han.
#[divan::bench(args = ["keep(3, 4)", "phone", "name", "email", "full"])]
fn mask_cells(bencher: Bencher, mask: &str) {
    let column = menshen::catalog::Column {
        attnum: 1,
        name: "v".into(),
        type_oid: 25,
        type_sql: "text".into(),
        base_type_sql: "text".into(),
        base_type_oid: 25,
        category: 'S',
        not_null: false,
        generation: None,
        assign_type_sql: "text".into(),
    };
    let mask = LateMask::of(&mask.parse().unwrap(), &column).unwrap();
    let values = [
        "13912345678",
        "+8613912345678",
        "张三丰",
        "欧阳修",
        "John Smith",
        "li.lei@example.com",
        "6222026006705354217",
        "user4711@example.com",
        "11010519491231002X",
        "诸葛孔明",
    ];
    let mut out = bytes::BytesMut::with_capacity(1 << 20);
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        out.clear();
        for at in 0..ROWS {
            let value = values.get(at % values.len()).map(|v| v.as_bytes());
            mask.column(value, &mut out).unwrap();
        }
    });
}

/// The same row with five of its columns masked as they pass.
#[divan::bench]
fn walk_and_mask_five(bencher: Bencher) {
    let text = |name: &str| menshen::catalog::Column {
        attnum: 1,
        name: name.into(),
        type_oid: 25,
        type_sql: "text".into(),
        base_type_sql: "text".into(),
        base_type_oid: 25,
        category: 'S',
        not_null: false,
        generation: None,
        assign_type_sql: "text".into(),
    };
    let masks = [
        (1, "keep(1, 1)"),
        (2, "phone"),
        (3, "email"),
        (4, "bank_card"),
        (8, "keep(1, 0)"),
    ];
    let late = masks.map(|(position, mask)| LateColumn {
        position,
        origin: (1, 1),
        mask: LateMask::of(&mask.parse().unwrap(), &text("v")).unwrap(),
    });
    let spec = MeterSpec {
        late: late.to_vec(),
        ..spec()
    };
    let names = [
        "id",
        "name",
        "phone",
        "email",
        "card",
        "grade",
        "made",
        "n",
        "city",
        "menshen_k1",
    ];
    let layout = Layout::new(&spec, &names).unwrap();
    let rows: Vec<Vec<u8>> = (0..ROWS).map(body).collect();
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        let mut held = Held::new(layout.kinds());
        for row in &rows {
            held.row(&layout, row).unwrap();
        }
        held
    });
}

#[divan::bench]
fn walk_and_strip_copy(bencher: Bencher) {
    let rows: Vec<String> = (0..ROWS).map(|row| values(row).join("\t") + "\n").collect();
    let format = CopyFormat {
        style: CopyStyle::Text,
        delimiter: b'\t',
        null: "\\N".into(),
        quote: b'"',
        escape: b'"',
        header: false,
    };
    let response = [&[0_u8, 0, 10][..], &[0; 20]].concat();
    let (mut reader, _) = CopyReader::new(Arc::new(format), Arc::new(spec()), &response).unwrap();
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        let mut held = Held::new(reader.kinds());
        for row in &rows {
            held.copy_row(&mut reader, row.as_bytes()).unwrap();
        }
        held
    });
}

fn request(people: std::ops::Range<usize>) -> ChargeRequest {
    let mut shown = Shown::new(spec().kinds());
    for person in people {
        shown.key(0, person.to_string().as_bytes());
        shown.end_row();
    }
    ChargeRequest {
        account: Arc::from("support"),
        limits: Arc::default(),
        sanctioned: false,
        shown,
        now: jiff::Timestamp::UNIX_EPOCH,
    }
}

fn ledger(directory: &Path) -> (Ledger, Arc<Pack>) {
    let pack = Pack::find("cn-criminal-253-1", Path::new("nowhere/p.toml")).unwrap();
    (Ledger::open(directory, &[7; 32]).unwrap(), Arc::new(pack))
}

/// One person after another of so many, who all have been shown today.
#[divan::bench(args = [600, 60_000, 600_000])]
fn charge_known(bencher: Bencher, people: usize) {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, pack) = ledger(directory.path());
    ledger.charge(&pack, &request(0..people)).unwrap();
    let requests: Vec<ChargeRequest> = (0..people / ROWS).map(|n| request(n * ROWS..(n + 1) * ROWS)).collect();
    let mut requests = requests.iter().cycle();
    bencher.counter(ItemsCount::new(ROWS)).bench_local(|| {
        let request = requests.next().unwrap();
        ledger.charge_known(&pack, request).unwrap()
    });
}

/// New people, durably: each batch is one commit of the disk that the temporary directory is on.
#[divan::bench(sample_size = 1, sample_count = 200)]
fn charge_new(bencher: Bencher) {
    let directory = tempfile::tempdir().unwrap();
    let (ledger, pack) = ledger(directory.path());
    let mut next = 0;
    bencher
        .counter(ItemsCount::new(ROWS))
        .with_inputs(|| {
            next += ROWS;
            request(next..next + ROWS)
        })
        .bench_local_values(|request| ledger.charge(&pack, &request).unwrap());
}

fn main() {
    divan::main();
}
