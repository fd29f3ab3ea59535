//! Plans by the shape of statements (DESIGN §4): a hit costs one scan of the text, a hash, a lookup and the splices.
//!
//! A shape (`shape.rs`) is a text without its literals and comments. Which of them may vary is a question of where they stand (`lift.rs`), and is
//! tried by judging the shape a second time with others (`template.rs`). The key holds the literals that may not, the kind of protocol, and the
//! context that the plan was made in. A shape that is met for the first time only leaves a mark, so that a flood of statements that never come
//! again pushes no plan out; what is kept is bounded by bytes and chosen by use.
//!
//! Refusals are not kept, nor what depends on names of the session (FETCH, EXECUTE) or on what an open transaction has changed.

mod flight;
mod lift;
mod shape;
mod template;

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use quick_cache::Weighter;
use quick_cache::sync::Cache;

use super::plan::{Plan, StatementKind};
use super::{Ground, Late, Request, Verdict, examine, parse};
use crate::meter::spec::HIDDEN_PREFIX;
use crate::policy::Standing;
use flight::{Flight, Flights};
use template::Template;

/// Longer texts are judged each time.
const TEXT_BYTES_MAX: usize = 4096;
/// What a mark or plan costs besides what it holds.
const ENTRY_BYTES: usize = 128;
/// Contexts that are remembered by number; then numbers begin anew, and the old plans are found no more. What a client can put into one (its
/// purpose stands in the reasons of what it lacks) is bounded.
const CONTEXTS_MAX: usize = 4_096;
const CONTEXT_BYTES_MAX: usize = 8 * 1024;

/// What a plan is made in, besides the text. A plan that was made in another is stale.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Context {
    /// What the principal holds.
    pub standing: Standing,
    /// The effective search path.
    pub search_path: Vec<String>,
    /// `current_user` of the session.
    pub current_user: String,
    /// The policy's epoch.
    pub policy: u64,
    /// The catalog's epoch.
    pub catalog: u64,
    /// Where values may come clear, to be masked as they pass ([`Request::late`]).
    pub late: Late,
}

impl Context {
    /// Bytes of its texts.
    fn bytes(&self) -> usize {
        let standing = &self.standing;
        let texts = standing.roles.iter().chain(&standing.purpose).chain(&standing.unmet);
        let texts = texts.chain(&self.search_path).chain([&self.current_user]);
        texts.map(|text| text.len() + size_of::<String>()).sum()
    }
}

/// Number of a context in one [`Plans`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ContextNumber(u64);

/// What is known of a shape.
#[derive(Debug, Clone)]
enum Known {
    /// It was met once.
    Met,
    /// Its plan: all of its pieces may vary, or the key has all of them.
    Plan(Arc<Template>),
    /// These pieces may vary; the key of the plan has the others.
    Lifted(Arc<[bool]>),
}

#[derive(Debug, Clone)]
struct Bytes;

impl Weighter<Box<[u8]>, Known> for Bytes {
    fn weight(&self, key: &Box<[u8]>, known: &Known) -> u64 {
        let held = match known {
            Known::Met => 0,
            Known::Plan(template) => template.bytes(),
            Known::Lifted(lifted) => lifted.len(),
        };
        u64::try_from(key.len() + held + ENTRY_BYTES).unwrap_or(u64::MAX)
    }
}

/// The plans of one database.
pub struct Plans {
    known: Option<Cache<Box<[u8]>, Known, Bytes>>,
    flights: Flights,
    contexts: Mutex<HashMap<Context, u64>>,
    next_context: AtomicU64,
}

impl Plans {
    /// With room for so many bytes; none keeps nothing.
    #[must_use]
    pub fn new(bytes: u64) -> Self {
        // The guess of how many there will be only sizes tables.
        let items = usize::try_from(bytes / 4096).unwrap_or(usize::MAX).clamp(64, 1 << 20);
        Self {
            known: (bytes > 0).then(|| Cache::with_weighter(items, bytes, Bytes)),
            flights: Flights::default(),
            contexts: Mutex::default(),
            next_context: AtomicU64::new(0),
        }
    }

    /// The number of a context; none where it is too large to be kept.
    #[must_use]
    pub fn number(&self, context: &Context) -> Option<ContextNumber> {
        if context.bytes() > CONTEXT_BYTES_MAX {
            return None;
        }
        let mut contexts = self.contexts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(number) = contexts.get(context) {
            return Some(ContextNumber(*number));
        }
        if contexts.len() >= CONTEXTS_MAX {
            contexts.clear();
        }
        let number = self.next_context.fetch_add(1, Ordering::Relaxed);
        contexts.insert(context.clone(), number);
        Some(ContextNumber(number))
    }

    /// Bytes that the plans take, about, and how many shapes are known.
    #[must_use]
    pub fn size(&self) -> (u64, usize) {
        self.known
            .as_ref()
            .map_or((0, 0), |known| (known.weight(), known.len()))
    }

    /// The plan that is kept for a text, if one is. `context` is the number of what `request` is asked in.
    #[must_use]
    pub fn kept(&self, request: &Request<'_>, context: ContextNumber) -> Option<Plan> {
        let asked = Asked::new(request, context)?;
        match self.look_up(&asked)? {
            Found::Plan(template) => Some(template.fill(request.text, &asked.pieces, request.token)),
            Found::New | Found::Met | Found::Lifted(_) => None,
        }
    }

    /// Judges as [`examine`] does, by a plan that was made before where there is one. `context` is the number of what `request` is asked in.
    ///
    /// # Errors
    /// As [`examine`].
    pub fn examine(&self, ground: &Ground, request: &Request<'_>, context: ContextNumber) -> Result<Plan, Verdict> {
        self.examine_by(ground, request, context, examine)
    }

    fn examine_by(
        &self,
        ground: &Ground,
        request: &Request<'_>,
        context: ContextNumber,
        examine: impl Fn(&Ground, &Request<'_>) -> Result<Plan, Verdict>,
    ) -> Result<Plan, Verdict> {
        let asked = Asked::new(request, context);
        let Some((known, asked)) = self.known.as_ref().zip(asked) else {
            return examine(ground, request);
        };
        let pieces = &asked.pieces;
        let (found, _flight) = self.take_turn(&asked);
        let lifted = match found {
            Some(Found::Plan(template)) => return Ok(template.fill(request.text, pieces, request.token)),
            Some(Found::New) | None => {
                let plan = examine(ground, request)?;
                if fits(&plan, request) {
                    known.insert(boxed(asked.whole()), Known::Met);
                }
                return Ok(plan);
            }
            Some(Found::Met) => {
                let parsed = parse::parse(request.text)?;
                let lifted: Arc<[bool]> = lift::lifted(&parsed, pieces).into();
                if lifted.contains(&false) {
                    known.insert(boxed(asked.whole()), Known::Lifted(Arc::clone(&lifted)));
                }
                lifted
            }
            Some(Found::Lifted(lifted)) => lifted,
        };
        let plan = examine(ground, request)?;
        if !fits(&plan, request) {
            return Ok(plan);
        }
        if !lifted.contains(&true) {
            let template = Template::of(&plan, request.token);
            known.insert(boxed(asked.exact(&lifted)), Known::Plan(Arc::new(template)));
            return Ok(plan);
        }
        match Template::lifted(&plan, ground, request, pieces, &lifted, &examine) {
            Some(template) => known.insert(boxed(asked.exact(&lifted)), Known::Plan(Arc::new(template))),
            // Something depends on them after all: from now on none may vary.
            None => known.insert(boxed(asked.whole()), Known::Lifted(vec![false; pieces.len()].into())),
        }
        Ok(plan)
    }

    /// What is known, and the right to judge it where there is no plan. Whoever finds somebody at it waits; where that has brought nothing to know
    /// (a refusal, say), they go on without the right, side by side.
    fn take_turn(&self, asked: &Asked<'_>) -> (Option<Found>, Option<Flight<'_>>) {
        // A shape goes from new over met to lifted or planned; what is pushed out meanwhile is judged without waiting again.
        const TURNS_MAX: usize = 4;
        let mut waited_for = None;
        for _ in 0..TURNS_MAX {
            let found = self.look_up(asked);
            let key = match &found {
                Some(Found::Plan(_)) | None => return (found, None),
                Some(Found::New | Found::Met) => asked.whole(),
                Some(Found::Lifted(lifted)) => asked.exact(lifted),
            };
            let stage = found.as_ref().map(std::mem::discriminant);
            if waited_for == Some(stage) {
                return (found, None);
            }
            match self.flights.begin(&key) {
                Some(flight) => {
                    // Somebody may have been done just before.
                    let found = self.look_up(asked);
                    if found.as_ref().map(std::mem::discriminant) == stage {
                        return (found, Some(flight));
                    }
                }
                None => waited_for = Some(stage),
            }
        }
        (self.look_up(asked), None)
    }

    fn look_up(&self, asked: &Asked<'_>) -> Option<Found> {
        let known = self.known.as_ref()?;
        Some(match known.get(&asked.whole()[..]) {
            None => Found::New,
            Some(Known::Met) => Found::Met,
            Some(Known::Plan(template)) => Found::Plan(template),
            Some(Known::Lifted(lifted)) => match known.get(&asked.exact(&lifted)[..]) {
                Some(Known::Plan(template)) => Found::Plan(template),
                Some(Known::Met | Known::Lifted(_)) | None => Found::Lifted(lifted),
            },
        })
    }
}

/// What is known of a text.
enum Found {
    /// Nothing.
    New,
    /// Its shape has been met.
    Met,
    /// Its plan.
    Plan(Arc<Template>),
    /// Which of its pieces may vary.
    Lifted(Arc<[bool]>),
}

/// A text that plans may be kept for.
struct Asked<'a> {
    text: &'a str,
    extended: bool,
    context: ContextNumber,
    pieces: shape::Pieces,
}

impl<'a> Asked<'a> {
    fn new(request: &Request<'a>, context: ContextNumber) -> Option<Self> {
        if request.text.len() > TEXT_BYTES_MAX {
            return None;
        }
        let pieces = shape::pieces(request.text)?;
        // The guard refuses texts that name hidden columns, also in comments and strings.
        let reserved = |p: &shape::Piece| {
            let written = request.text.as_bytes().get(p.start..p.end).unwrap_or_default();
            let prefix = HIDDEN_PREFIX.as_bytes();
            written.windows(prefix.len()).any(|w| w.eq_ignore_ascii_case(prefix))
        };
        (!pieces.iter().any(reserved)).then_some(Self {
            text: request.text,
            extended: request.extended,
            context,
            pieces,
        })
    }

    fn head(&self, level: u8) -> [u8; 9] {
        let mut head = [0; 9];
        let (number, rest) = head.split_at_mut(8);
        number.copy_from_slice(&self.context.0.to_be_bytes());
        rest.fill(level << 1 | u8::from(self.extended));
        head
    }

    /// The key of its shape.
    fn whole(&self) -> shape::Bytes {
        shape::key(&self.head(0), self.text, &self.pieces, |_| true)
    }

    /// The key of its shape with the pieces that may not vary.
    fn exact(&self, lifted: &[bool]) -> shape::Bytes {
        if lifted.contains(&false) {
            let at = |index: usize| lifted.get(index) == Some(&true);
            shape::key(&self.head(1), self.text, &self.pieces, at)
        } else {
            self.whole()
        }
    }
}

fn boxed(key: shape::Bytes) -> Box<[u8]> {
    key.into_vec().into()
}

/// Whether a plan depends on nothing but text and context.
fn fits(plan: &Plan, request: &Request<'_>) -> bool {
    let by_itself = |kind: &StatementKind| match kind {
        StatementKind::Query
        | StatementKind::Write
        | StatementKind::Transaction
        | StatementKind::Set
        | StatementKind::Explain { .. } => true,
        StatementKind::Prepare { .. }
        | StatementKind::Declare { .. }
        | StatementKind::Fetch { .. }
        | StatementKind::CloseCursor { .. }
        | StatementKind::CopyOut(_)
        | StatementKind::Execute { .. }
        | StatementKind::Deallocate { .. }
        | StatementKind::DiscardAll
        | StatementKind::Utility => false,
    };
    match &plan.statements[..] {
        [one] => !request.undone_at_end && one.meanings.is_empty() && by_itself(&one.kind),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Barrier;
    use std::sync::atomic::AtomicUsize;
    use std::time::Duration;

    use super::*;
    use crate::mask::TokenSettings;

    /// How often a text is judged by so many sessions that meet it together, some times one after the other.
    fn judged(text: &str, times: usize) -> usize {
        const SESSIONS: usize = 8;
        let (policy, _) = crate::policy::Policy::parse(std::path::Path::new("p.toml"), "version = 1", 1).unwrap();
        let nobody = crate::principal::Principal {
            login: "u".into(),
            groups: std::collections::BTreeSet::new(),
            address: None,
        };
        let declared = crate::principal::Declared::default();
        let standing = policy.standing(&nobody, &declared, jiff::Timestamp::UNIX_EPOCH);
        let ground = Ground::new(Arc::new(policy), Arc::default(), None, None);
        let (plans, count, all) = (Plans::new(1 << 20), AtomicUsize::new(0), Barrier::new(SESSIONS));
        let context = Context {
            standing: standing.clone(),
            search_path: vec!["pg_catalog".to_owned()],
            current_user: "u".to_owned(),
            policy: 1,
            catalog: 1,
            late: Late::Never,
        };
        let number = plans.number(&context).unwrap();
        let token = TokenSettings {
            inner: "menshen.ki".into(),
            outer: "menshen.ko".into(),
        };
        std::thread::scope(|scope| {
            for _ in 0..SESSIONS {
                scope.spawn(|| {
                    let request = Request {
                        text,
                        login: "u",
                        standing: &standing,
                        search_path: &context.search_path,
                        current_user: "u",
                        token: &token,
                        cursor: &|_| None,
                        prepared: &|_| None,
                        undone_at_end: false,
                        extended: false,
                        late: false,
                    };
                    for _ in 0..times {
                        all.wait();
                        let by = |ground: &Ground, request: &Request<'_>| {
                            count.fetch_add(1, Ordering::SeqCst);
                            std::thread::sleep(Duration::from_millis(30));
                            examine(ground, request)
                        };
                        let plan = plans.examine_by(&ground, &request, number, by);
                        assert!(
                            plan.is_ok_and(|plan| &*plan.text == text) || text.contains("nope"),
                            "{text}"
                        );
                    }
                });
            }
        });
        count.load(Ordering::SeqCst)
    }

    #[test]
    fn a_shape_is_judged_once_at_a_time() {
        // When it is new, when it is met, and with other literals; not eight times each.
        assert_eq!(judged("SELECT 4711 + 1", 2), 3);
        // Nothing is kept of these: nobody waits twice for them.
        assert_eq!(judged("SELEC nope", 1), 8);
        assert_eq!(judged("LISTEN nope", 2), 16);
    }
}
