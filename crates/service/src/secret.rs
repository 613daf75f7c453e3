//! Whether the server's secrets are those that the stored keys are hashed under, and changing them.
//!
//! A process with another secret would tell every owner of a good key that it is not valid. So the store remembers a value
//! by which each secret is recognised, and a process compares before it refuses anybody.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use leadr_auth_domain::{
    AuditAction, AuditKey, Keyring, OperatorAccess, Origin, Pepper, PepperId, PlainKey, Timestamp,
};
use leadr_auth_ports::{DropPepperError, StoredPepper};

use crate::{Auditor, EnsureOperatorError, OperatorState, Service, StoreError};

/// Why the secrets are not known to be the right ones.
#[derive(Debug)]
pub enum SecretError {
    /// The stored keys are hashed under another secret with this id.
    Mismatch(PepperId),
    /// Stored keys may be hashed under the secret with this id, which is not in the keyring.
    Missing(PepperId),
    /// The current secret was dropped before.
    Dropped(PepperId),
    /// The store did not say.
    Store(StoreError),
}

/// Why the store is not ready to be served from.
#[derive(Debug)]
pub enum PrepareError {
    /// The server's secret is wrong, or nobody knows.
    Secret(SecretError),
    /// There is no operator.
    Operator(EnsureOperatorError),
}

impl PrepareError {
    /// May the same call succeed later?
    pub const fn is_retryable(&self) -> bool {
        match self {
            Self::Secret(SecretError::Store(error))
            | Self::Operator(EnsureOperatorError::Store(error)) => error.is_retryable(),
            Self::Secret(_) | Self::Operator(_) => false,
        }
    }
}

impl fmt::Display for SecretError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Where there is one secret only, its id says nothing to anybody.
        let named = |id: &PepperId| match id.as_str() {
            PepperId::DEFAULT => String::new(),
            id => format!(" {id}"),
        };
        match self {
            Self::Mismatch(id) => write!(
                f,
                "the server secret{} is not the one that the stored keys are hashed under; with this one no stored key works",
                named(id)
            ),
            Self::Missing(id) => write!(
                f,
                "stored keys may be hashed under the server secret {id}, which is not in the keyring: put it there as a \
                 retired one (into the keyring file, or API_KEY_SECRETS_RETIRED); there it can also be given up, by \
                 `leadr-auth pepper drop {id}`, when no key depends on it"
            ),
            Self::Dropped(id) => write!(
                f,
                "the server secret {id} was dropped, and cannot be the current one again: give the current one another id"
            ),
            Self::Store(_) => {
                f.write_str("the server secret could not be compared with the store's")
            }
        }
    }
}

impl std::error::Error for SecretError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Mismatch(_) | Self::Missing(_) | Self::Dropped(_) => None,
            Self::Store(source) => Some(source),
        }
    }
}

impl fmt::Display for PrepareError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Secret(SecretError::Store(_)) => "the store did not answer",
            Self::Secret(_) => "the server secret does not fit the store",
            Self::Operator(_) => "there is no operator",
        })
    }
}

impl std::error::Error for PrepareError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Secret(source) => Some(source),
            Self::Operator(source) => Some(source),
        }
    }
}

impl From<StoreError> for SecretError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<SecretError> for PrepareError {
    fn from(error: SecretError) -> Self {
        Self::Secret(error)
    }
}

impl From<EnsureOperatorError> for PrepareError {
    fn from(error: EnsureOperatorError) -> Self {
        Self::Operator(error)
    }
}

/// What a secret is to this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PepperRole {
    /// Keys are hashed under it.
    Current,
    /// Keys that are hashed under it are moved to the current one when they are used.
    Retired,
    /// It is not in the keyring.
    NotConfigured,
}

/// How it stands with a secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PepperStatus {
    /// Its id.
    pub id: PepperId,
    /// What it is to this process.
    pub role: PepperRole,
    /// Does the store know it?
    pub registered: bool,
    /// When it was dropped; `None` if it was not.
    pub dropped_at: Option<Timestamp>,
    /// How many keys depend on it: those that work or could work again.
    pub keys: u64,
}

/// Why a secret was not dropped.
#[derive(Debug)]
pub enum DropError {
    /// It is this process's current one.
    Current,
    /// The audit trail's key could not be put under the current secret, and might be lost with this one.
    Secret(SecretError),
    /// The store refused, or failed.
    Refused(DropPepperError),
}

impl fmt::Display for DropError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Current => "it is the current secret: make another one the current one first",
            Self::Secret(_) => "the keyring does not fit the store",
            Self::Refused(_) => "the secret was not dropped",
        })
    }
}

impl std::error::Error for DropError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Current => None,
            Self::Secret(source) => Some(source),
            Self::Refused(source) => Some(source),
        }
    }
}

impl Service {
    /// What a server needs before it is ready: the right secret and an operator, see [`Service::ensure_operator`]. May be
    /// called by several nodes at once, and again at every start.
    ///
    /// A configured key which was stored under another secret is noticed before one is registered: that is all there is to
    /// go by in a database of the reference implementation.
    pub async fn prepare(
        &self,
        configured: Option<&PlainKey>,
    ) -> Result<OperatorState, PrepareError> {
        self.check_secret().await?;
        if let Some(key) = configured {
            self.check_configured(key).await?;
        }
        self.ensure_secret().await?;
        Ok(self.ensure_operator(configured).await?)
    }

    /// Compares the secrets with those that are registered, if any are. Changes nothing.
    pub async fn check_secret(&self) -> Result<(), SecretError> {
        let registered = self.stores.secrets.registered().await?;
        all_fit(&self.keyring(), &registered)
    }

    /// Registers the secrets that are not registered yet, and compares them with those that are. Whoever stores a key's hash
    /// without having called [`Service::prepare`] calls this first.
    pub async fn ensure_secret(&self) -> Result<(), SecretError> {
        self.register(&self.keyring()).await?;
        self.secrets_are_proven.store(true, Ordering::Release);
        Ok(())
    }

    /// Takes other secrets from now on, once they are known to be right; else those so far stay.
    pub async fn replace_keyring(&self, ring: Keyring) -> Result<(), SecretError> {
        self.register(&ring).await?;
        let mut place = self.keyring.write().unwrap_or_else(PoisonError::into_inner);
        *place = Arc::new(ring);
        self.rehasher.start_over();
        Ok(())
    }

    /// Compares, and registers what is not registered yet, each with the key of the audit trail; where there is none, makes
    /// it. Compares again, since somebody else may have registered others meanwhile.
    async fn register(&self, ring: &Keyring) -> Result<(), SecretError> {
        let mut registered = self.stores.secrets.registered().await?;
        all_fit(ring, &registered)?;
        let known = sealed_audit_key(ring, &registered)?;
        let key = if let Some(key) = known {
            key
        } else {
            let key = AuditKey::new(self.random().map_err(StoreError::internal)?);
            let (id, pepper) = (ring.current_id(), ring.current());
            registered = self.register_one(&key, id, pepper, true).await?;
            // Somebody else may have been first.
            sealed_audit_key(ring, &registered)?
                .ok_or_else(|| StoreError::internal("the key of the audit trail was not stored"))?
        };
        for (id, pepper) in ring.iter() {
            if !registered.iter().any(|stored| is_complete(stored, id)) {
                registered = self.register_one(&key, id, pepper, false).await?;
            }
        }
        all_fit(ring, &registered)?;
        self.set_audit_key(key);
        Ok(())
    }

    async fn register_one(
        &self,
        key: &AuditKey,
        id: &PepperId,
        pepper: &Pepper,
        founding: bool,
    ) -> Result<Vec<StoredPepper>, StoreError> {
        let nonce = self.random().map_err(StoreError::internal)?;
        let sealed = pepper
            .seal_audit_key(key, nonce)
            .ok_or_else(|| StoreError::internal("the key of the audit trail cannot be sealed"))?;
        let auditor = Auditor::new(key.clone(), self.clock.now(), Origin::SERVER);
        let facts = [("secret_id", id.as_str().into())];
        let entry = auditor.system(AuditAction::PepperRegistered, facts);
        let pepper = StoredPepper::new(id.clone(), pepper.check(), sealed);
        self.stores
            .secrets
            .register(&pepper, founding, &entry)
            .await
    }

    /// Puts the key of the audit trail under the current secret, if it is not yet, as a server's start does: then another one
    /// can be given up. It is no harm that secrets are not in the ring, as long as the key can be read without them.
    async fn keep_audit_key(
        &self,
        ring: &Keyring,
        registered: &[StoredPepper],
    ) -> Result<(), SecretError> {
        let missing = fit_but_for_missing(ring, registered)?;
        let key = match (sealed_audit_key(ring, registered), missing) {
            (Ok(Some(key)), _) => key,
            (Ok(None), _) => return self.register(ring).await,
            (Err(_), Some(id)) => return Err(SecretError::Missing(id.clone())),
            (Err(error), _) => return Err(error.into()),
        };
        let id = ring.current_id();
        if !registered.iter().any(|stored| is_complete(stored, id)) {
            let there = self.register_one(&key, id, ring.current(), false).await?;
            fit_but_for_missing(ring, &there)?;
        }
        self.set_audit_key(key);
        Ok(())
    }

    /// How it stands with each secret that is in the keyring, registered, or depended on, in the order of their ids.
    pub async fn pepper_status(&self) -> Result<Vec<PepperStatus>, StoreError> {
        let ring = self.keyring();
        let registered = self.stores.secrets.registered().await?;
        let counts = self.stores.secrets.count_keys(self.clock.now()).await?;
        let mut ids: Vec<_> = ring.iter().map(|(id, _)| id.clone()).collect();
        ids.extend(registered.iter().map(|pepper| pepper.id.clone()));
        ids.extend(counts.iter().map(|count| count.id.clone()));
        ids.sort();
        ids.dedup();
        let status = |id: PepperId| {
            let known = registered.iter().find(|pepper| pepper.id == id);
            let count = counts.iter().find(|count| count.id == id);
            PepperStatus {
                role: if id == *ring.current_id() {
                    PepperRole::Current
                } else if ring.get(&id).is_some() {
                    PepperRole::Retired
                } else {
                    PepperRole::NotConfigured
                },
                registered: known.is_some(),
                dropped_at: known.and_then(|pepper| pepper.dropped_at),
                keys: count.map_or(0, |count| count.keys),
                id,
            }
        };
        Ok(ids.into_iter().map(status).collect())
    }

    /// Gives up a secret on which no key depends any more. From then on no key can be hashed under it, on any node. The
    /// current one is registered first, if it is not yet, so that the audit trail's key can be read by it from then on.
    ///
    /// Other secrets need not be in the keyring: to give up one is a way out of that. But what is there has to be the
    /// store's, and the trail's key has to be readable with some secret of it.
    pub async fn drop_pepper(
        &self,
        operator: &OperatorAccess,
        id: &PepperId,
    ) -> Result<(), DropError> {
        let ring = self.keyring();
        if id == ring.current_id() {
            return Err(DropError::Current);
        }
        let registered = self.stores.secrets.registered().await;
        let registered = registered.map_err(|error| DropError::Refused(error.into()))?;
        if !registered.iter().any(|stored| stored.id == *id) {
            return Err(DropError::Refused(DropPepperError::NotRegistered));
        }
        self.keep_audit_key(&ring, &registered)
            .await
            .map_err(DropError::Secret)?;
        let now = self.clock.now();
        let auditor = self.auditor(&operator.principal().origin, now).await;
        let auditor = auditor.map_err(|error| DropError::Refused(error.into()))?;
        let facts = [("secret_id", id.as_str().into())];
        let entry = auditor.system(AuditAction::PepperDropped, facts);
        self.stores
            .secrets
            .drop_pepper(id, now, &entry)
            .await
            .map_err(DropError::Refused)
    }

    /// May a key be refused because its hash differs? Not before the secrets are known to be right.
    pub(crate) fn may_refuse_hashes(&self) -> Result<(), StoreError> {
        if self.secrets_are_proven.load(Ordering::Acquire) {
            return Ok(());
        }
        Err(StoreError::unavailable(
            "the server secret has not been compared with the store's yet",
        ))
    }

    /// May a key be refused because the secret that it is hashed under is not in the keyring? Only if that was dropped:
    /// another node may have been given it already, and this one not yet.
    pub(crate) async fn may_refuse_keys_under(&self, id: &PepperId) -> Result<(), StoreError> {
        self.may_refuse_hashes()?;
        let registered = self.stores.secrets.registered().await?;
        let is_dropped = |pepper: &StoredPepper| pepper.id == *id && pepper.dropped_at.is_some();
        if registered.iter().any(is_dropped) {
            return Ok(());
        }
        Err(StoreError::unavailable(format!(
            "the server secret {id}, under which a key is hashed, is not in the keyring"
        )))
    }

    /// Somebody dropped the secret that this process still takes for the current one.
    pub(crate) fn current_was_dropped(&self) -> StoreError {
        let ring = self.keyring();
        StoreError::unavailable(format!(
            "the server secret {} was dropped, and no key is stored under it: this process has to be given the new keyring",
            ring.current_id()
        ))
    }
}

/// The key of the audit trail, if the store has one: read by any secret of the ring that it is encrypted under.
pub(crate) fn sealed_audit_key(
    ring: &Keyring,
    registered: &[StoredPepper],
) -> Result<Option<AuditKey>, StoreError> {
    let sealed = || {
        let sealed = registered.iter();
        sealed.filter_map(|stored| Some((&stored.id, stored.audit_key.as_ref()?)))
    };
    if sealed().next().is_none() {
        return Ok(None);
    }
    let opened = sealed().find_map(|(id, sealed)| ring.get(id)?.open_audit_key(sealed));
    match opened {
        Some(key) => Ok(Some(key)),
        None => Err(StoreError::internal(
            "the key of the audit trail cannot be read with any secret of the keyring",
        )),
    }
}

/// Is this the registered secret with the id, and is there nothing to be added to it?
fn is_complete(stored: &StoredPepper, id: &PepperId) -> bool {
    stored.id == *id && (stored.audit_key.is_some() || stored.dropped_at.is_some())
}

/// As [`all_fit`], where it is no harm that secrets are missing. Answers the first that is.
fn fit_but_for_missing<'a>(
    ring: &Keyring,
    registered: &'a [StoredPepper],
) -> Result<Option<&'a PepperId>, SecretError> {
    let mut missing = None;
    for stored in registered {
        match fits(ring, stored) {
            Err(SecretError::Missing(_)) => missing = missing.or(Some(&stored.id)),
            fit => fit?,
        }
    }
    Ok(missing)
}

/// Is each secret that keys may be hashed under in the ring, and the same?
fn all_fit(ring: &Keyring, registered: &[StoredPepper]) -> Result<(), SecretError> {
    registered.iter().try_for_each(|stored| fits(ring, stored))
}

/// Is what is registered the same as in the ring, where it has to be there?
fn fits(ring: &Keyring, registered: &StoredPepper) -> Result<(), SecretError> {
    let id = &registered.id;
    if registered.dropped_at.is_some() {
        return if id == ring.current_id() {
            Err(SecretError::Dropped(id.clone()))
        } else {
            Ok(())
        };
    }
    match ring.get(id) {
        None => Err(SecretError::Missing(id.clone())),
        Some(pepper) if !pepper.matches(&registered.check) => {
            Err(SecretError::Mismatch(id.clone()))
        }
        Some(_) => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use leadr_auth_domain::generate_api_key;

    use super::*;
    use crate::testing::{Bench, only_new, rotated, service_on};
    use crate::{Authentication, Service};

    /// The same store, another secret, as after a restart with a wrong configuration.
    fn with_another_secret(service: &Service) -> Service {
        let another = Pepper::new("another secret, of 32 bytes or so").unwrap();
        service_on(service, another)
    }

    #[tokio::test]
    async fn the_first_secret_is_the_right_one() {
        let bench = Bench::new().await;
        let wrong = with_another_secret(&bench.service);
        for error in [
            wrong.prepare(None).await.map(drop).unwrap_err(),
            wrong.ensure_secret().await.unwrap_err().into(),
            wrong.check_secret().await.unwrap_err().into(),
        ] {
            assert!(matches!(
                error,
                PrepareError::Secret(SecretError::Mismatch(_))
            ));
            assert!(!error.is_retryable());
        }
        bench.service.check_secret().await.unwrap();
        bench.service.prepare(None).await.unwrap();
    }

    #[tokio::test]
    async fn a_wrong_secret_refuses_no_key() {
        let bench = Bench::new().await;
        let issued = bench.issue("Good").await;
        let wrong = with_another_secret(&bench.service);
        let _ = wrong.prepare(None).await.unwrap_err();
        assert!(wrong.authenticate(&issued.plain_key).await.is_err());
        // A key that nobody has is refused under any secret.
        let stranger = generate_api_key([77; 32]);
        assert!(matches!(
            wrong.authenticate(&stranger).await.unwrap(),
            Authentication::Refused(_)
        ));
    }

    /// A database of the reference implementation has no registered secret; the configured key tells.
    #[tokio::test]
    async fn a_configured_key_under_another_secret_registers_nothing() {
        let service = Bench::empty();
        let key = generate_api_key([42; 32]);
        service.ensure_operator(Some(&key)).await.unwrap();
        let wrong = with_another_secret(&service);
        assert!(matches!(
            wrong.prepare(Some(&key)).await,
            Err(PrepareError::Operator(EnsureOperatorError::KeyMismatch))
        ));
        assert!(
            service
                .stores
                .secrets
                .registered()
                .await
                .unwrap()
                .is_empty()
        );
        service.prepare(Some(&key)).await.unwrap();
    }

    #[tokio::test]
    async fn a_secret_that_keys_may_need_is_not_left_out() {
        let bench = Bench::new().await;
        let service = &bench.service;
        let default = PepperId::default();
        let missing = service.replace_keyring(only_new()).await;
        assert!(matches!(missing, Err(SecretError::Missing(id)) if id == default));
        service.replace_keyring(rotated()).await.unwrap();
        let operator = Bench::operator();
        let refused = service.drop_pepper(&operator, &default).await;
        assert!(
            matches!(
                &refused,
                Err(DropError::Refused(DropPepperError::InUse { count: 1, .. }))
            ),
            "the operator's key depends on it: {refused:?}"
        );
        let new = PepperId::parse("new").unwrap();
        let current = service.drop_pepper(&operator, &new).await;
        assert!(matches!(current, Err(DropError::Current)));
        for key in bench.all_keys().await {
            service.delete_key(&Bench::all(), key.id).await.unwrap();
        }
        service.drop_pepper(&operator, &default).await.unwrap();
        service.replace_keyring(rotated()).await.unwrap();
        service.replace_keyring(only_new()).await.unwrap();
        let back = service.replace_keyring(Bench::keyring()).await;
        assert!(matches!(back, Err(SecretError::Dropped(id)) if id == default));
        let restarted = service_on(service, Bench::keyring());
        let _ = restarted.check_secret().await.unwrap_err();
    }

    /// With a keyring in which the current secret is new, and no server that was started with it.
    #[tokio::test]
    async fn a_secret_is_dropped_before_a_server_knows_the_new_one_and_the_trail_is_still_read() {
        let bench = Bench::new().await;
        for key in bench.all_keys().await {
            let deleted = bench.service.delete_key(&Bench::all(), key.id).await;
            deleted.unwrap();
        }
        let (operator, default) = (Bench::operator(), PepperId::default());
        let registered = async || bench.service.stores.secrets.registered().await.unwrap();
        // Without the old one there is nothing to read the trail's key with, nor when it is another's.
        let refused = service_on(&bench.service, only_new());
        let refused = refused.drop_pepper(&operator, &default).await;
        assert!(
            matches!(&refused, Err(DropError::Secret(SecretError::Missing(id))) if *id == default),
            "{refused:?}"
        );
        let new = PepperId::parse("new").unwrap();
        let secrets = [
            (default.clone(), "another secret, of 32 bytes or so"),
            (new.clone(), "a new secret, of 32 bytes or so, too"),
        ];
        let wrong = service_on(&bench.service, Keyring::new(&new, secrets).unwrap());
        let refused = wrong.drop_pepper(&operator, &default).await;
        assert!(
            matches!(&refused, Err(DropError::Secret(SecretError::Mismatch(id))) if *id == default),
            "{refused:?}"
        );
        let tool = service_on(&bench.service, rotated());
        let nobody = PepperId::parse("nobody").unwrap();
        let unknown = tool.drop_pepper(&operator, &nobody);
        assert!(matches!(
            unknown.await,
            Err(DropError::Refused(DropPepperError::NotRegistered))
        ));
        assert_eq!(
            registered().await.len(),
            1,
            "who is refused changes nothing"
        );

        tool.drop_pepper(&operator, &default).await.unwrap();
        tool.drop_pepper(&operator, &default).await.unwrap();
        // A server that still has the old one does not bring it back.
        let with_both = service_on(&bench.service, rotated());
        with_both.prepare(None).await.unwrap();
        let with_key: Vec<_> = registered()
            .await
            .iter()
            .map(|pepper| pepper.audit_key.is_some())
            .collect();
        assert_eq!(with_key, [false, true]);
        let restarted = service_on(&bench.service, only_new());
        restarted.prepare(None).await.unwrap();
        let report = restarted.verify_audit(&operator).await.unwrap();
        assert_eq!(report.faults, []);
        // A keyring that is behind cannot give up the last one.
        let behind = service_on(&bench.service, Bench::keyring());
        let refused = behind.drop_pepper(&operator, &new).await;
        assert!(
            matches!(&refused, Err(DropError::Secret(SecretError::Dropped(id))) if *id == default),
            "{refused:?}"
        );
    }

    /// As after an upgrade from before there was a trail.
    #[tokio::test]
    async fn where_there_is_no_trail_yet_a_drop_takes_all_secrets_and_begins_one() {
        let service = Bench::unprepared();
        let default = PepperId::default();
        let keyless = StoredPepper {
            id: default.clone(),
            check: Bench::keyring().current().check(),
            audit_key: None,
            dropped_at: None,
        };
        let noted = leadr_auth_ports::Audited::unchanged(keyless);
        let imported = service.stores.transfer.import_secrets(&[noted]).await;
        imported.unwrap();
        let operator = Bench::operator();
        let tool = service_on(&service, only_new());
        let refused = tool.drop_pepper(&operator, &default).await;
        assert!(
            matches!(&refused, Err(DropError::Secret(SecretError::Missing(id))) if *id == default),
            "{refused:?}"
        );
        let tool = service_on(&service, rotated());
        tool.drop_pepper(&operator, &default).await.unwrap();
        let restarted = service_on(&service, only_new());
        let report = restarted.verify_audit(&operator).await.unwrap();
        assert_eq!(report.faults, []);
    }

    #[tokio::test]
    async fn nobody_issues_under_a_secret_that_was_dropped() {
        let bench = Bench::new().await;
        // A node that was not told of the new keyring.
        let behind = service_on(&bench.service, Bench::keyring());
        behind.ensure_secret().await.unwrap();
        bench.service.replace_keyring(rotated()).await.unwrap();
        for key in bench.all_keys().await {
            bench
                .service
                .delete_key(&Bench::all(), key.id)
                .await
                .unwrap();
        }
        let default = PepperId::default();
        bench
            .service
            .drop_pepper(&Bench::operator(), &default)
            .await
            .unwrap();
        let new = crate::NewKey::named(leadr_auth_domain::KeyName::parse("Late").unwrap());
        let late = behind.issue_key(&Bench::all(), bench.tenant.id, new).await;
        assert!(matches!(
            late,
            Err(crate::IssueKeyError::Store(StoreError::Unavailable(_)))
        ));
        assert!(behind.check_secret().await.is_err());
    }
}
