//! Look at keys and change them.
//!
//! A key that the caller does not reach is not there: reads and changes answer for it as for an id that nobody has.

use std::fmt;

use leadr_auth_domain::{
    Access, AccountId, ApiKey, ApiKeyStatus, ForeignAccount, KeyChange, KeyId, KeyName, KeyPrefix,
    KeyRefusal, Principal, ScopeNotHeld, Timestamp,
};
use leadr_auth_ports::listing::{Page, Sort};
use leadr_auth_ports::{KeyFilter, KeyQuery, KeyUse, Rows, UpdateKeyError};

use crate::{Service, StoreError};

/// Why a key was not given or not changed.
#[derive(Debug)]
pub enum KeyError {
    /// There is no such key for this caller: none with the id, or a deleted one, or another account's.
    NotFound,
    /// The caller named another account; whether it exists is not said.
    ForeignAccount(ForeignAccount),
    /// The key was to have a scope that the caller does not hold, or was to be brought back with one.
    ScopeNotHeld(ScopeNotHeld),
    /// The key is in another state than the change was for.
    Changed,
    /// The key was to be restored, and the account has as many live keys as it may have.
    LimitReached,
    /// The key was to be restored, and the server secret that it is hashed under was dropped: it could never be used.
    PepperDropped,
    /// The store did not do it.
    Store(StoreError),
}

impl fmt::Display for KeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NotFound => "there is no such key",
            Self::ForeignAccount(_) => "the account is not the caller's",
            Self::ScopeNotHeld(_) => "a scope is not the caller's to give",
            Self::Changed => "the key has changed since it was seen",
            Self::LimitReached => "the account has as many keys as it may have",
            Self::PepperDropped => {
                "the server secret that the key is hashed under was dropped: the key could never be used, and is not restored"
            }
            Self::Store(_) => "the key could not be read or changed",
        })
    }
}

impl std::error::Error for KeyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::NotFound
            | Self::ForeignAccount(_)
            | Self::ScopeNotHeld(_)
            | Self::Changed
            | Self::LimitReached
            | Self::PepperDropped => None,
            Self::Store(source) => Some(source),
        }
    }
}

impl From<StoreError> for KeyError {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<ForeignAccount> for KeyError {
    fn from(foreign: ForeignAccount) -> Self {
        Self::ForeignAccount(foreign)
    }
}

impl From<ScopeNotHeld> for KeyError {
    fn from(missing: ScopeNotHeld) -> Self {
        Self::ScopeNotHeld(missing)
    }
}

impl From<UpdateKeyError> for KeyError {
    fn from(error: UpdateKeyError) -> Self {
        match error {
            UpdateKeyError::NotFound
            | UpdateKeyError::Refused(KeyRefusal::Deleted | KeyRefusal::OutOfReach) => {
                Self::NotFound
            }
            UpdateKeyError::Refused(KeyRefusal::ScopeNotHeld(missing)) => {
                Self::ScopeNotHeld(missing)
            }
            UpdateKeyError::Refused(KeyRefusal::Changed) => Self::Changed,
            UpdateKeyError::LimitReached => Self::LimitReached,
            UpdateKeyError::PepperDropped => Self::PepperDropped,
            UpdateKeyError::Store(error) => Self::Store(error),
        }
    }
}

impl Service {
    /// The live key with this id, if the caller reaches one.
    pub async fn find_key(&self, access: Access, id: KeyId) -> Result<Option<ApiKey>, StoreError> {
        let key = self.stores.keys.get(id, Rows::Live).await?;
        Ok(key
            .filter(|key| access.reaches_key(key))
            .map(|key| self.usage.overlay(key)))
    }

    /// The key with this lookup prefix, deleted or not, if the caller reaches one: what is left of a key that was found
    /// in a log.
    pub async fn key_by_prefix(
        &self,
        access: Access,
        prefix: &KeyPrefix,
    ) -> Result<ApiKey, KeyError> {
        let record = self.stores.lookup.find(prefix).await?;
        let key = record.map(|record| record.key);
        key.filter(|key| access.reaches_key(key))
            .map(|key| self.usage.overlay(key))
            .ok_or(KeyError::NotFound)
    }

    /// The live key with this id, or [`KeyError::NotFound`].
    pub async fn key(&self, access: Access, id: KeyId) -> Result<ApiKey, KeyError> {
        self.find_key(access, id).await?.ok_or(KeyError::NotFound)
    }

    /// A page of an account's keys. It may be shorter than was asked for and not be the last: that one says so. An account that
    /// does not exist has no keys.
    ///
    /// What is asked of a key's last use goes by what is stored; of these keys, none is on the page of which this node knows better.
    pub async fn page_of_keys(
        &self,
        access: Access,
        query: &KeyQuery,
    ) -> Result<Page<ApiKey, Sort<KeyId>>, KeyError> {
        access.resolve(Some(query.filter.account_id))?;
        let Page { rows, next } = self.stores.keys.page(query).await?;
        let rows = rows.into_iter().map(|key| self.usage.overlay(key));
        Ok(Page {
            rows: rows.filter(|key| query.filter.matches(key)).collect(),
            next,
        })
    }

    /// The live keys that pass the filter, newest first. An account that does not exist has none.
    pub async fn list_keys(
        &self,
        access: Access,
        filter: KeyFilter,
    ) -> Result<Vec<ApiKey>, KeyError> {
        access.resolve(Some(filter.account_id))?;
        let keys = self.stores.keys.list(filter).await?;
        Ok(keys
            .into_iter()
            .map(|key| self.usage.overlay(key))
            .collect())
    }

    /// All live keys of an account, or those that are not revoked.
    pub async fn list_account_keys(
        &self,
        access: Access,
        account_id: AccountId,
        active_only: bool,
    ) -> Result<Vec<ApiKey>, KeyError> {
        self.list_keys(
            access,
            KeyFilter {
                active_only,
                ..KeyFilter::of(account_id)
            },
        )
        .await
    }

    /// How many live keys of an account are not revoked.
    pub async fn count_active_keys(
        &self,
        access: Access,
        account_id: AccountId,
    ) -> Result<u64, KeyError> {
        access.resolve(Some(account_id))?;
        Ok(self.stores.keys.count_active(account_id).await?)
    }

    /// Applies all of `change` to a key, or nothing. Scopes that it gives have to be the caller's own, and so have those of a
    /// key that it reactivates or restores; a wider key may be stopped, deleted and renamed, since an emergency must not wait
    /// for a key that holds more. The answer is the key as changed; one that the change deletes, as it was before that.
    pub async fn update_key(
        &self,
        by: &Principal,
        id: KeyId,
        change: &KeyChange,
    ) -> Result<ApiKey, KeyError> {
        if let Some(scopes) = &change.scopes {
            by.may_give(scopes)?;
        }
        let access = by.access;
        if let Access::Account(_) = access {
            // What is another's is not as much as locked: that would take another time than an id that nobody has, and hold up
            // whoever may change it.
            let found = self.stores.keys.get(id, Rows::WithDeleted).await?;
            if !found.is_some_and(|key| access.reaches_key(&key)) {
                return Err(KeyError::NotFound);
            }
        }
        let now = self.clock.now();
        let auditor = self.auditor(&by.origin, now).await?;
        let mut shown = None;
        self.stores
            .keys
            .update(id, &mut |key| {
                if !access.reaches_key(&key) {
                    return Err(KeyRefusal::OutOfReach);
                }
                let before = key.clone();
                let (as_shown, stored) = key.apply(change, now)?;
                if stored.is_brought_back(&before) {
                    by.may_give(&stored.scopes)
                        .map_err(KeyRefusal::ScopeNotHeld)?;
                }
                shown = Some(as_shown);
                Ok(auditor.key_changed(&before, stored))
            })
            .await?;
        let shown = shown.ok_or_else(|| StoreError::internal("a change was not applied"))?;
        Ok(self.usage.overlay(shown))
    }

    /// Sets a key's status.
    pub async fn set_key_status(
        &self,
        by: &Principal,
        id: KeyId,
        status: ApiKeyStatus,
    ) -> Result<ApiKey, KeyError> {
        let change = KeyChange {
            status: Some(status),
            ..KeyChange::default()
        };
        self.update_key(by, id, &change).await
    }

    /// Stops a key. One that is revoked stays as it is.
    pub async fn revoke_key(&self, by: &Principal, id: KeyId) -> Result<ApiKey, KeyError> {
        self.set_key_status(by, id, ApiKeyStatus::Revoked).await
    }

    /// Lets a revoked key work again.
    pub async fn reactivate_key(&self, by: &Principal, id: KeyId) -> Result<ApiKey, KeyError> {
        self.set_key_status(by, id, ApiKeyStatus::Active).await
    }

    /// Gives a key another name.
    pub async fn rename_key(
        &self,
        by: &Principal,
        id: KeyId,
        name: KeyName,
    ) -> Result<ApiKey, KeyError> {
        let change = KeyChange {
            name: Some(name),
            ..KeyChange::default()
        };
        self.update_key(by, id, &change).await
    }

    /// Soft-deletes a key and answers it as it was. The reference calls it `soft_delete`.
    pub async fn soft_delete_key(&self, by: &Principal, id: KeyId) -> Result<ApiKey, KeyError> {
        let change = KeyChange {
            deleted: Some(true),
            ..KeyChange::default()
        };
        self.update_key(by, id, &change).await
    }

    /// Soft-deletes a key. The reference calls it `delete`.
    pub async fn delete_key(&self, by: &Principal, id: KeyId) -> Result<(), KeyError> {
        self.soft_delete_key(by, id).await.map(drop)
    }

    /// Brings a soft-deleted key back, with the status that it had; not one whose secret was dropped, see
    /// [`KeyError::PepperDropped`].
    pub async fn restore_key(&self, by: &Principal, id: KeyId) -> Result<ApiKey, KeyError> {
        let change = KeyChange {
            deleted: Some(false),
            ..KeyChange::default()
        };
        self.update_key(by, id, &change).await
    }

    /// Notes a use that authentication did not see, at once unless somebody holds the key, and answers it.
    pub async fn record_key_usage(
        &self,
        access: Access,
        id: KeyId,
        used_at: Timestamp,
    ) -> Result<ApiKey, KeyError> {
        let mut key = self.key(access, id).await?;
        let used = [KeyUse {
            key_id: id,
            used_at,
        }];
        let passed_over = self.stores.usage.record(&used).await?;
        for id in passed_over {
            self.usage.note(id, used_at);
        }
        key.record_usage(used_at);
        Ok(key)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use leadr_auth_domain::{PepperId, Scopes};
    use leadr_auth_ports::MockKeyRepository;

    use super::*;
    use crate::testing::{Bench, rotated};

    #[tokio::test]
    async fn a_foreign_key_is_not_there() {
        let bench = Bench::new().await;
        let issued = bench.issue("Mine").await;
        let (id, service) = (issued.key.id, &bench.service);
        let stranger = Access::Account(AccountId::from_random_bytes([99; 16]));
        let mut other = Bench::all();
        other.access = stranger;
        assert!(service.find_key(stranger, id).await.unwrap().is_none());
        assert!(matches!(
            service.key(stranger, id).await,
            Err(KeyError::NotFound)
        ));
        assert!(matches!(
            service.revoke_key(&other, id).await,
            Err(KeyError::NotFound)
        ));
        assert!(matches!(
            service.delete_key(&other, id).await,
            Err(KeyError::NotFound)
        ));
        assert!(matches!(
            service.restore_key(&other, id).await,
            Err(KeyError::NotFound)
        ));
        let used = service
            .record_key_usage(stranger, id, Bench::later(1))
            .await;
        assert!(matches!(used, Err(KeyError::NotFound)));
        let own = bench.tenant.id;
        let listed = service.list_account_keys(stranger, own, false).await;
        assert!(matches!(listed, Err(KeyError::ForeignAccount(_))));
        let counted = service.count_active_keys(stranger, own).await;
        assert!(matches!(counted, Err(KeyError::ForeignAccount(_))));
        let untouched = service.key(Access::All, id).await.unwrap();
        assert_eq!(untouched.status, ApiKeyStatus::Active);
        assert_eq!(untouched.last_used_at, None);
    }

    #[tokio::test]
    async fn an_unknown_key_is_not_found_by_any_method() {
        let bench = Bench::new().await;
        let (id, service) = (KeyId::from_random_bytes([9; 16]), &bench.service);
        assert!(service.find_key(Access::All, id).await.unwrap().is_none());
        assert!(matches!(
            service.revoke_key(&Bench::all(), id).await,
            Err(KeyError::NotFound)
        ));
        assert!(matches!(
            service.soft_delete_key(&Bench::all(), id).await,
            Err(KeyError::NotFound)
        ));
        let status = service
            .set_key_status(&Bench::all(), id, ApiKeyStatus::Active)
            .await;
        assert!(matches!(status, Err(KeyError::NotFound)));
    }

    #[tokio::test]
    async fn soft_delete_answers_the_key_as_it_was_and_hides_it() {
        let bench = Bench::new().await;
        let issued = bench.issue("Gone soon").await;
        let (id, service) = (issued.key.id, &bench.service);
        bench.clock.set(Bench::later(5));
        let was = service.soft_delete_key(&Bench::all(), id).await.unwrap();
        assert_eq!(
            (was.deleted_at, was.updated_at),
            (None, issued.key.updated_at)
        );
        assert!(service.find_key(Access::All, id).await.unwrap().is_none());
        assert!(matches!(
            service.delete_key(&Bench::all(), id).await,
            Err(KeyError::NotFound)
        ));
        let back = service.restore_key(&Bench::all(), id).await.unwrap();
        assert_eq!((back.deleted_at, back.updated_at), (None, Bench::later(5)));
    }

    #[tokio::test]
    async fn a_key_that_could_never_be_used_is_not_restored() {
        let bench = Bench::new().await;
        let issued = bench.issue("Gone for good").await;
        let (id, service) = (issued.key.id, &bench.service);
        service.replace_keyring(rotated()).await.unwrap();
        for key in bench.all_keys().await {
            service.delete_key(&Bench::all(), key.id).await.unwrap();
        }
        service
            .drop_pepper(&Bench::operator(), &PepperId::default())
            .await
            .unwrap();
        let restored = service.restore_key(&Bench::all(), id).await;
        assert!(
            matches!(restored, Err(KeyError::PepperDropped)),
            "{restored:?}"
        );
        // Who does not reach the key is not told so much.
        let mut stranger = bench.tenant(Scopes::All);
        stranger.access = Access::Account(AccountId::from_random_bytes([99; 16]));
        let foreign = service.restore_key(&stranger, id).await;
        assert!(matches!(foreign, Err(KeyError::NotFound)), "{foreign:?}");
        assert!(service.find_key(Access::All, id).await.unwrap().is_none());
    }

    #[tokio::test]
    async fn lists_and_counts_by_account() {
        let bench = Bench::new().await;
        let service = &bench.service;
        for (second, name) in ["One", "Two", "Three"].iter().enumerate() {
            bench
                .clock
                .set(Bench::later(u32::try_from(second).unwrap()));
            bench.issue(name).await;
        }
        let own = Access::Account(bench.tenant.id);
        let all = service
            .list_account_keys(own, bench.tenant.id, false)
            .await
            .unwrap();
        let names: Vec<_> = all.iter().map(|key| key.name.as_str()).collect();
        assert_eq!(names, ["Three", "Two", "One"]);
        service.revoke_key(&Bench::all(), all[1].id).await.unwrap();
        let active = service
            .list_account_keys(own, bench.tenant.id, true)
            .await
            .unwrap();
        assert_eq!(active.len(), 2);
        assert_eq!(
            service
                .count_active_keys(own, bench.tenant.id)
                .await
                .unwrap(),
            2
        );
        let revoked = KeyFilter {
            status: Some(ApiKeyStatus::Revoked),
            ..KeyFilter::of(bench.tenant.id)
        };
        assert_eq!(service.list_keys(own, revoked).await.unwrap().len(), 1);
    }

    #[tokio::test]
    async fn recording_a_use_moves_it_forward_only() {
        let bench = Bench::new().await;
        let issued = bench.issue("Used").await;
        let (id, service) = (issued.key.id, &bench.service);
        let key = service
            .record_key_usage(Access::All, id, Bench::later(50))
            .await
            .unwrap();
        assert_eq!(key.last_used_at, Some(Bench::later(50)));
        let key = service
            .record_key_usage(Access::All, id, Bench::later(40))
            .await
            .unwrap();
        assert_eq!(key.last_used_at, Some(Bench::later(50)));
    }

    #[tokio::test]
    async fn a_rename_keeps_the_rest() {
        let bench = Bench::new().await;
        let issued = bench.issue("Before").await;
        let after = KeyName::parse("After").unwrap();
        let key = bench
            .service
            .rename_key(&Bench::all(), issued.key.id, after)
            .await
            .unwrap();
        assert_eq!(key.name.as_str(), "After");
        assert_eq!(key.key_prefix, issued.key.key_prefix);
    }

    #[tokio::test]
    async fn a_failing_store_is_an_error_of_its_own() {
        let mut bench = Bench::new().await;
        let mut keys = MockKeyRepository::new();
        keys.expect_get()
            .returning(|_, _| Err(StoreError::unavailable("away")));
        keys.expect_update()
            .returning(|_, _| Err(UpdateKeyError::Store(StoreError::unavailable("away"))));
        bench.service.stores.keys = Arc::new(keys);
        let id = KeyId::from_random_bytes([9; 16]);
        assert!(matches!(
            bench.service.key(Access::All, id).await,
            Err(KeyError::Store(_))
        ));
        assert!(matches!(
            bench.service.revoke_key(&Bench::all(), id).await,
            Err(KeyError::Store(_))
        ));
    }

    #[tokio::test]
    async fn nobody_gives_a_key_more_than_they_hold() {
        use leadr_auth_domain::{Scope, ScopeSet};
        let set = |scopes: &[&str]| {
            let scopes = scopes.iter().map(|text| Scope::parse(text).unwrap());
            Scopes::Only(ScopeSet::new(scopes).unwrap())
        };
        let give = |scopes: Scopes| KeyChange {
            scopes: Some(scopes),
            ..KeyChange::default()
        };
        let bench = Bench::new().await;
        let id = bench.issue("Wide").await.key.id;
        let narrow = bench.tenant(set(&["keys:write", "docs:read"]));
        let service = &bench.service;
        let wider = service
            .update_key(&narrow, id, &give(set(&["docs:read", "docs:write"])))
            .await;
        assert!(
            matches!(&wider, Err(KeyError::ScopeNotHeld(missing)) if missing.0 == "docs:write"),
            "{wider:?}"
        );
        let all = service.update_key(&narrow, id, &give(Scopes::All)).await;
        assert!(all.is_err(), "all is more than some");
        let kept = service.key(Access::All, id).await.unwrap();
        assert_eq!(kept.scopes, Scopes::All);
        let within = set(&["docs:read"]);
        let changed = service
            .update_key(&narrow, id, &give(within.clone()))
            .await
            .unwrap();
        assert_eq!(changed.scopes, within);
        let lifted = service
            .update_key(&Bench::all(), id, &give(Scopes::All))
            .await
            .unwrap();
        assert_eq!(lifted.scopes, Scopes::All);
    }

    /// Else a narrow key would have the rights of every wider one that was stopped.
    #[tokio::test]
    async fn nobody_brings_back_a_key_that_is_wider_than_their_own() {
        use leadr_auth_domain::{Scope, ScopeSet};
        let set = |scopes: &[&str]| {
            let scopes = scopes.iter().map(|text| Scope::parse(text).unwrap());
            Scopes::Only(ScopeSet::new(scopes).unwrap())
        };
        let bench = Bench::new().await;
        let service = &bench.service;
        let narrow = bench.tenant(set(&["keys:write", "docs:*"]));
        let give = |scopes: Scopes| KeyChange {
            scopes: Some(scopes),
            ..KeyChange::default()
        };
        let back = KeyChange {
            status: Some(ApiKeyStatus::Active),
            deleted: Some(false),
            ..KeyChange::default()
        };
        for (scopes, missing) in [
            (Scopes::All, Some("*")),
            (set(&["docs:read", "keys:read"]), Some("keys:read")),
            (set(&["docs:read"]), None),
            (set(&[]), None),
        ] {
            let id = bench.issue("Stopped").await.key.id;
            service
                .update_key(&Bench::all(), id, &give(scopes.clone()))
                .await
                .unwrap();
            let is_refused = |result: Result<ApiKey, KeyError>| match (result, missing) {
                (Ok(_), None) => {}
                (Err(KeyError::ScopeNotHeld(is)), Some(missing)) if is.0 == missing => {}
                (result, _) => panic!("{missing:?}: {result:?}"),
            };
            // Whoever it is may stop it, and give it another name.
            service.revoke_key(&narrow, id).await.unwrap();
            let name = KeyName::parse("Renamed").unwrap();
            service.rename_key(&narrow, id, name).await.unwrap();
            is_refused(service.reactivate_key(&narrow, id).await);
            let key = service.key(Access::All, id).await.unwrap();
            let stays = if missing.is_some() {
                ApiKeyStatus::Revoked
            } else {
                ApiKeyStatus::Active
            };
            assert_eq!((key.status, &key.scopes), (stays, &scopes));
            service.delete_key(&narrow, id).await.unwrap();
            is_refused(service.restore_key(&narrow, id).await);
            let restored = service.find_key(Access::All, id).await.unwrap();
            assert_eq!(restored.is_some(), missing.is_none());
            if missing.is_none() {
                service.delete_key(&narrow, id).await.unwrap();
            }
            is_refused(service.update_key(&narrow, id, &back).await);
            // With other scopes, which are its own, it is no longer a wider one.
            let narrowed = KeyChange {
                scopes: Some(set(&["docs:read"])),
                ..back.clone()
            };
            let restored = service.update_key(&narrow, id, &narrowed).await.unwrap();
            assert_eq!(restored.scopes, set(&["docs:read"]));
        }
    }
}
