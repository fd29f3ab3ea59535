//! Where the hidden columns stand in a statement's rows.

use std::sync::Arc;

use super::spec::{HIDDEN_PREFIX, HiddenColumn, MeterSpec};
use crate::ledger::Kind;
use crate::mask::LateMask;

/// Hidden columns by position, for one RowDescription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout {
    /// Position of each hidden column in the row, with what it holds and the index of its kind; ascending.
    hidden: Vec<(usize, HiddenColumn, usize)>,
    columns: usize,
    /// Position in the row of each column that is masked late; ascending.
    late: Vec<(usize, LateMask)>,
    spec: MeterSpec,
    kinds: Arc<[Kind]>,
}

/// The answer does not have the columns that the plan added, or has others of such a name: nothing of it may be released.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the answer's hidden columns are not those of the plan: `{0}`")]
pub struct HiddenColumnMissing(pub String);

impl Layout {
    /// Finds the plan's hidden columns among the column names of a RowDescription.
    ///
    /// # Errors
    /// Where one is missing, stands twice, or a column of such a name is not the plan's.
    pub fn new(spec: &MeterSpec, names: &[&str]) -> Result<Self, HiddenColumnMissing> {
        let mut hidden: Vec<(usize, HiddenColumn, usize)> = Vec::new();
        for (position, name) in names.iter().enumerate() {
            if !name.starts_with(HIDDEN_PREFIX) {
                continue;
            }
            let known = spec.hidden.iter().position(|h| h.name == *name);
            match known.and_then(|kind| Some((kind, spec.hidden.get(kind)?))) {
                Some((kind, column)) if !hidden.iter().any(|(_, h, _)| h.name == *name) => {
                    hidden.push((position, column.clone(), kind));
                }
                Some(_) | None => return Err(HiddenColumnMissing((*name).to_owned())),
            }
        }
        if let Some(missing) = spec
            .hidden
            .iter()
            .find(|h| !hidden.iter().any(|(_, f, _)| f.name == h.name))
        {
            return Err(HiddenColumnMissing(missing.name.clone()));
        }
        let mut visible = (0..names.len()).filter(|at| !hidden.iter().any(|(h, _, _)| h == at));
        let mut late = Vec::with_capacity(spec.late.len());
        let mut next = 0;
        for column in &spec.late {
            let at = column.position.checked_sub(next).and_then(|ahead| visible.nth(ahead));
            let at = at.ok_or_else(|| HiddenColumnMissing(format!("column {} to be masked", column.position + 1)))?;
            late.push((at, column.mask.clone()));
            next = column.position + 1;
        }
        Ok(Self {
            hidden,
            columns: names.len(),
            late,
            spec: spec.clone(),
            kinds: spec.kinds(),
        })
    }

    /// Columns the client sees.
    #[must_use]
    pub fn visible(&self) -> usize {
        self.columns - self.hidden.len()
    }

    /// Columns the server sends.
    #[must_use]
    pub fn columns(&self) -> usize {
        self.columns
    }

    /// Hidden columns in the order of the row: position, what it holds, and the index of its kind.
    pub fn hidden(&self) -> impl Iterator<Item = (usize, &HiddenColumn, usize)> {
        self.hidden
            .iter()
            .map(|(position, hidden, kind)| (*position, hidden, *kind))
    }

    /// What hidden columns show, and behind them what each row shows besides.
    #[must_use]
    pub fn kinds(&self) -> &Arc<[Kind]> {
        &self.kinds
    }

    /// Whether rows pass as they are.
    #[must_use]
    pub fn is_transparent(&self) -> bool {
        self.hidden.is_empty() && self.spec.per_row.is_empty() && self.late.is_empty()
    }

    /// Columns that are masked as they pass: position in the row, and the mask.
    #[must_use]
    pub fn late(&self) -> &[(usize, LateMask)] {
        &self.late
    }

    /// What each row counts besides its hidden columns.
    #[must_use]
    pub fn spec(&self) -> &MeterSpec {
        &self.spec
    }

    /// A Bind's list of result formats for the server: as given where it speaks of all columns (none or one), else with the text
    /// format put in at the hidden columns' places (their type is text: both formats are the same bytes).
    #[must_use]
    pub fn formats(&self, client: &[i16]) -> Vec<i16> {
        if client.len() <= 1 || self.hidden.is_empty() {
            return client.to_vec();
        }
        let mut given = client.iter().copied();
        let mut formats: Vec<i16> = (0..self.columns)
            .map(|p| {
                if self.hidden.iter().any(|(at, _, _)| *at == p) {
                    0
                } else {
                    given.next().unwrap_or(0)
                }
            })
            .collect();
        // More codes than columns: the server shall say so.
        formats.extend(given);
        formats
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::ledger::Categories;
    use crate::meter::KeyShape;

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

    #[test]
    fn hidden_columns_are_found_by_name_wherever_they_stand() {
        let layout = Layout::new(&spec(), &["a", "menshen_k1", "b"]).unwrap();
        assert_eq!(layout.visible(), 2);
        assert_eq!(layout.formats(&[1, 0]), [1, 0, 0]);
        assert_eq!(layout.formats(&[1]), [1]);
    }

    #[test]
    fn a_missing_doubled_or_foreign_hidden_column_is_an_error() {
        assert!(Layout::new(&spec(), &["a"]).is_err());
        assert!(Layout::new(&spec(), &["menshen_k1", "menshen_k1"]).is_err());
        assert!(Layout::new(&spec(), &["menshen_k1", "menshen_k2"]).is_err());
        assert!(Layout::new(&MeterSpec::default(), &["menshen_k9"]).is_err());
    }
}
