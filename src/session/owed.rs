//! Replies owed: one entry for everything sent upstream, in order, with what its success does to the session's state.

use std::sync::Arc;

use crate::guard::{Plan, StatementPlan};
use crate::meter::Layout;
use crate::meter::copy::CopyReader;
use crate::policy::{Limit, Standing};
use crate::wire::Refusal;
use crate::wire::columns::{Column, Columns};

/// What a plan was made under. A plan whose key differs from now's is stale.
pub(super) type Key = crate::guard::Context;

/// A prepared statement, by Parse or by PREPARE: the server keeps both under one set of names.
#[derive(Debug, Clone)]
pub(super) struct Prepared {
    pub id: u64,
    /// The client's text (for PREPARE: the whole command).
    pub text: Arc<str>,
    pub types: Vec<u32>,
    pub plan: Plan,
    /// `None` for a text that depends on nothing.
    pub key: Option<Arc<Key>>,
    /// Made by PREPARE.
    pub by_sql: bool,
    /// Made for a part of a query string ([`super::turns`]): characters that stand before it there.
    pub turn: Option<u32>,
    /// Prepared again in the place of this one, whose columns the client knows: it must show the same.
    pub instead_of: Option<Arc<Prepared>>,
    /// Preparing it again has failed: the client has it, the server does not.
    pub lost: bool,
}

impl Prepared {
    /// The plan of what an Execute runs.
    pub fn statement(&self) -> Option<Arc<StatementPlan>> {
        self.plan.statements.first().cloned()
    }
}

/// A portal.
#[derive(Debug, Clone)]
pub(super) struct Portal {
    pub prepared: Arc<Prepared>,
    pub charge: Arc<Charge>,
    /// What it was bound under.
    pub under: Depends,
}

/// A cursor: the plan of its rows, and what it was declared under.
#[derive(Debug, Clone)]
pub(super) struct Cursor {
    pub plan: Arc<StatementPlan>,
    /// What it was declared under.
    pub under: Depends,
    /// WITH HOLD.
    pub hold: bool,
}

/// Standing, and the policy's epoch.
pub(super) type Under = Arc<(Standing, u64)>;

/// What a portal or cursor that shows protected relations depends on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Depends {
    /// It shows none.
    OnNothing,
    /// On this; `None`: on what could not be known, so that nothing is the same.
    On(Option<Under>),
}

impl Depends {
    /// Of a plan that is started under this.
    pub fn of(plan: &StatementPlan, charge: &Charge) -> Self {
        if plan.report.relations.is_empty() {
            Self::OnNothing
        } else {
            Self::On(charge.under.clone())
        }
    }
}

/// Whose account pays, and which limits hold: fixed when the statement is started.
#[derive(Debug)]
pub(super) struct Charge {
    pub limits: Arc<[Limit]>,
    pub sanctioned: bool,
    /// Under what; `None`: settings were not known.
    pub under: Option<Under>,
}

/// What the server said of a statement's rows.
#[derive(Debug, Clone)]
pub(super) enum Shape {
    /// NoData.
    Nothing,
    /// Names of the columns, and (relation, attribute) of each.
    Rows {
        names: Vec<String>,
        origins: Vec<(u32, i16)>,
        /// Type and type modifier of each.
        types: Vec<(u32, i32)>,
        /// The plan that they have last been checked against, and where its hidden columns stand.
        checked: Option<(Arc<StatementPlan>, Arc<Layout>)>,
    },
}

impl Shape {
    /// What a RowDescription says.
    pub fn of(columns: &Columns<'_>) -> Self {
        let name = |c: &Column<'_>| String::from_utf8_lossy(c.name).into_owned();
        Self::Rows {
            names: columns.iter().map(name).collect(),
            origins: columns.iter().map(|c| (c.relation, c.attribute)).collect(),
            types: columns.iter().map(Column::of_type).collect(),
            checked: None,
        }
    }

    /// Names and types of the columns that the client sees.
    pub fn shown(&self, plan: Option<&StatementPlan>) -> Vec<(&str, (u32, i32))> {
        let Self::Rows { names, types, .. } = self else {
            return Vec::new();
        };
        let hidden = |name: &str| plan.is_some_and(|p| p.meter.hidden.iter().any(|h| h.name == name));
        let all = names.iter().map(String::as_str).zip(types.iter().copied());
        all.filter(|(name, _)| !hidden(name)).collect()
    }
}

/// A statement whose rows are on their way.
#[derive(Debug)]
pub(super) struct Running {
    pub plan: Arc<StatementPlan>,
    pub charge: Arc<Charge>,
    /// It ends a transaction that has changed settings, names or the catalog.
    pub settles: bool,
    pub layout: Option<Arc<Layout>>,
    /// Reader of the rows of a metered COPY.
    pub copy: Option<CopyReader>,
    pub rows: u64,
    pub new_people: Vec<u64>,
    pub estimated: u64,
}

impl Running {
    pub fn new(plan: Arc<StatementPlan>, charge: Arc<Charge>) -> Self {
        Self {
            plan,
            charge,
            settles: false,
            layout: None,
            copy: None,
            rows: 0,
            new_people: Vec::new(),
            estimated: 0,
        }
    }
}

/// What we ask the server ourselves, in the client's session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Question {
    /// The settings that decisions depend on: search_path, role, and these of `menshen.…`.
    Settings(Vec<String>),
    /// Nothing: it sets `search_path` before and after the catalog is read.
    Path,
    /// The catalog as this transaction sees it.
    Catalog,
    /// Sets `search_path` back; the catalog has been read.
    PathBack,
    /// Schema and name of the function with this number.
    Function(u32),
}

/// What is expected next from the server.
#[derive(Debug)]
pub(super) enum Owed {
    /// ParseComplete. `own`: not the client's.
    Parse {
        own: bool,
        name: String,
        prepared: Arc<Prepared>,
    },
    /// ParameterDescription and RowDescription or NoData, of our own Describe of this prepared statement.
    Shape { id: u64 },
    /// The same for the client.
    DescribeStatement { prepared: Option<(String, Arc<Prepared>)> },
    /// RowDescription or NoData for the client. `quiet`: NoData is not. `learns`: the prepared statement whose rows are not known yet.
    DescribePortal {
        plan: Option<Arc<StatementPlan>>,
        learns: Option<u64>,
        quiet: bool,
    },
    /// BindComplete.
    Bind { name: String, portal: Portal },
    /// Rows, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute {
        running: Option<Running>,
        id: Option<u64>,
        stopped: bool,
        prepared: Option<Arc<Prepared>>,
        /// Characters that stand before it in the client's text.
        shift: u32,
    },
    /// CloseComplete. `own`: not the client's.
    Close {
        own: bool,
        statement: Option<String>,
        portal: Option<String>,
    },
    /// ReadyForQuery after a Sync. `own`: not the client's. `settles`: it may end a transaction that has changed settings or the catalog.
    /// `behind_copy`: CopyDone or CopyFail stood before it. One that does not stand behind it is ignored where data are awaited.
    Sync {
        own: bool,
        settles: bool,
        behind_copy: bool,
    },
    /// Everything up to ReadyForQuery, for the statements of a Query. `call`: for a FunctionCall, whose end is its response.
    Query {
        call: bool,
        running: Vec<Running>,
        at: usize,
        stopped: bool,
        prepared: Vec<(String, Arc<Prepared>)>,
    },
    /// The answer to a question of our own: ParseComplete, BindComplete, DataRow, CommandComplete, CloseComplete of its
    /// portal and of its statement.
    Probe {
        question: Question,
        values: Option<Vec<Option<String>>>,
        closed: bool,
    },
    /// An error that we provoked so that the server comes to the state in which the refused message would have left it;
    /// `None`: the client has had its error already. For a Query, ReadyForQuery follows.
    Refused { refusal: Option<Refusal>, query: bool },
}

impl Owed {
    /// Whether what the client sends next must wait for the end of this.
    pub fn is_barrier(&self) -> bool {
        let blocks = |r: &Running| {
            r.plan.may_change_settings
                || r.settles
                || r.plan.ddl
                || !r.plan.meter.is_empty()
                || matches!(
                    r.plan.kind,
                    crate::guard::StatementKind::Prepare { .. }
                        | crate::guard::StatementKind::Deallocate { .. }
                        | crate::guard::StatementKind::Declare { .. }
                        | crate::guard::StatementKind::CloseCursor { .. }
                        | crate::guard::StatementKind::DiscardAll
                )
        };
        match self {
            Self::Execute { running, stopped, .. } => *stopped || running.as_ref().is_some_and(blocks),
            Self::Query { running, stopped, .. } => *stopped || running.iter().any(blocks),
            Self::Sync { settles, .. } => *settles,
            Self::Probe { .. } => true,
            Self::Parse { .. }
            | Self::Shape { .. }
            | Self::DescribeStatement { .. }
            | Self::DescribePortal { .. }
            | Self::Bind { .. }
            | Self::Close { .. }
            | Self::Refused { .. } => false,
        }
    }
}
