//! Everything out of one store and into another: a stream of records, accounts before their keys.
//!
//! [`Exporter`] reads a snapshot; [`Importer`] stores what does not contradict what is there, or says what would come of it.
//! Neither needs the server's secret, since a key travels as its hash. An import that was cut short is repeated: what is
//! there already is passed over.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::Hash;

use leadr_auth_domain::{
    Account, AccountId, AccountName, ApiKey, AuditAction, KeyId, KeyPrefix, Slug,
};
use leadr_auth_ports::{
    Audited, ImportConflict, ImportMode, ImportOutcome, Snapshot, StoreError, StoredPepper, Totals,
    TransferStore,
};

use crate::Auditor;

/// How many records are read or written at a time.
const BATCH: u32 = 1000;

/// One record on its way.
#[derive(Clone, Debug)]
pub enum Record {
    /// An account.
    Account(Account),
    /// A key.
    Key(ApiKey),
}

/// Reads everything a store holds, as it was at one instant: the accounts, then the keys, each in the order of their ids.
/// Two stores that hold the same give the same.
pub struct Exporter {
    snapshot: Box<dyn Snapshot>,
    secrets: Vec<StoredPepper>,
    totals: Totals,
    place: Place,
}

/// How far an export has come.
enum Place {
    Accounts(Option<AccountId>),
    Keys(Option<KeyId>),
    End,
}

impl Exporter {
    /// Takes the snapshot.
    pub async fn new(store: &dyn TransferStore) -> Result<Self, StoreError> {
        let mut snapshot = store.snapshot().await?;
        let secrets = snapshot.secrets().await?;
        let totals = snapshot.totals().await?;
        Ok(Self {
            snapshot,
            secrets,
            totals,
            place: Place::Accounts(None),
        })
    }

    /// The secrets that the keys are hashed under, as far as the store knows them.
    pub fn secrets(&self) -> &[StoredPepper] {
        &self.secrets
    }

    /// How many records there will be.
    pub const fn totals(&self) -> Totals {
        self.totals
    }

    /// The next records; none at the end.
    pub async fn next(&mut self) -> Result<Vec<Record>, StoreError> {
        if let Place::Accounts(after) = self.place {
            let page = self.snapshot.accounts(after, BATCH).await?;
            if let Some(last) = page.last() {
                self.place = Place::Accounts(Some(last.id));
                return Ok(page.into_iter().map(Record::Account).collect());
            }
            self.place = Place::Keys(None);
        }
        if let Place::Keys(after) = self.place {
            let page = self.snapshot.keys(after, BATCH).await?;
            if let Some(last) = page.last() {
                self.place = Place::Keys(Some(last.id));
                return Ok(page.into_iter().map(Record::Key).collect());
            }
            self.place = Place::End;
        }
        Ok(Vec::new())
    }
}

/// What is wrong with a record, by the line it came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Fault {
    /// Where it came from.
    pub line: u64,
    /// What is wrong.
    pub what: FaultKind,
}

/// Why a record is not taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FaultKind {
    /// The store has something that it contradicts.
    Conflict(ImportConflict),
    /// An earlier line has the same of something that is unique.
    Repeats {
        /// What.
        field: &'static str,
        /// The earlier line.
        line: u64,
    },
    /// An id is the nil UUID, which no record has: the deployment's own audit trail goes by it.
    NilId {
        /// Which id.
        field: &'static str,
    },
}

impl fmt::Display for FaultKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Conflict(conflict) => conflict.fmt(f),
            Self::Repeats { field, line } => write!(f, "line {line} has the same {field}"),
            Self::NilId { field } => write!(f, "{field}: is the nil UUID, which no record has"),
        }
    }
}

/// What became of the records so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// How many were stored, or would be.
    pub stored: u64,
    /// How many were there already.
    pub present: u64,
    /// How many were not taken.
    pub refused: u64,
}

/// Takes records, checks them against one another and against the store, and stores them, or in a dry run says what would
/// come of it.
pub struct Importer<'a> {
    store: &'a dyn TransferStore,
    mode: ImportMode,
    auditor: Option<Auditor>,
    seen: Seen,
    accounts: Vec<(u64, Account)>,
    keys: Vec<(u64, ApiKey)>,
    summary: Summary,
    faults: Vec<Fault>,
}

/// What earlier lines had of what is unique, each with its line. The store is asked one batch at a time, and in a dry run it
/// does not have the earlier ones.
#[derive(Default)]
struct Seen {
    accounts: HashMap<AccountId, u64>,
    names: HashMap<AccountName, u64>,
    slugs: HashMap<Slug, u64>,
    keys: HashMap<KeyId, u64>,
    prefixes: HashMap<KeyPrefix, u64>,
    /// Accounts that would be there, were this no dry run.
    importable: HashSet<AccountId>,
}

/// Notes a value, or says which line had it before.
fn note<T: Eq + Hash>(
    seen: &mut HashMap<T, u64>,
    value: T,
    line: u64,
    field: &'static str,
) -> Result<(), FaultKind> {
    match seen.entry(value) {
        std::collections::hash_map::Entry::Occupied(earlier) => Err(FaultKind::Repeats {
            field,
            line: *earlier.get(),
        }),
        std::collections::hash_map::Entry::Vacant(place) => {
            place.insert(line);
            Ok(())
        }
    }
}

/// Nobody's id, see [`FaultKind::NilId`].
fn not_nil(id: uuid::Uuid, field: &'static str) -> Result<(), FaultKind> {
    if id.is_nil() {
        return Err(FaultKind::NilId { field });
    }
    Ok(())
}

impl Seen {
    fn account(&mut self, account: &Account, line: u64) -> Result<(), FaultKind> {
        not_nil(account.id.as_uuid(), "id")?;
        note(&mut self.accounts, account.id, line, "id")?;
        if !account.is_deleted() {
            note(&mut self.names, account.name.clone(), line, "name")?;
            note(&mut self.slugs, account.slug.clone(), line, "slug")?;
        }
        Ok(())
    }

    fn key(&mut self, key: &ApiKey, line: u64) -> Result<(), FaultKind> {
        not_nil(key.id.as_uuid(), "id")?;
        not_nil(key.account_id.as_uuid(), "account_id")?;
        note(&mut self.keys, key.id, line, "id")?;
        note(&mut self.prefixes, key.key_prefix.clone(), line, "prefix")
    }
}

impl<'a> Importer<'a> {
    /// An import into `store`. What is stored is written down by `auditor` ([`Service::import_auditor`](crate::Service));
    /// without one, nothing is: for a store in which the audit trail has not begun, because its secret is not at hand.
    pub fn new(store: &'a dyn TransferStore, mode: ImportMode, auditor: Option<Auditor>) -> Self {
        Self {
            store,
            mode,
            auditor,
            seen: Seen::default(),
            accounts: Vec::new(),
            keys: Vec::new(),
            summary: Summary::default(),
            faults: Vec::new(),
        }
    }

    /// Takes the record of a line. Keys come after their accounts. It may be stored later, with others: see
    /// [`Importer::flush`].
    pub async fn add(&mut self, line: u64, record: Record) -> Result<(), StoreError> {
        let unique = match &record {
            Record::Account(account) => self.seen.account(account, line),
            Record::Key(key) => self.seen.key(key, line),
        };
        if let Err(what) = unique {
            self.refuse(line, what);
            return Ok(());
        }
        match record {
            Record::Account(account) => self.accounts.push((line, account)),
            Record::Key(key) => self.keys.push((line, key)),
        }
        let waiting = self.accounts.len().max(self.keys.len());
        if u32::try_from(waiting).is_ok_and(|waiting| waiting < BATCH) {
            return Ok(());
        }
        self.flush().await
    }

    /// Stores what has been taken and is not stored yet. To be called at the end.
    pub async fn flush(&mut self) -> Result<(), StoreError> {
        self.flush_accounts().await?;
        self.flush_keys().await
    }

    /// What became of the records so far.
    pub const fn summary(&self) -> Summary {
        self.summary
    }

    /// What was wrong since this was asked last, by line.
    pub fn take_faults(&mut self) -> Vec<Fault> {
        std::mem::take(&mut self.faults)
    }

    async fn flush_accounts(&mut self) -> Result<(), StoreError> {
        if self.accounts.is_empty() {
            return Ok(());
        }
        let (lines, accounts): (Vec<_>, Vec<_>) = self.accounts.drain(..).unzip();
        let auditor = self.auditor.as_ref();
        let audited: Vec<_> = accounts
            .iter()
            .map(|account| Audited {
                record: account.clone(),
                entry: auditor.map(|by| by.account_made(AuditAction::AccountImported, account)),
            })
            .collect();
        let outcomes = self.store.import_accounts(&audited, self.mode).await?;
        for ((line, account), outcome) in lines.into_iter().zip(&accounts).zip(outcomes) {
            if self.count(line, outcome) {
                self.seen.importable.insert(account.id);
            }
        }
        Ok(())
    }

    async fn flush_keys(&mut self) -> Result<(), StoreError> {
        if self.keys.is_empty() {
            return Ok(());
        }
        let (lines, keys): (Vec<_>, Vec<_>) = self.keys.drain(..).unzip();
        let auditor = self.auditor.as_ref();
        let audited: Vec<_> = keys
            .iter()
            .map(|key| Audited {
                record: key.clone(),
                entry: auditor.map(|by| by.key_made(AuditAction::KeyImported, key)),
            })
            .collect();
        let outcomes = self.store.import_keys(&audited, self.mode).await?;
        for ((line, key), outcome) in lines.into_iter().zip(&keys).zip(outcomes) {
            let only_because_dry = self.mode == ImportMode::DryRun
                && outcome == ImportOutcome::Conflict(ImportConflict::AccountMissing)
                && self.seen.importable.contains(&key.account_id);
            self.count(
                line,
                if only_because_dry {
                    ImportOutcome::Stored
                } else {
                    outcome
                },
            );
        }
        Ok(())
    }

    /// Was it taken?
    fn count(&mut self, line: u64, outcome: ImportOutcome) -> bool {
        match outcome {
            ImportOutcome::Stored => self.summary.stored += 1,
            ImportOutcome::Present => self.summary.present += 1,
            ImportOutcome::Conflict(conflict) => {
                self.refuse(line, FaultKind::Conflict(conflict));
                return false;
            }
        }
        true
    }

    fn refuse(&mut self, line: u64, what: FaultKind) {
        self.summary.refused += 1;
        self.faults.push(Fault { line, what });
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use leadr_auth_domain::{KeyName, Timestamp, generate_api_key};
    use leadr_auth_memory::Memory;
    use leadr_auth_ports::Stores;

    use super::*;
    use crate::testing::Bench;

    fn account(n: u8) -> Account {
        Account::new(
            AccountId::from_random_bytes([n; 16]),
            AccountName::parse(&format!("Account {n}")).unwrap(),
            Slug::parse(&format!("account-{n}")).unwrap(),
            leadr_auth_domain::AccountRole::Tenant,
            Bench::later(0),
        )
    }

    fn key(n: u16, owner: &Account) -> ApiKey {
        let [high, low] = n.to_be_bytes();
        let mut bytes = [7; 32];
        bytes[0] = high;
        bytes[1] = low;
        let plain = generate_api_key(bytes);
        let mut id = [7; 16];
        id[0] = high;
        id[1] = low;
        ApiKey::new(
            KeyId::from_random_bytes(id),
            owner.id,
            KeyName::parse("Key").unwrap(),
            Bench::keyring().hash(&plain),
            plain.prefix(),
            None,
            Bench::later(0),
        )
    }

    async fn run(stores: &Stores, mode: ImportMode, records: Vec<Record>) -> (Summary, Vec<Fault>) {
        let mut importer = Importer::new(stores.transfer.as_ref(), mode, None);
        for (n, record) in records.into_iter().enumerate() {
            importer
                .add(u64::try_from(n).unwrap() + 1, record)
                .await
                .unwrap();
        }
        importer.flush().await.unwrap();
        (importer.summary(), importer.take_faults())
    }

    async fn exported(stores: &Stores) -> Vec<String> {
        let mut exporter = Exporter::new(stores.transfer.as_ref()).await.unwrap();
        let mut all = Vec::new();
        loop {
            let page = exporter.next().await.unwrap();
            if page.is_empty() {
                return all;
            }
            all.extend(page.iter().map(|record| format!("{record:?}")));
        }
    }

    /// More than a batch of each, so that pages and batches have seams.
    #[tokio::test]
    async fn what_goes_out_comes_in_unchanged_and_once() {
        let mut owner = account(1);
        owner.soft_delete(Timestamp::MAX);
        let mut records = vec![Record::Account(owner.clone()), Record::Account(account(2))];
        records.extend((0..2300).map(|n| Record::Key(key(n, &owner))));
        let first = Memory::new().stores();
        let (summary, faults) = run(&first, ImportMode::Commit, records.clone()).await;
        assert_eq!(
            (summary.stored, summary.present, faults.len()),
            (2302, 0, 0)
        );
        let second = Memory::new().stores();
        let again: Vec<_> = {
            let mut exporter = Exporter::new(first.transfer.as_ref()).await.unwrap();
            assert_eq!(
                exporter.totals(),
                Totals {
                    accounts: 2,
                    keys: 2300
                }
            );
            let mut all = Vec::new();
            loop {
                let page = exporter.next().await.unwrap();
                if page.is_empty() {
                    break all;
                }
                all.extend(page);
            }
        };
        // Cut short after half of it, and repeated whole.
        run(&second, ImportMode::Commit, again[..1500].to_vec()).await;
        let (summary, faults) = run(&second, ImportMode::Commit, again).await;
        assert_eq!(
            (summary.stored, summary.present, faults.len()),
            (802, 1500, 0)
        );
        assert_eq!(exported(&first).await, exported(&second).await);
    }

    #[tokio::test]
    async fn a_dry_run_foresees_what_a_run_does() {
        let owner = account(1);
        let stranger = account(9);
        let mut twin = account(2);
        twin.slug = owner.slug.clone();
        let mut clash = key(3, &owner);
        clash.key_prefix = key(2, &owner).key_prefix;
        let records = vec![
            Record::Account(owner.clone()),
            Record::Account(twin),
            Record::Key(key(1, &stranger)),
            Record::Key(key(2, &owner)),
            Record::Key(clash),
            Record::Key(key(2, &owner)),
        ];
        let stores = Memory::new().stores();
        let expected = [
            (
                2,
                FaultKind::Repeats {
                    field: "slug",
                    line: 1,
                },
            ),
            (
                5,
                FaultKind::Repeats {
                    field: "prefix",
                    line: 4,
                },
            ),
            (
                6,
                FaultKind::Repeats {
                    field: "id",
                    line: 4,
                },
            ),
            (3, FaultKind::Conflict(ImportConflict::AccountMissing)),
        ]
        .map(|(line, what)| Fault { line, what });
        for mode in [ImportMode::DryRun, ImportMode::DryRun, ImportMode::Commit] {
            assert_eq!(exported(&stores).await.len(), 0);
            let (summary, faults) = run(&stores, mode, records.clone()).await;
            assert_eq!((summary.stored, summary.refused), (2, 4));
            assert_eq!(faults, expected);
        }
        assert_eq!(exported(&stores).await.len(), 2);
    }

    /// The deployment's own trail goes by it: an account that had it would read that trail as its own.
    #[tokio::test]
    async fn nobody_has_the_nil_id() {
        let nil = uuid::Uuid::nil();
        let owner = account(1);
        let mut nobody = account(2);
        nobody.id = AccountId::new(nil);
        let mut nameless = key(1, &owner);
        nameless.id = KeyId::new(nil);
        let records = vec![
            Record::Account(owner.clone()),
            Record::Account(nobody.clone()),
            Record::Key(nameless),
            Record::Key(key(2, &nobody)),
            Record::Key(key(3, &owner)),
        ];
        let expected = [(2, "id"), (3, "id"), (4, "account_id")].map(|(line, field)| Fault {
            line,
            what: FaultKind::NilId { field },
        });
        let stores = Memory::new().stores();
        for mode in [ImportMode::DryRun, ImportMode::Commit] {
            let (summary, faults) = run(&stores, mode, records.clone()).await;
            assert_eq!((summary.stored, summary.refused), (2, 3));
            assert_eq!(faults, expected);
        }
    }

    #[tokio::test]
    async fn a_store_that_fails_ends_it() {
        let mut store = leadr_auth_ports::MockTransferStore::new();
        store
            .expect_import_accounts()
            .returning(|_, _| Err(StoreError::unavailable("away")));
        let store: Arc<dyn TransferStore> = Arc::new(store);
        let mut importer = Importer::new(store.as_ref(), ImportMode::Commit, None);
        importer.add(1, Record::Account(account(1))).await.unwrap();
        assert!(importer.flush().await.is_err());
    }
}
