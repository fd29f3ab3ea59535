//! What kind of statement a tree is. The match names every node kind of the grammar: a new one breaks the build and must be
//! looked at.

use pg_query::NodeEnum;

/// Kinds of statement that the guard treats alike.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Class {
    /// SELECT, VALUES, TABLE.
    Query,
    /// INSERT.
    Insert,
    /// UPDATE, DELETE, MERGE.
    Modify,
    /// COPY.
    Copy,
    /// EXPLAIN.
    Explain,
    /// DECLARE … CURSOR.
    Cursor,
    /// FETCH, MOVE, CLOSE.
    CursorUse,
    /// PREPARE.
    Prepare,
    /// EXECUTE.
    Execute,
    /// DEALLOCATE.
    Deallocate,
    /// BEGIN, COMMIT, ROLLBACK, SAVEPOINT …
    Transaction,
    /// SET, RESET.
    Set,
    /// SHOW.
    Show,
    /// DISCARD.
    Discard,
    /// LISTEN, UNLISTEN.
    Channel,
    /// NOTIFY.
    Notify,
    /// VACUUM, LOCK, TRUNCATE and other work on relations that shows none of their data.
    Maintain,
    /// DDL that defines no code.
    Define,
    /// DDL that defines or runs code, opens ways to other servers, or publishes data: nobody can tell what it will read.
    Code,
    /// Node kinds that the raw grammar never gives as a statement.
    NotAStatement,
}

/// The class of a statement node.
#[must_use]
pub fn classify(node: &NodeEnum) -> Class {
    match node {
        NodeEnum::SelectStmt(_) => Class::Query,
        NodeEnum::InsertStmt(_) => Class::Insert,
        NodeEnum::UpdateStmt(_) | NodeEnum::DeleteStmt(_) | NodeEnum::MergeStmt(_) => Class::Modify,
        NodeEnum::CopyStmt(_) => Class::Copy,
        NodeEnum::ExplainStmt(_) => Class::Explain,
        NodeEnum::DeclareCursorStmt(_) => Class::Cursor,
        NodeEnum::FetchStmt(_) | NodeEnum::ClosePortalStmt(_) => Class::CursorUse,
        NodeEnum::PrepareStmt(_) => Class::Prepare,
        NodeEnum::ExecuteStmt(_) => Class::Execute,
        NodeEnum::DeallocateStmt(_) => Class::Deallocate,
        NodeEnum::TransactionStmt(_) => Class::Transaction,
        NodeEnum::VariableSetStmt(_) => Class::Set,
        NodeEnum::VariableShowStmt(_) => Class::Show,
        NodeEnum::DiscardStmt(_) => Class::Discard,
        NodeEnum::ListenStmt(_) | NodeEnum::UnlistenStmt(_) => Class::Channel,
        NodeEnum::NotifyStmt(_) => Class::Notify,
        NodeEnum::VacuumStmt(_)
        | NodeEnum::ClusterStmt(_)
        | NodeEnum::ReindexStmt(_)
        | NodeEnum::CheckPointStmt(_)
        | NodeEnum::LockStmt(_)
        | NodeEnum::ConstraintsSetStmt(_)
        | NodeEnum::TruncateStmt(_)
        | NodeEnum::RefreshMatViewStmt(_) => Class::Maintain,
        NodeEnum::AlterCollationStmt(_)
        | NodeEnum::AlterDatabaseRefreshCollStmt(_)
        | NodeEnum::AlterDatabaseSetStmt(_)
        | NodeEnum::AlterDatabaseStmt(_)
        | NodeEnum::AlterDefaultPrivilegesStmt(_)
        | NodeEnum::AlterDomainStmt(_)
        | NodeEnum::AlterEnumStmt(_)
        | NodeEnum::AlterExtensionContentsStmt(_)
        | NodeEnum::AlterObjectDependsStmt(_)
        | NodeEnum::AlterObjectSchemaStmt(_)
        | NodeEnum::AlterOwnerStmt(_)
        | NodeEnum::AlterPolicyStmt(_)
        | NodeEnum::AlterRoleSetStmt(_)
        | NodeEnum::AlterRoleStmt(_)
        | NodeEnum::AlterSeqStmt(_)
        | NodeEnum::AlterStatsStmt(_)
        | NodeEnum::AlterTableMoveAllStmt(_)
        | NodeEnum::AlterTableSpaceOptionsStmt(_)
        | NodeEnum::AlterTableStmt(_)
        | NodeEnum::AlterTsconfigurationStmt(_)
        | NodeEnum::AlterTsdictionaryStmt(_)
        | NodeEnum::AlterTypeStmt(_)
        | NodeEnum::CommentStmt(_)
        | NodeEnum::CompositeTypeStmt(_)
        | NodeEnum::CreateConversionStmt(_)
        | NodeEnum::CreateDomainStmt(_)
        | NodeEnum::CreateEnumStmt(_)
        | NodeEnum::CreatePolicyStmt(_)
        | NodeEnum::CreateRangeStmt(_)
        | NodeEnum::CreateRoleStmt(_)
        | NodeEnum::CreateSchemaStmt(_)
        | NodeEnum::CreateSeqStmt(_)
        | NodeEnum::CreateStatsStmt(_)
        | NodeEnum::CreateStmt(_)
        | NodeEnum::CreateTableAsStmt(_)
        | NodeEnum::CreateTableSpaceStmt(_)
        | NodeEnum::CreatedbStmt(_)
        | NodeEnum::DropOwnedStmt(_)
        | NodeEnum::DropRoleStmt(_)
        | NodeEnum::DropStmt(_)
        | NodeEnum::DropTableSpaceStmt(_)
        | NodeEnum::DropdbStmt(_)
        | NodeEnum::GrantRoleStmt(_)
        | NodeEnum::GrantStmt(_)
        | NodeEnum::IndexStmt(_)
        | NodeEnum::ReassignOwnedStmt(_)
        | NodeEnum::RenameStmt(_)
        | NodeEnum::ReplicaIdentityStmt(_)
        | NodeEnum::SecLabelStmt(_)
        | NodeEnum::ViewStmt(_) => Class::Define,
        NodeEnum::AlterEventTrigStmt(_)
        | NodeEnum::AlterExtensionStmt(_)
        | NodeEnum::AlterFdwStmt(_)
        | NodeEnum::AlterForeignServerStmt(_)
        | NodeEnum::AlterFunctionStmt(_)
        | NodeEnum::AlterOpFamilyStmt(_)
        | NodeEnum::AlterOperatorStmt(_)
        | NodeEnum::AlterPublicationStmt(_)
        | NodeEnum::AlterSubscriptionStmt(_)
        | NodeEnum::AlterSystemStmt(_)
        | NodeEnum::AlterUserMappingStmt(_)
        | NodeEnum::CallStmt(_)
        | NodeEnum::CreateAmStmt(_)
        | NodeEnum::CreateCastStmt(_)
        | NodeEnum::CreateEventTrigStmt(_)
        | NodeEnum::CreateExtensionStmt(_)
        | NodeEnum::CreateFdwStmt(_)
        | NodeEnum::CreateForeignServerStmt(_)
        | NodeEnum::CreateForeignTableStmt(_)
        | NodeEnum::CreateFunctionStmt(_)
        | NodeEnum::CreateOpClassStmt(_)
        | NodeEnum::CreateOpFamilyStmt(_)
        | NodeEnum::CreatePlangStmt(_)
        | NodeEnum::CreatePublicationStmt(_)
        | NodeEnum::CreateSubscriptionStmt(_)
        | NodeEnum::CreateTransformStmt(_)
        | NodeEnum::CreateTrigStmt(_)
        | NodeEnum::CreateUserMappingStmt(_)
        | NodeEnum::DefineStmt(_)
        | NodeEnum::DoStmt(_)
        | NodeEnum::DropSubscriptionStmt(_)
        | NodeEnum::DropUserMappingStmt(_)
        | NodeEnum::ImportForeignSchemaStmt(_)
        | NodeEnum::LoadStmt(_)
        | NodeEnum::RuleStmt(_) => Class::Code,
        NodeEnum::AArrayExpr(_)
        | NodeEnum::AConst(_)
        | NodeEnum::AExpr(_)
        | NodeEnum::AIndices(_)
        | NodeEnum::AIndirection(_)
        | NodeEnum::AStar(_)
        | NodeEnum::AccessPriv(_)
        | NodeEnum::Aggref(_)
        | NodeEnum::Alias(_)
        | NodeEnum::AlterTableCmd(_)
        | NodeEnum::AlternativeSubPlan(_)
        | NodeEnum::ArrayCoerceExpr(_)
        | NodeEnum::ArrayExpr(_)
        | NodeEnum::AtalterConstraint(_)
        | NodeEnum::BitString(_)
        | NodeEnum::BoolExpr(_)
        | NodeEnum::Boolean(_)
        | NodeEnum::BooleanTest(_)
        | NodeEnum::CallContext(_)
        | NodeEnum::CaseExpr(_)
        | NodeEnum::CaseTestExpr(_)
        | NodeEnum::CaseWhen(_)
        | NodeEnum::CoalesceExpr(_)
        | NodeEnum::CoerceToDomain(_)
        | NodeEnum::CoerceToDomainValue(_)
        | NodeEnum::CoerceViaIo(_)
        | NodeEnum::CollateClause(_)
        | NodeEnum::CollateExpr(_)
        | NodeEnum::ColumnDef(_)
        | NodeEnum::ColumnRef(_)
        | NodeEnum::CommonTableExpr(_)
        | NodeEnum::Constraint(_)
        | NodeEnum::ConvertRowtypeExpr(_)
        | NodeEnum::CreateOpClassItem(_)
        | NodeEnum::CtecycleClause(_)
        | NodeEnum::CtesearchClause(_)
        | NodeEnum::CurrentOfExpr(_)
        | NodeEnum::DefElem(_)
        | NodeEnum::DistinctExpr(_)
        | NodeEnum::FieldSelect(_)
        | NodeEnum::FieldStore(_)
        | NodeEnum::Float(_)
        | NodeEnum::FromExpr(_)
        | NodeEnum::FuncCall(_)
        | NodeEnum::FuncExpr(_)
        | NodeEnum::FunctionParameter(_)
        | NodeEnum::GroupingFunc(_)
        | NodeEnum::GroupingSet(_)
        | NodeEnum::IndexElem(_)
        | NodeEnum::InferClause(_)
        | NodeEnum::InferenceElem(_)
        | NodeEnum::InlineCodeBlock(_)
        | NodeEnum::IntList(_)
        | NodeEnum::Integer(_)
        | NodeEnum::IntoClause(_)
        | NodeEnum::JoinExpr(_)
        | NodeEnum::JsonAggConstructor(_)
        | NodeEnum::JsonArgument(_)
        | NodeEnum::JsonArrayAgg(_)
        | NodeEnum::JsonArrayConstructor(_)
        | NodeEnum::JsonArrayQueryConstructor(_)
        | NodeEnum::JsonBehavior(_)
        | NodeEnum::JsonConstructorExpr(_)
        | NodeEnum::JsonExpr(_)
        | NodeEnum::JsonFormat(_)
        | NodeEnum::JsonFuncExpr(_)
        | NodeEnum::JsonIsPredicate(_)
        | NodeEnum::JsonKeyValue(_)
        | NodeEnum::JsonObjectAgg(_)
        | NodeEnum::JsonObjectConstructor(_)
        | NodeEnum::JsonOutput(_)
        | NodeEnum::JsonParseExpr(_)
        | NodeEnum::JsonReturning(_)
        | NodeEnum::JsonScalarExpr(_)
        | NodeEnum::JsonSerializeExpr(_)
        | NodeEnum::JsonTable(_)
        | NodeEnum::JsonTableColumn(_)
        | NodeEnum::JsonTablePath(_)
        | NodeEnum::JsonTablePathScan(_)
        | NodeEnum::JsonTablePathSpec(_)
        | NodeEnum::JsonTableSiblingJoin(_)
        | NodeEnum::JsonValueExpr(_)
        | NodeEnum::List(_)
        | NodeEnum::LockingClause(_)
        | NodeEnum::MergeAction(_)
        | NodeEnum::MergeSupportFunc(_)
        | NodeEnum::MergeWhenClause(_)
        | NodeEnum::MinMaxExpr(_)
        | NodeEnum::MultiAssignRef(_)
        | NodeEnum::NamedArgExpr(_)
        | NodeEnum::NextValueExpr(_)
        | NodeEnum::NullIfExpr(_)
        | NodeEnum::NullTest(_)
        | NodeEnum::ObjectWithArgs(_)
        | NodeEnum::OidList(_)
        | NodeEnum::OnConflictClause(_)
        | NodeEnum::OnConflictExpr(_)
        | NodeEnum::OpExpr(_)
        | NodeEnum::Param(_)
        | NodeEnum::ParamRef(_)
        | NodeEnum::PartitionBoundSpec(_)
        | NodeEnum::PartitionCmd(_)
        | NodeEnum::PartitionElem(_)
        | NodeEnum::PartitionRangeDatum(_)
        | NodeEnum::PartitionSpec(_)
        | NodeEnum::PlassignStmt(_)
        | NodeEnum::PublicationObjSpec(_)
        | NodeEnum::PublicationTable(_)
        | NodeEnum::Query(_)
        | NodeEnum::RangeFunction(_)
        | NodeEnum::RangeSubselect(_)
        | NodeEnum::RangeTableFunc(_)
        | NodeEnum::RangeTableFuncCol(_)
        | NodeEnum::RangeTableSample(_)
        | NodeEnum::RangeTblEntry(_)
        | NodeEnum::RangeTblFunction(_)
        | NodeEnum::RangeTblRef(_)
        | NodeEnum::RangeVar(_)
        | NodeEnum::RawStmt(_)
        | NodeEnum::RelabelType(_)
        | NodeEnum::ResTarget(_)
        | NodeEnum::ReturnStmt(_)
        | NodeEnum::ReturningClause(_)
        | NodeEnum::ReturningExpr(_)
        | NodeEnum::ReturningOption(_)
        | NodeEnum::RoleSpec(_)
        | NodeEnum::RowCompareExpr(_)
        | NodeEnum::RowExpr(_)
        | NodeEnum::RowMarkClause(_)
        | NodeEnum::RtepermissionInfo(_)
        | NodeEnum::ScalarArrayOpExpr(_)
        | NodeEnum::SetOperationStmt(_)
        | NodeEnum::SetToDefault(_)
        | NodeEnum::SortBy(_)
        | NodeEnum::SortGroupClause(_)
        | NodeEnum::SqlvalueFunction(_)
        | NodeEnum::StatsElem(_)
        | NodeEnum::String(_)
        | NodeEnum::SubLink(_)
        | NodeEnum::SubPlan(_)
        | NodeEnum::SubscriptingRef(_)
        | NodeEnum::TableFunc(_)
        | NodeEnum::TableLikeClause(_)
        | NodeEnum::TableSampleClause(_)
        | NodeEnum::TargetEntry(_)
        | NodeEnum::TriggerTransition(_)
        | NodeEnum::TypeCast(_)
        | NodeEnum::TypeName(_)
        | NodeEnum::VacuumRelation(_)
        | NodeEnum::Var(_)
        | NodeEnum::WindowClause(_)
        | NodeEnum::WindowDef(_)
        | NodeEnum::WindowFunc(_)
        | NodeEnum::WindowFuncRunCondition(_)
        | NodeEnum::WithCheckOption(_)
        | NodeEnum::WithClause(_)
        | NodeEnum::XmlExpr(_)
        | NodeEnum::XmlSerialize(_) => Class::NotAStatement,
    }
}
