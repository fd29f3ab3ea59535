//! `weave LIST DROPPED COPY`: puts mutants into a copy of the sources, each behind a switch.
//!
//! LIST is what `cargo mutants --list --json` prints; a mutant's number is its place in it. DROPPED holds numbers to leave out, one a
//! line. COPY is a fresh copy of the repository: its files are rewritten, `src/mutant.rs` is added, and `mutants.map.json` tells for
//! each mutant which bytes of the woven file are its own, so that the compiler's errors can be put down to it.
//!
//! Every mutant becomes an insertion: an operator `a < b` becomes `(if crate::mutant::on(7) { a > b } else { a < b })`, a body gets an
//! early return, a deleted match arm and a constant guard become guards that ask the switch. One mutant is on at a time, so the mutated
//! branch needs no switches inside.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::path::Path;

use proc_macro2::Span;
use serde::{Deserialize, Serialize};
use syn::spanned::Spanned;
use syn::visit::{self, Visit};

#[derive(Deserialize)]
struct Mutant {
    file: String,
    genre: String,
    replacement: String,
    span: Extent,
}

#[derive(Deserialize)]
struct Extent {
    start: Place,
    end: Place,
}

#[derive(Deserialize)]
struct Place {
    line: usize,
    column: usize,
}

/// Where a mutant ended up.
#[derive(Serialize)]
struct Woven {
    number: usize,
    file: String,
    /// The mutated branch.
    branch: Range<usize>,
    /// The whole of what was wrapped.
    whole: Range<usize>,
}

/// Text put in at a byte of the original, and the mutants whose branch begins or ends in it.
struct Insertion {
    at: usize,
    /// Outer before inner at a beginning; inner before outer at an end.
    order: (u8, isize),
    text: String,
    /// Branches within `text`.
    branches: Vec<(usize, Range<usize>)>,
    /// Mutants that are wrapped from here (true) or to here (false).
    bounds: Vec<(usize, bool)>,
}

/// What the syntax tree has at hand for mutants, by byte range.
#[derive(Default)]
struct Nodes {
    /// Operator → left, whole.
    binary: BTreeMap<(usize, usize), (Range<usize>, Range<usize>, bool)>,
    /// Operator's beginning → operand, whole.
    unary: BTreeMap<usize, (Range<usize>, Range<usize>)>,
    /// Bodies of functions: bytes of the block with its braces.
    bodies: Vec<Range<usize>>,
    /// Arm's beginning → end of its pattern, guard.
    arms: BTreeMap<usize, (usize, Option<Range<usize>>)>,
    /// Guard.
    guards: BTreeSet<(usize, usize)>,
    /// Field's beginning → name, value, whole field, path, base.
    fields: BTreeMap<usize, Field>,
}

#[derive(Clone)]
struct Field {
    name: String,
    value: Range<usize>,
    shorthand: bool,
    path: Range<usize>,
    base: Option<Range<usize>>,
}

fn bytes(span: Span) -> Range<usize> {
    span.byte_range()
}

/// Whether a `let` stands in a chain of conditions.
fn has_let(e: &syn::Expr) -> bool {
    match e {
        syn::Expr::Let(_) => true,
        syn::Expr::Binary(b) => has_let(&b.left) || has_let(&b.right),
        _ => false,
    }
}

impl<'a> Visit<'a> for Nodes {
    fn visit_expr_binary(&mut self, e: &'a syn::ExprBinary) {
        let op = bytes(e.op.span());
        let chained = has_let(&e.left) || has_let(&e.right);
        self.binary
            .insert((op.start, op.end), (bytes(e.left.span()), bytes(e.span()), chained));
        visit::visit_expr_binary(self, e);
    }
    fn visit_expr_unary(&mut self, e: &'a syn::ExprUnary) {
        self.unary
            .insert(bytes(e.op.span()).start, (bytes(e.expr.span()), bytes(e.span())));
        visit::visit_expr_unary(self, e);
    }
    fn visit_item_fn(&mut self, f: &'a syn::ItemFn) {
        self.bodies.push(bytes(f.block.span()));
        visit::visit_item_fn(self, f);
    }
    fn visit_impl_item_fn(&mut self, f: &'a syn::ImplItemFn) {
        self.bodies.push(bytes(f.block.span()));
        visit::visit_impl_item_fn(self, f);
    }
    fn visit_trait_item_fn(&mut self, f: &'a syn::TraitItemFn) {
        if let Some(block) = &f.default {
            self.bodies.push(bytes(block.span()));
        }
        visit::visit_trait_item_fn(self, f);
    }
    fn visit_arm(&mut self, a: &'a syn::Arm) {
        let guard = a.guard.as_ref().map(|(_, g)| bytes(g.span()));
        if let Some(g) = &guard {
            self.guards.insert((g.start, g.end));
        }
        self.arms.insert(bytes(a.span()).start, (bytes(a.pat.span()).end, guard));
        visit::visit_arm(self, a);
    }
    fn visit_expr_struct(&mut self, s: &'a syn::ExprStruct) {
        for f in &s.fields {
            let syn::Member::Named(name) = &f.member else { continue };
            self.fields.insert(
                bytes(f.span()).start,
                Field {
                    name: name.to_string(),
                    value: bytes(f.expr.span()),
                    shorthand: f.colon_token.is_none(),
                    path: bytes(s.path.span()),
                    base: s.rest.as_ref().map(|r| bytes(r.span())),
                },
            );
        }
        visit::visit_expr_struct(self, s);
    }
}

fn main() {
    let mut arguments = std::env::args().skip(1);
    let (Some(list), Some(dropped), Some(copy)) = (arguments.next(), arguments.next(), arguments.next()) else {
        eprintln!("usage: weave LIST DROPPED COPY");
        std::process::exit(2);
    };
    let list: Vec<Mutant> = serde_json::from_str(&read(&list)).expect("the list of cargo-mutants");
    let dropped: BTreeSet<usize> = read(&dropped).lines().filter_map(|l| l.parse().ok()).collect();
    let copy = Path::new(&copy);
    let mut by_file: BTreeMap<&str, Vec<(usize, &Mutant)>> = BTreeMap::new();
    for (number, mutant) in list.iter().enumerate() {
        if !dropped.contains(&number) {
            by_file.entry(&mutant.file).or_default().push((number, mutant));
        }
    }
    let mut woven = Vec::new();
    for (file, mutants) in by_file {
        let path = copy.join(file);
        let text = read(&path);
        let (new, mut places, left_out) = weave(&text, file, &mutants);
        for (number, why) in left_out {
            println!("{number} {why}");
        }
        woven.append(&mut places);
        std::fs::write(&path, new).expect("write");
    }
    let switch = include_str!("switch.rs").replace("MUTANTS_MAX", &list.len().to_string());
    std::fs::write(copy.join("src/mutant.rs"), switch).expect("write");
    let lib = copy.join("src/lib.rs");
    let text = read(&lib);
    if !text.contains("pub mod mutant;") {
        std::fs::write(lib, format!("{text}pub mod mutant;\n")).expect("write");
    }
    let map = serde_json::to_string(&woven).expect("map");
    std::fs::write(copy.join("mutants.map.json"), map).expect("write");
}

fn read(path: impl AsRef<Path>) -> String {
    let path = path.as_ref();
    std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()))
}

type LeftOut = Vec<(usize, &'static str)>;

fn weave(text: &str, file: &str, mutants: &[(usize, &Mutant)]) -> (String, Vec<Woven>, LeftOut) {
    let tree = syn::parse_file(text).unwrap_or_else(|e| panic!("{file}: {e}"));
    let mut nodes = Nodes::default();
    nodes.visit_file(&tree);
    let lines: Vec<usize> = std::iter::once(0)
        .chain(text.match_indices('\n').map(|(at, _)| at + 1))
        .collect();
    let offset = |p: &Place| {
        let line = lines[p.line - 1];
        let rest = &text[line..];
        line + rest.char_indices().nth(p.column - 1).map_or(rest.len(), |(at, _)| at)
    };
    let mut left_out = LeftOut::new();
    // Conditional expressions: whole → (number, mutated text).
    let mut choices: BTreeMap<(usize, usize), Vec<(usize, String)>> = BTreeMap::new();
    let mut insertions: Vec<Insertion> = Vec::new();
    for (number, mutant) in mutants {
        let (start, end) = (offset(&mutant.span.start), offset(&mutant.span.end));
        let number = *number;
        match mutant.genre.as_str() {
            "FnValue" => {
                let body = nodes
                    .bodies
                    .iter()
                    .filter(|b| b.start <= start && end <= b.end)
                    .min_by_key(|b| b.len());
                let Some(body) = body else {
                    left_out.push((number, "no function found"));
                    continue;
                };
                let before = format!(" if crate::mutant::on({number}) {{ return ");
                let branch = before.len()..before.len() + mutant.replacement.len();
                insertions.push(Insertion {
                    at: body.start + 1,
                    order: (1, -(body.len() as isize)),
                    text: format!("{before}{}; }}", mutant.replacement),
                    branches: vec![(number, branch)],
                    bounds: vec![(number, true)],
                });
                insertions.push(Insertion {
                    at: body.end - 1,
                    order: (0, body.len() as isize),
                    text: String::new(),
                    branches: vec![],
                    bounds: vec![(number, false)],
                });
            }
            "BinaryOperator" => {
                let Some((_, whole, chained)) = nodes.binary.get(&(start, end)) else {
                    left_out.push((number, "no operator found"));
                    continue;
                };
                if *chained {
                    // `||` may not stand beside a `let`: the compiler refuses it.
                    left_out.push((number, "unviable: an operator beside a let"));
                    continue;
                }
                let new = format!(
                    "{}{}{}",
                    &text[whole.start..start],
                    mutant.replacement,
                    &text[end..whole.end]
                );
                choices.entry((whole.start, whole.end)).or_default().push((number, new));
            }
            "UnaryOperator" => {
                let Some((operand, whole)) = nodes.unary.get(&start) else {
                    left_out.push((number, "no operator found"));
                    continue;
                };
                let new = format!("{}{}", mutant.replacement, &text[operand.clone()]);
                choices.entry((whole.start, whole.end)).or_default().push((number, new));
            }
            "MatchArmGuard" => {
                if nodes.guards.contains(&(start, end)) {
                    choices
                        .entry((start, end))
                        .or_default()
                        .push((number, mutant.replacement.clone()));
                } else {
                    left_out.push((number, "no guard found"));
                }
            }
            "MatchArm" => match nodes.arms.get(&start) {
                Some((pattern, None)) => insertions.push(Insertion {
                    at: *pattern,
                    order: (0, 0),
                    text: format!(" if !crate::mutant::on({number})"),
                    branches: vec![(number, 0..0)],
                    bounds: vec![(number, true), (number, false)],
                }),
                Some((_, Some(guard))) => {
                    insertions.push(Insertion {
                        at: guard.start,
                        order: (1, isize::MIN),
                        text: format!("!crate::mutant::on({number}) && ("),
                        branches: vec![(number, 0..0)],
                        bounds: vec![(number, true)],
                    });
                    insertions.push(Insertion {
                        at: guard.end,
                        order: (0, isize::MAX),
                        text: ")".to_owned(),
                        branches: vec![],
                        bounds: vec![(number, false)],
                    });
                }
                None => left_out.push((number, "no arm found")),
            },
            "StructField" => match nodes.fields.get(&start) {
                Some(field) if field.base.is_some() => {
                    let base = field.base.clone().unwrap_or_default();
                    let (path, base) = (&text[field.path.clone()], &text[base]);
                    // A base that is a place stays where it is: the others fields are still to be taken from it.
                    let new = if base.ends_with(')') {
                        format!("{{ let base: {path} = {base}; base.{} }}", field.name)
                    } else {
                        format!("{base}.{}.clone()", field.name)
                    };
                    if field.shorthand {
                        let before = format!("{}: if crate::mutant::on({number}) ", field.name);
                        let branch = before.len()..before.len() + new.len();
                        insertions.push(Insertion {
                            at: field.value.start,
                            order: (1, 0),
                            text: format!("{before}{new} else {{ "),
                            branches: vec![(number, branch)],
                            bounds: vec![(number, true)],
                        });
                        insertions.push(Insertion {
                            at: field.value.end,
                            order: (0, 0),
                            text: " }".to_owned(),
                            branches: vec![],
                            bounds: vec![(number, false)],
                        });
                    } else {
                        let whole = (field.value.start, field.value.end);
                        choices.entry(whole).or_default().push((number, new));
                    }
                }
                _ => left_out.push((number, "no field found")),
            },
            other => panic!("a genre that this tool does not know: {other}"),
        }
    }
    for ((start, end), list) in choices {
        let length = (end - start) as isize;
        let mut before = "(".to_owned();
        let mut branches = Vec::new();
        for (number, new) in &list {
            before.push_str(&format!("if crate::mutant::on({number}) {{ "));
            branches.push((*number, before.len()..before.len() + new.len()));
            before.push_str(new);
            before.push_str(" } else ");
        }
        before.push_str("{ ");
        insertions.push(Insertion {
            at: start,
            order: (1, -length),
            text: before,
            branches,
            bounds: list.iter().map(|(n, _)| (*n, true)).collect(),
        });
        insertions.push(Insertion {
            at: end,
            order: (0, length),
            text: " })".to_owned(),
            branches: vec![],
            bounds: list.iter().map(|(n, _)| (*n, false)).collect(),
        });
    }
    insertions.sort_by_key(|i| (i.at, i.order));
    let mut new = String::with_capacity(text.len() * 2);
    let mut at = 0;
    let mut places: BTreeMap<usize, Woven> = BTreeMap::new();
    for insertion in insertions {
        new.push_str(&text[at..insertion.at]);
        at = insertion.at;
        let base = new.len();
        for (number, branch) in insertion.branches {
            let branch = base + branch.start..base + branch.end;
            places.insert(
                number,
                Woven {
                    number,
                    file: file.to_owned(),
                    whole: branch.clone(),
                    branch,
                },
            );
        }
        new.push_str(&insertion.text);
        for (number, opens) in insertion.bounds {
            if let Some(woven) = places.get_mut(&number) {
                if opens {
                    woven.whole.start = base;
                }
                woven.whole.end = new.len();
            }
        }
    }
    new.push_str(&text[at..]);
    (new, places.into_values().collect(), left_out)
}
