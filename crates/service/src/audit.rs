//! The audit trail: what is written down of every change, reading it, and seeing whether it was tampered with.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::sync::PoisonError;

use leadr_auth_domain::{
    Access, Account, AccountId, ApiKey, AuditAction, AuditDraft, AuditEntry, AuditFault, AuditKey,
    ChainCheck, ChainHead, ChainId, Checkpoint, Facts, ForeignAccount, KeyId, LastPlace,
    OperatorAccess, Origin, PepperId, Principal, Timestamp,
};
use leadr_auth_ports::{
    ActorFilter, AuditPlace, AuditQuery, Audited, Pruned, Snapshot, listing::Page,
};
use serde_json::{Map, Value};

use crate::secret::sealed_audit_key;
use crate::{SecretError, Service, StoreError};

/// How many records are read at a time.
const PAGE: u32 = 1000;

/// Writes drafts: under which key, of what time, on whose behalf.
#[derive(Clone, Debug)]
pub struct Auditor {
    key: AuditKey,
    at: Timestamp,
    origin: Origin,
}

impl Auditor {
    pub(crate) const fn new(key: AuditKey, at: Timestamp, origin: Origin) -> Self {
        Self { key, at, origin }
    }

    /// An entry of a chain, of which there is nothing to say yet but that it was done.
    pub(crate) fn draft(&self, chain: ChainId, action: AuditAction) -> AuditDraft {
        AuditDraft::new(
            self.key.clone(),
            chain,
            self.at,
            action,
            self.origin.clone(),
        )
    }

    /// That a key was made.
    pub(crate) fn key_made(&self, action: AuditAction, key: &ApiKey) -> AuditDraft {
        self.draft(ChainId::Account(key.account_id), action)
            .about(key.id)
            .after(Facts::of_key(key))
    }

    /// That a key was changed, if it was.
    pub(crate) fn key_changed(&self, before: &ApiKey, after: ApiKey) -> Audited<ApiKey> {
        let Some(action) = AuditAction::of_key_change(before, &after) else {
            return Audited::unchanged(after);
        };
        let draft = self
            .draft(ChainId::Account(after.account_id), action)
            .about(after.id)
            .changed(&Facts::of_key(before), &Facts::of_key(&after));
        Audited::new(after, draft)
    }

    /// That an account was made.
    pub(crate) fn account_made(&self, action: AuditAction, account: &Account) -> AuditDraft {
        self.draft(ChainId::Account(account.id), action)
            .after(Facts::of_account(account))
    }

    /// That an account was changed, if it was.
    pub(crate) fn account_changed(&self, before: &Account, after: Account) -> Audited<Account> {
        let Some(action) = AuditAction::of_account_change(before, &after) else {
            return Audited::unchanged(after);
        };
        let draft = self
            .draft(ChainId::Account(after.id), action)
            .changed(&Facts::of_account(before), &Facts::of_account(&after));
        Audited::new(after, draft)
    }

    /// That a secret came with an import.
    pub fn secret_imported(&self, id: &PepperId) -> AuditDraft {
        let facts = [("secret_id", id.as_str().into())];
        self.system(AuditAction::PepperImported, facts)
    }

    /// Something about the deployment.
    pub(crate) fn system<const N: usize>(
        &self,
        action: AuditAction,
        facts: [(&str, Value); N],
    ) -> AuditDraft {
        let facts = facts.map(|(name, value)| (name.to_owned(), value));
        self.draft(ChainId::System, action)
            .after(facts.into_iter().collect())
    }
}

/// Which entries are wanted, beyond whose.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AuditFilter {
    /// About this key.
    pub key_id: Option<KeyId>,
    /// By this actor.
    pub actor: Option<ActorFilter>,
    /// Of this action.
    pub action: Option<AuditAction>,
    /// From this time on.
    pub since: Option<Timestamp>,
    /// Before this time.
    pub until: Option<Timestamp>,
}

/// Somebody with a valid key asked for what it does not allow.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// What was asked: a method and a route's pattern.
    pub request: String,
    /// The stable code of the answer.
    pub code: &'static str,
    /// The scope that was missing, where it was one.
    pub scope: Option<String>,
    /// The id in the path, or the account that was named elsewhere, where there was one.
    pub target: Option<uuid::Uuid>,
}

/// What a look at the whole trail found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AuditReport {
    /// How many chains there are.
    pub chains: u64,
    /// How many entries were read.
    pub entries: u64,
    /// What is wrong, and in which chain.
    pub faults: Vec<(ChainId, AuditFault)>,
}

/// Why entries were not given.
#[derive(Debug)]
pub enum AuditError {
    /// The caller named another account; whether it exists is not said.
    ForeignAccount(ForeignAccount),
    /// The store did not do it.
    Store(StoreError),
}

impl fmt::Display for AuditError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ForeignAccount(_) => "the account is not the caller's",
            Self::Store(_) => "the audit trail could not be read",
        })
    }
}

impl std::error::Error for AuditError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::ForeignAccount(_) => None,
            Self::Store(source) => Some(source),
        }
    }
}

impl From<StoreError> for AuditError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

/// Why nothing was pruned.
#[derive(Debug)]
pub enum PruneError {
    /// Something is wrong with the trail, and pruning could take the traces of it away.
    NotWhole(AuditReport),
    /// The store did not do it.
    Store(StoreError),
}

impl fmt::Display for PruneError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotWhole(_) => "the audit trail is not whole, so it is not pruned",
            Self::Store(_) => "the audit trail could not be pruned",
        })
    }
}

impl std::error::Error for PruneError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotWhole(_) => None,
            Self::Store(source) => Some(source),
        }
    }
}

impl From<StoreError> for PruneError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Service {
    /// The key under which the trail is sealed, once it is known.
    pub(crate) fn known_audit_key(&self) -> Option<AuditKey> {
        let known = self.audit_key.read();
        known.unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set_audit_key(&self, key: AuditKey) {
        let mut known = self
            .audit_key
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        *known = Some(key);
    }

    /// Whoever changes something needs one. Where this process does not know the key of the trail yet, it asks the store,
    /// and where that has none, one is made, if the secret is known to be the store's: whoever merely changes a key is not
    /// to settle which one that is.
    pub(crate) async fn auditor(
        &self,
        origin: &Origin,
        at: Timestamp,
    ) -> Result<Auditor, StoreError> {
        let key = match self.known_audit_key() {
            Some(key) => key,
            None => self.find_audit_key().await?,
        };
        Ok(Auditor::new(key, at, origin.clone()))
    }

    async fn find_audit_key(&self) -> Result<AuditKey, StoreError> {
        let registered = self.stores.secrets.registered().await?;
        if registered.is_empty() {
            return Err(StoreError::unavailable(
                "no server has started on this store yet, so there is no audit trail to write to",
            ));
        }
        // A secret that decrypts it is one of the store's, whatever else may be wrong with the keyring.
        if let Some(key) = sealed_audit_key(&self.keyring(), &registered)? {
            self.set_audit_key(key.clone());
            return Ok(key);
        }
        self.ensure_secret().await.map_err(|error| match error {
            SecretError::Store(error) => error,
            other => StoreError::unavailable(other),
        })?;
        self.known_audit_key()
            .ok_or_else(|| StoreError::unavailable("the key of the audit trail is not known yet"))
    }

    /// What an import writes down, see [`Importer`](crate::Importer). The secrets have to be settled before, by
    /// [`Service::ensure_secret`].
    pub async fn import_auditor(&self) -> Result<Auditor, StoreError> {
        self.auditor(&Origin::TOOL, self.clock.now()).await
    }

    /// Writes down that an authorisation was refused.
    pub async fn record_refusal(
        &self,
        by: &Principal,
        account_id: AccountId,
        refusal: Refusal,
    ) -> Result<(), StoreError> {
        let auditor = self.auditor(&by.origin, self.clock.now()).await?;
        let Refusal {
            request,
            code,
            scope,
            target,
        } = refusal;
        let mut facts = Map::new();
        facts.insert("request".to_owned(), request.into());
        facts.insert("code".to_owned(), code.into());
        if let Some(scope) = scope {
            facts.insert("scope".to_owned(), scope.into());
        }
        if let Some(target) = target {
            facts.insert("target".to_owned(), target.to_string().into());
        }
        let entry = auditor
            .draft(
                ChainId::Account(account_id),
                AuditAction::AuthorizationRefused,
            )
            .after(facts);
        self.stores.audit.append(&entry).await
    }

    /// A page of at most `limit` entries of an account, or for whoever reaches all and names none, of all; newest first, after a place
    /// in that list. Whoever reaches all and names the nil UUID gets the deployment's own ([`ChainId::from_uuid`]); it is no
    /// account's id, so that whoever reaches an account with it gets nothing.
    pub async fn list_audit(
        &self,
        access: Access,
        account_id: Option<AccountId>,
        filter: AuditFilter,
        after: Option<AuditPlace>,
        limit: u32,
    ) -> Result<Page<AuditEntry, AuditPlace>, AuditError> {
        let chain = access
            .resolve_chain(account_id)
            .map_err(AuditError::ForeignAccount)?;
        if chain == Some(ChainId::System) && access != Access::All {
            return Ok(Page {
                rows: Vec::new(),
                next: None,
            });
        }
        let AuditFilter {
            key_id,
            actor,
            action,
            since,
            until,
        } = filter;
        let query = AuditQuery {
            chain,
            key_id,
            actor,
            action,
            since,
            until,
            after,
            limit: limit.max(1),
        };
        Ok(self.stores.audit.page(&query).await?)
    }

    /// Takes away the entries of before `before`, of each chain the longest beginning in which there are only such, and
    /// leaves checkpoints. First it reads the whole trail, as [`Service::verify_audit`] does: where anything is wrong,
    /// nothing is taken away. But of an account whose trail is missing only its own is left as it is. What is signed for is
    /// what was read, whatever somebody makes of it meanwhile.
    pub async fn prune_audit(
        &self,
        operator: &OperatorAccess,
        before: Timestamp,
    ) -> Result<Pruned, PruneError> {
        let now = self.clock.now();
        let auditor = self.auditor(&operator.principal().origin, now).await?;
        let Verification {
            old, began, report, ..
        } = self.verification(&auditor.key, Some(before)).await?;
        // An account without a trail (another program may have made it) keeps others from nothing.
        let is_local = |(chain, fault): &(ChainId, AuditFault)| {
            *chain != ChainId::System && *fault == AuditFault::TrailMissing
        };
        if !report.faults.iter().all(is_local) {
            return Err(PruneError::NotWhole(report));
        }
        let without: HashSet<_> = report.faults.iter().map(|(chain, _)| *chain).collect();
        let whole = old
            .into_iter()
            .filter(|(chain, _)| !without.contains(chain));
        let upto = whole.map(|(chain, LastPlace { seq, hash })| {
            Checkpoint::new(&auditor.key, chain, seq, hash, now)
        });
        let upto: Vec<_> = upto.collect();
        let facts = [
            ("before", before.to_string().into()),
            (BEGAN, began.map(|began| began.to_string()).into()),
        ];
        let entry = auditor.system(AuditAction::AuditPruned, facts);
        Ok(self.stores.audit.prune(&upto, &entry).await?)
    }

    /// Reads the whole trail and says what is wrong with it.
    pub async fn verify_audit(&self, _: &OperatorAccess) -> Result<AuditReport, StoreError> {
        let auditor = self.auditor(&Origin::TOOL, self.clock.now()).await?;
        let verification = self.verification(&auditor.key, None).await?;
        Ok(verification.report)
    }

    /// Goes along the whole trail, and looks for what is of before `before`.
    async fn verification<'a>(
        &self,
        key: &'a AuditKey,
        before: Option<Timestamp>,
    ) -> Result<Verification<'a>, StoreError> {
        let mut snapshot = self.stores.transfer.snapshot().await?;
        Verification::of(key, before, snapshot.as_mut()).await
    }
}

/// Is it with such an entry that a chain begins? Another one comes first only in the chain of an account that is older than
/// the trail; or where somebody took a chain away as a whole, and it was begun anew.
fn begins(entry: &AuditEntry) -> bool {
    let beginnings: &[AuditAction] = match entry.chain {
        ChainId::System => &[AuditAction::PepperRegistered],
        ChainId::Account(_) => &[
            AuditAction::AccountCreated,
            AuditAction::AccountImported,
            AuditAction::OperatorCreated,
        ],
    };
    let action = AuditAction::parse(&entry.action);
    action.is_some_and(|action| beginnings.contains(&action))
}

/// Under this name the entry of a pruning says when the trail began, of which the entries themselves may be gone.
const BEGAN: &str = "began";

/// When the trail began, as an entry of a pruning has it.
fn said_to_have_begun(entry: &AuditEntry) -> Option<Timestamp> {
    let facts = entry.after.as_ref()?;
    let facts: Value = serde_json::from_str(facts.as_str()).ok()?;
    Timestamp::parse(facts.get(BEGAN)?.as_str()?).ok()
}

/// The chain that is being gone along.
struct Walk<'a> {
    chain: ChainId,
    check: ChainCheck<'a>,
    /// The last of the entries at its beginning that are of before the time in question.
    old: Option<LastPlace>,
    /// Whether one that is not of before it was met, so that no more are at the beginning.
    is_past_old: bool,
}

/// A look at the whole trail.
struct Verification<'a> {
    key: &'a AuditKey,
    /// The time in question, where somebody wants to know what is older.
    before: Option<Timestamp>,
    heads: HashMap<ChainId, ChainHead>,
    checkpoints: HashMap<ChainId, Checkpoint>,
    seen: HashSet<ChainId>,
    /// Chains of which nothing was pruned, and that begin with something else than what begins one.
    beheaded: HashSet<ChainId>,
    current: Option<Walk<'a>>,
    /// Of each chain that begins with entries of before `before`, the last of them. They are as they were written, if the
    /// report has no faults.
    old: Vec<(ChainId, LastPlace)>,
    /// When the trail began, as far as there is a trace of it.
    began: Option<Timestamp>,
    report: AuditReport,
}

impl<'a> Verification<'a> {
    async fn of(
        key: &'a AuditKey,
        before: Option<Timestamp>,
        snapshot: &mut dyn Snapshot,
    ) -> Result<Self, StoreError> {
        let mut heads = HashMap::new();
        let mut after = None;
        loop {
            let page = snapshot.audit_heads(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.chain);
            heads.extend(page.into_iter().map(|head| (head.chain, head)));
        }
        let mut checkpoints = HashMap::new();
        let mut after = None;
        loop {
            let page = snapshot.audit_checkpoints(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some(last.chain);
            let page = page.into_iter();
            checkpoints.extend(page.map(|checkpoint| (checkpoint.chain, checkpoint)));
        }
        let mut verification = Self {
            key,
            before,
            heads,
            checkpoints,
            seen: HashSet::new(),
            beheaded: HashSet::new(),
            current: None,
            old: Vec::new(),
            began: None,
            report: AuditReport::default(),
        };
        let mut after = None;
        loop {
            let page = snapshot.audit_entries(after, PAGE).await?;
            let Some(last) = page.last() else { break };
            after = Some((last.chain, last.seq));
            for entry in &page {
                verification.entry(entry);
            }
        }
        let last = verification.current.take();
        verification.end_walk(last);
        verification.chains_without_entries();
        verification.accounts(snapshot).await?;
        Ok(verification)
    }

    fn begin(&mut self, chain: ChainId) -> ChainCheck<'a> {
        self.seen.insert(chain);
        self.report.chains += 1;
        ChainCheck::new(self.key, self.checkpoints.get(&chain))
    }

    fn entry(&mut self, entry: &AuditEntry) {
        self.report.entries += 1;
        if entry.chain == ChainId::System {
            self.note_beginning(entry);
        }
        let mut walk = match self.current.take() {
            Some(walk) if walk.chain == entry.chain => walk,
            other => {
                self.end_walk(other);
                self.begin_walk(entry)
            }
        };
        walk.check.entry(entry);
        walk.is_past_old |= self.before.is_none_or(|before| entry.at >= before);
        if !walk.is_past_old {
            let AuditEntry { seq, hash, .. } = *entry;
            walk.old = Some(LastPlace { seq, hash });
        }
        self.current = Some(walk);
    }

    fn begin_walk(&mut self, first: &AuditEntry) -> Walk<'a> {
        let is_pruned = self.checkpoints.contains_key(&first.chain);
        if !is_pruned && first.seq == 1 && !begins(first) {
            self.beheaded.insert(first.chain);
        }
        Walk {
            chain: first.chain,
            check: self.begin(first.chain),
            old: None,
            is_past_old: false,
        }
    }

    fn end_walk(&mut self, walk: Option<Walk<'a>>) {
        if let Some(Walk {
            chain, check, old, ..
        }) = walk
        {
            self.old.extend(old.map(|last| (chain, last)));
            self.end(chain, check);
        }
    }

    /// The first entry of the deployment's chain says it by its own time; and, where others were there before it, that of
    /// their pruning.
    fn note_beginning(&mut self, entry: &AuditEntry) {
        let is_pruning = entry.action == AuditAction::AuditPruned.as_str();
        if (self.began.is_some() && !is_pruning) || !entry.is_genuine(self.key) {
            return;
        }
        let own = self.began.is_none().then_some(entry.at);
        let said = is_pruning.then(|| said_to_have_begun(entry)).flatten();
        self.began = [self.began, own, said].into_iter().flatten().min();
    }

    fn end(&mut self, chain: ChainId, check: ChainCheck<'a>) {
        let faults = check.end(self.heads.get(&chain)).into_iter();
        self.report
            .faults
            .extend(faults.map(|fault| (chain, fault)));
    }

    /// Chains of which everything was pruned, or taken away.
    fn chains_without_entries(&mut self) {
        let named = self.heads.keys().chain(self.checkpoints.keys());
        let unseen: HashSet<_> = named.filter(|chain| !self.seen.contains(chain)).collect();
        let mut unseen: Vec<ChainId> = unseen.into_iter().copied().collect();
        unseen.sort();
        for chain in unseen {
            let check = self.begin(chain);
            self.end(chain, check);
        }
    }

    /// Whatever was made since the trail began is in it, from its making on.
    async fn accounts(&mut self, snapshot: &mut dyn Snapshot) -> Result<(), StoreError> {
        let is_whole =
            |chain: &ChainId| self.seen.contains(chain) && !self.beheaded.contains(chain);
        if !is_whole(&ChainId::System) {
            let fault = (ChainId::System, AuditFault::TrailMissing);
            self.report.faults.push(fault);
        }
        let Some(began) = self.began else {
            return Ok(());
        };
        let mut after = None;
        loop {
            let page = snapshot.accounts(after, PAGE).await?;
            let Some(last) = page.last() else {
                return Ok(());
            };
            after = Some(last.id);
            for account in &page {
                let chain = ChainId::Account(account.id);
                if account.created_at > began && !is_whole(&chain) {
                    self.report.faults.push((chain, AuditFault::TrailMissing));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use async_trait::async_trait;
    use leadr_auth_domain::{Actor, KeyChange, KeyName};
    use leadr_auth_ports::{MockAuditStore, MockTransferStore, StoredPepper, Totals};

    use super::*;
    use crate::testing::{Bench, only_new, rotated, service_on};

    async fn actions(bench: &Bench, account: AccountId) -> Vec<String> {
        let listed = bench
            .service
            .list_audit(
                Access::All,
                Some(account),
                AuditFilter::default(),
                None,
                100,
            )
            .await
            .unwrap();
        let rows = listed.rows.into_iter();
        rows.rev().map(|entry| entry.action).collect()
    }

    #[tokio::test]
    async fn each_change_says_what_it_was_and_who_did_it() {
        let bench = Bench::new().await;
        let (service, tenant) = (&bench.service, bench.tenant.id);
        let id = bench.issue("First").await.key.id;
        let by = bench.tenant(leadr_auth_domain::Scopes::All);
        let named = KeyName::parse("Second").unwrap();
        service.rename_key(&by, id, named.clone()).await.unwrap();
        service.rename_key(&by, id, named).await.unwrap();
        service.revoke_key(&by, id).await.unwrap();
        service.revoke_key(&by, id).await.unwrap();
        service
            .update_key(&by, id, &KeyChange::default())
            .await
            .unwrap();
        service.reactivate_key(&by, id).await.unwrap();
        service.delete_key(&by, id).await.unwrap();
        service.restore_key(&by, id).await.unwrap();
        let operator = Bench::operator();
        service.suspend_account(&operator, tenant).await.unwrap();
        service.activate_account(&operator, tenant).await.unwrap();
        service.delete_account(&operator, tenant).await.unwrap();
        assert_eq!(
            actions(&bench, tenant).await,
            [
                "account.created",
                "key.created",
                "key.renamed",
                "key.revoked",
                "key.reactivated",
                "key.deleted",
                "key.restored",
                "account.suspended",
                "account.activated",
                "account.deleted",
            ]
        );
        let filter = AuditFilter {
            action: Some(AuditAction::KeyRenamed),
            ..AuditFilter::default()
        };
        let renamed = service
            .list_audit(Access::All, Some(tenant), filter, None, 100)
            .await
            .unwrap();
        let entry = &renamed.rows[0];
        assert_eq!(
            (entry.key_id, entry.origin.actor),
            (Some(id), Actor::Server)
        );
        assert_eq!(
            entry.before.as_ref().unwrap().as_str(),
            r#"{"name":"First"}"#
        );
        assert_eq!(
            entry.after.as_ref().unwrap().as_str(),
            r#"{"name":"Second"}"#
        );
        let report = service.verify_audit(&operator).await.unwrap();
        assert_eq!(report.faults, []);
        // The deployment's, the operator's and the tenant's.
        assert_eq!((report.chains, report.entries), (3, 12));
    }

    #[tokio::test]
    async fn a_tenant_reads_its_own_trail_only() {
        let bench = Bench::new().await;
        let list = async |access, account| {
            let filter = AuditFilter::default();
            bench
                .service
                .list_audit(access, account, filter, None, 100)
                .await
                .map(|page| page.rows)
        };
        let tenant = Access::Account(bench.tenant.id);
        let own = list(tenant, None).await.unwrap();
        let chain = ChainId::Account(bench.tenant.id);
        assert!(!own.is_empty() && own.iter().all(|entry| entry.chain == chain));
        let foreign = AccountId::from_random_bytes([99; 16]);
        assert!(matches!(
            list(tenant, Some(foreign)).await,
            Err(AuditError::ForeignAccount(_))
        ));
        let all = list(Access::All, None).await.unwrap();
        assert!(all.len() > own.len());
        assert!(list(Access::All, Some(foreign)).await.unwrap().is_empty());
        let nil = AccountId::new(uuid::Uuid::nil());
        let system = list(Access::All, Some(nil)).await.unwrap();
        let is_system = |entry: &AuditEntry| entry.chain == ChainId::System;
        assert!(!system.is_empty() && system.iter().all(is_system));
        assert!(matches!(
            list(tenant, Some(nil)).await,
            Err(AuditError::ForeignAccount(_))
        ));
        // A store that others wrote to may have an account with that id.
        let nobody = Access::Account(nil);
        for named in [None, Some(nil)] {
            assert!(list(nobody, named).await.unwrap().is_empty());
        }
    }

    #[tokio::test]
    async fn an_entry_that_cannot_be_written_refuses_nobody_in_silence() {
        let mut bench = Bench::new().await;
        let mut away = MockAuditStore::new();
        away.expect_append()
            .returning(|_| Err(StoreError::unavailable("away")));
        bench.service.stores.audit = Arc::new(away);
        let by = bench.tenant(leadr_auth_domain::Scopes::All);
        let refusal = Refusal {
            request: "GET /v1/accounts".to_owned(),
            code: "insufficient_scope",
            scope: Some("accounts:read".to_owned()),
            target: None,
        };
        let recorded = bench.service.record_refusal(&by, bench.tenant.id, refusal);
        assert!(recorded.await.is_err());
    }

    #[tokio::test]
    async fn the_trail_survives_the_change_of_the_secret() {
        let bench = Bench::new().await;
        let service = &bench.service;
        service.replace_keyring(rotated()).await.unwrap();
        bench.issue("Under the new secret").await;
        let operator = Bench::operator();
        for key in bench.all_keys().await {
            service.delete_key(&Bench::all(), key.id).await.unwrap();
        }
        let default = leadr_auth_domain::PepperId::default();
        service.drop_pepper(&operator, &default).await.unwrap();
        let restarted = service_on(service, only_new());
        let report = restarted.verify_audit(&operator).await.unwrap();
        assert_eq!(report.faults, []);
        let pruned = restarted
            .prune_audit(&operator, Bench::later(1000))
            .await
            .unwrap();
        assert!(pruned.entries > 0);
        let report = restarted.verify_audit(&operator).await.unwrap();
        assert_eq!((report.faults, report.entries), (Vec::new(), 1));
    }

    /// Who takes away a whole chain, its end included, leaves nothing that could be compared; but no account begins with
    /// being suspended.
    #[tokio::test]
    async fn a_chain_that_was_begun_anew_is_told() {
        let bench = Bench::new().await;
        let service = &bench.service;
        bench.clock.set(Bench::later(1));
        let operator = Bench::operator();
        let new = crate::NewAccount {
            name: leadr_auth_domain::AccountName::parse("Vanished").unwrap(),
            slug: leadr_auth_domain::Slug::parse("vanished").unwrap(),
            key_limit: None,
        };
        let account = service.create_account(&operator, new).await.unwrap();
        let before = service.verify_audit(&operator).await.unwrap();
        assert_eq!(before.faults, []);
        // As if the chain had been taken away: the account is in another store, without its trail.
        let other = Bench::unprepared();
        other.prepare(None).await.unwrap();
        let audited = [Audited::unchanged(account.clone())];
        let mode = leadr_auth_ports::ImportMode::Commit;
        other
            .stores
            .transfer
            .import_accounts(&audited, mode)
            .await
            .unwrap();
        let missing = [(ChainId::Account(account.id), AuditFault::TrailMissing)];
        let report = other.verify_audit(&operator).await.unwrap();
        assert_eq!(report.faults, missing);
        other.suspend_account(&operator, account.id).await.unwrap();
        let report = other.verify_audit(&operator).await.unwrap();
        assert_eq!(report.faults, missing);
        // All else is pruned, and it is still told.
        let pruned = other.prune_audit(&operator, Timestamp::MAX).await.unwrap();
        assert!(pruned.chains > 0);
        let left = Rows::of(&other).await;
        let of_account = |entry: &&AuditEntry| entry.chain == ChainId::Account(account.id);
        assert_eq!(left.entries.iter().filter(of_account).count(), 1);
        let report = other.verify_audit(&operator).await.unwrap();
        assert_eq!(report.faults, missing);
    }

    /// What is in a store, for somebody to alter.
    #[derive(Clone)]
    struct Rows {
        accounts: Vec<Account>,
        entries: Vec<AuditEntry>,
        heads: Vec<ChainHead>,
        checkpoints: Vec<Checkpoint>,
    }

    impl Rows {
        async fn of(service: &Service) -> Self {
            let mut snapshot = service.stores.transfer.snapshot().await.unwrap();
            Self {
                accounts: snapshot.accounts(None, PAGE).await.unwrap(),
                entries: snapshot.audit_entries(None, PAGE).await.unwrap(),
                heads: snapshot.audit_heads(None, PAGE).await.unwrap(),
                checkpoints: snapshot.audit_checkpoints(None, PAGE).await.unwrap(),
            }
        }

        /// Without all there is of a chain.
        fn without(mut self, chain: ChainId) -> Self {
            self.entries.retain(|entry| entry.chain != chain);
            self.heads.retain(|head| head.chain != chain);
            self.checkpoints
                .retain(|checkpoint| checkpoint.chain != chain);
            self
        }

        /// A process that finds these rows in the store, which are not there.
        fn in_place_of(self, service: &Service) -> Service {
            let mut transfer = MockTransferStore::new();
            transfer
                .expect_snapshot()
                .returning(move || Ok(Box::new(self.clone())));
            let mut other = service_on(service, Bench::keyring());
            other.stores.transfer = Arc::new(transfer);
            other
        }
    }

    fn rest<T: Clone, K: Ord>(all: &[T], key: impl Fn(&T) -> K, after: Option<&K>) -> Vec<T> {
        let rest = all
            .iter()
            .filter(|one| after.is_none_or(|after| key(one) > *after));
        rest.cloned().collect()
    }

    #[async_trait]
    impl Snapshot for Rows {
        async fn secrets(&mut self) -> Result<Vec<StoredPepper>, StoreError> {
            Ok(Vec::new())
        }

        async fn totals(&mut self) -> Result<Totals, StoreError> {
            Ok(Totals::default())
        }

        async fn accounts(
            &mut self,
            after: Option<AccountId>,
            _: u32,
        ) -> Result<Vec<Account>, StoreError> {
            Ok(rest(&self.accounts, |account| account.id, after.as_ref()))
        }

        async fn keys(&mut self, _: Option<KeyId>, _: u32) -> Result<Vec<ApiKey>, StoreError> {
            Ok(Vec::new())
        }

        async fn audit_entries(
            &mut self,
            after: Option<(ChainId, u64)>,
            _: u32,
        ) -> Result<Vec<AuditEntry>, StoreError> {
            Ok(rest(
                &self.entries,
                |entry| (entry.chain, entry.seq),
                after.as_ref(),
            ))
        }

        async fn audit_heads(
            &mut self,
            after: Option<ChainId>,
            _: u32,
        ) -> Result<Vec<ChainHead>, StoreError> {
            Ok(rest(&self.heads, |head| head.chain, after.as_ref()))
        }

        async fn audit_checkpoints(
            &mut self,
            after: Option<ChainId>,
            _: u32,
        ) -> Result<Vec<Checkpoint>, StoreError> {
            Ok(rest(
                &self.checkpoints,
                |checkpoint| checkpoint.chain,
                after.as_ref(),
            ))
        }
    }

    #[tokio::test]
    async fn of_each_chain_the_beginning_that_is_older_is_pruned() {
        let bench = Bench::new().await;
        let chain = ChainId::Account(bench.tenant.id);
        // The clock stepped back: what is old behind something newer stays.
        for second in [10, 20, 5, 30] {
            bench.clock.set(Bench::later(second));
            bench.issue("Key").await;
        }
        bench.clock.set(Bench::later(40));
        let operator = Bench::operator();
        let prune = async |second| {
            let pruned = bench
                .service
                .prune_audit(&operator, Bench::later(second))
                .await;
            let report = bench.service.verify_audit(&operator).await.unwrap();
            assert_eq!(report.faults, []);
            let entries = Rows::of(&bench.service).await.entries.into_iter();
            let left = entries.filter(|entry| entry.chain == chain);
            let left: Vec<_> = left.map(|entry| entry.seq).collect();
            (pruned.unwrap(), left)
        };
        assert_eq!(prune(0).await, (Pruned::default(), vec![1, 2, 3, 4, 5]));
        let (pruned, left) = prune(20).await;
        // The deployment's, the operator's and the tenant's.
        assert_eq!((pruned.chains, left), (3, vec![3, 4, 5]));
        assert_eq!(prune(20).await, (Pruned::default(), vec![3, 4, 5]));
        let expected = Pruned {
            chains: 1,
            entries: 2,
        };
        assert_eq!(prune(30).await, (expected, vec![5]));
    }

    /// Otherwise somebody who can write to the store would only have to wait until the traces are taken away.
    #[tokio::test]
    async fn a_trail_that_is_not_whole_is_not_pruned() {
        use AuditFault::{Altered, HeadAltered, HeadMissing, Missing};
        let bench = Bench::new().await;
        for second in [10, 20, 30] {
            bench.clock.set(Bench::later(second));
            bench.issue("Key").await;
        }
        let chain = ChainId::Account(bench.tenant.id);
        let operator = Bench::operator();
        let whole = Rows::of(&bench.service).await;
        let place = |seq| {
            let mut entries = whole.entries.iter();
            let place = entries.position(|entry| (entry.chain, entry.seq) == (chain, seq));
            place.unwrap()
        };
        let (first, second, last) = (place(1), place(2), place(4));
        let with = |alter: &dyn Fn(&mut Rows)| {
            let mut rows = whole.clone();
            alter(&mut rows);
            rows
        };
        let of_chain = |head: &&mut ChainHead| head.chain == chain;
        let cases = [
            // What is young and is to be taken for old.
            (
                with(&|rows| rows.entries[last].at = Bench::later(0)),
                Altered { seq: 4 },
            ),
            // What goes anyway, and says something else.
            (
                with(&|rows| rows.entries[second].action = "key.renamed".to_owned()),
                Altered { seq: 2 },
            ),
            (
                with(&|rows| drop(rows.entries.remove(first))),
                Missing { from: 1, to: 1 },
            ),
            (
                with(&|rows| drop(rows.entries.remove(last))),
                Missing { from: 4, to: 4 },
            ),
            (
                with(&|rows| rows.heads.retain(|head| head.chain != chain)),
                HeadMissing,
            ),
            (
                with(&|rows| rows.heads.iter_mut().find(of_chain).unwrap().seq = 1),
                HeadAltered,
            ),
        ];
        for (rows, fault) in cases {
            let it = rows.in_place_of(&bench.service);
            let report = it.verify_audit(&operator).await.unwrap();
            assert_eq!(report.faults, [(chain, fault)]);
            for before in [15, 1000] {
                let refused = it.prune_audit(&operator, Bench::later(before)).await;
                let Err(PruneError::NotWhole(found)) = refused else {
                    panic!("{fault:?}: {refused:?}");
                };
                assert_eq!(found, report);
            }
            let left = Rows::of(&bench.service).await;
            assert_eq!(left.entries, whole.entries, "{fault:?}");
            assert_eq!(left.checkpoints, [], "{fault:?}");
        }
        // Nor where there is no telling when the trail began.
        let without = with(&|rows| {
            rows.entries.retain(|entry| entry.chain == chain);
            rows.heads.retain(|head| head.chain == chain);
        });
        let it = without.in_place_of(&bench.service);
        let refused = it.prune_audit(&operator, Timestamp::MAX).await;
        let Err(PruneError::NotWhole(found)) = refused else {
            panic!("{refused:?}");
        };
        assert_eq!(found.faults, [(ChainId::System, AuditFault::TrailMissing)]);
        let it = whole.in_place_of(&bench.service);
        let pruned = it.prune_audit(&operator, Bench::later(15)).await.unwrap();
        assert!(pruned.entries > 0);
    }

    /// Also when the entries that would show it are gone, and those that told of their going.
    #[tokio::test]
    async fn when_the_trail_began_outlasts_what_is_pruned() {
        let bench = Bench::new().await;
        let service = &bench.service;
        let operator = Bench::operator();
        bench.clock.set(Bench::later(1));
        let new = crate::NewAccount {
            name: leadr_auth_domain::AccountName::parse("Vanished").unwrap(),
            slug: leadr_auth_domain::Slug::parse("vanished").unwrap(),
            key_limit: None,
        };
        let account = service.create_account(&operator, new).await.unwrap();
        let missing = [(ChainId::Account(account.id), AuditFault::TrailMissing)];
        for minute in [1, 2, 3] {
            bench.clock.set(Bench::later(60 * minute));
            let by = Bench::all();
            let named = KeyName::parse("Leaked").unwrap();
            let issued = service.issue_key(&by, account.id, crate::NewKey::named(named));
            let id = issued.await.unwrap().key.id;
            let now = Bench::later(60 * minute + 1);
            let pruned = service.prune_audit(&operator, now).await.unwrap();
            assert!(pruned.entries > 0);
            service.revoke_key(&by, id).await.unwrap();
            let report = service.verify_audit(&operator).await.unwrap();
            assert_eq!(report.faults, []);
            let rows = Rows::of(service).await;
            let mut of_system = rows.entries.iter();
            let told = of_system.find(|entry| entry.chain == ChainId::System);
            let facts = told.unwrap().after.as_ref().unwrap().as_str();
            let facts: Value = serde_json::from_str(facts).unwrap();
            let began = Bench::later(0).to_string();
            let expected = serde_json::json!({"before": now.to_string(), "began": began});
            assert_eq!(facts, expected);
            let it = rows.without(missing[0].0).in_place_of(service);
            let report = it.verify_audit(&operator).await.unwrap();
            assert_eq!(report.faults, missing, "{minute}");
        }
    }

    #[tokio::test]
    async fn nothing_is_changed_before_anybody_knows_the_secret() {
        let bench = Bench::new().await;
        let id = bench.issue("Known").await.key.id;
        // A tool on the same store, which has not asked for anything yet.
        let tool = service_on(&bench.service, Bench::keyring());
        tool.revoke_key(&Bench::all(), id).await.unwrap();
        let fresh = Bench::unprepared();
        let refused = fresh.revoke_key(&Bench::all(), id).await.unwrap_err();
        assert!(matches!(
            refused,
            crate::KeyError::Store(StoreError::Unavailable(_))
        ));
        let registered = fresh.stores.secrets.registered().await.unwrap();
        assert!(registered.is_empty(), "a tool settles nothing");
    }
}
